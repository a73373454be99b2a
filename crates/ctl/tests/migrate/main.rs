//! A realm moves from a real supernode to a real data centre, with `valisectl` as operators run it, while
//! its users go on. Without a `nats-server` this says so and does nothing, unless `VALISE_NATS_REQUIRED` is
//! set.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(clippy::print_stderr)] // that something was not tested must be seen
#![allow(dead_code)] // of what is shared with the other tests of the tool

#[path = "../data_centre/patience.rs"]
mod patience;
#[path = "../data_centre/tool.rs"]
mod tool;

mod confined;
mod stage;
mod users;

use std::sync::Arc;
use std::time::Duration;

use valise_client::proto::Reason;
use valise_client::testing::NatsPlan;
use valise_client::{OwnerKeyPair, enroll};

use stage::Stage;
use users::{Poster, User};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_at_the_data_centre_and_served_there() {
    let Some(nats) = tool::servers(NatsPlan::default()) else { return };
    let stage = Stage::start(nats);
    let mut users = Vec::new();
    for number in 0..12 {
        users.push(User::join(&stage.supernode, number).await);
    }
    for user in &users {
        user.fill(&stage.supernode, 20).await;
    }
    stage.until_planned();

    let mut importer = stage.import();
    importer.until("everything has moved", |said| said["shards"]["moved"] == 256);
    for user in &mut users {
        user.finds_everything(&stage.node, 0..20).await;
        user.takes_what_is_left(&stage.node).await;
        user.joins_no_second_time(&stage.node).await;
    }
    // Whoever still posts at the supernode is passed on, and the data centre knows who may.
    let user = &mut users[0];
    let outcome = user.post_at(&stage.supernode, user.posting, 100).await;
    assert_eq!(outcome, Reason::Accepted);
    user.is_delivered(&stage.node, 100).await;
    assert_eq!(user.post_at(&stage.supernode, user.revoked, 101).await, Reason::TokenRevoked);
    user.post_together(&stage.supernode, 200..240).await;
    user.finds_everything(&stage.node, 200..240).await;
    // One that was busy may have been accepted all the same.
    let passed = 41..=41 + user.posted_again();
    importer.until("posts were passed on", |said| {
        said["posts_passed_on"].as_u64().is_some_and(|count| passed.contains(&count))
    });
    assert!(!stage.command("abort").status.success(), "there is no way back");
    // An invite that names the supernode leads in.
    let (owner, code) = (OwnerKeyPair::generate(), stage.supernode.invite_code().unwrap());
    let enrolled = enroll(&stage.supernode.dial(), &owner, Some(&code), 1, 1).await.unwrap();
    assert_eq!(enrolled.capabilities.len(), 1);

    // Nobody uses it any more.
    let finished = stage.command_of_key("finish");
    assert!(finished.status.success(), "{}", stage::said(&finished));
    let last = importer.end();
    assert_eq!(last["shards"]["gone"], 256, "{last}");
    user.post_at(&stage.node, user.posting, 102).await;
    user.is_delivered(&stage.node, 102).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_where_either_side_is_killed_in_the_middle() {
    let Some(nats) = tool::servers(NatsPlan::default()) else { return };
    let mut stage = Stage::start(nats);
    let mut users = Vec::new();
    for number in 0..8 {
        users.push(User::join(&stage.supernode, number).await);
    }
    for user in &users {
        user.fill(&stage.supernode, 60).await;
    }
    let dials = [stage.supernode.dial(), stage.node.dial()];
    let posters: Vec<_> = users.iter().map(|user| Poster::start(user, dials.clone(), 60)).collect();

    let mut importer = stage.import();
    for round in 0_u64..4 {
        tokio::time::sleep(Duration::from_millis(300 + 400 * round)).await;
        importer.kill();
        if round == 2 {
            stage.nats.kill(1).unwrap();
        }
        if round % 2 == 1 {
            stage.supernode.kill().unwrap();
            stage.supernode.restart().unwrap();
        }
        importer = stage.import();
    }
    stage.nats.restart(1).unwrap();
    stage.supernode.kill().unwrap();
    stage.supernode.restart().unwrap();
    importer.until("everything has moved", |said| said["shards"]["moved"] == 256);
    let mut posted = Vec::new();
    for poster in posters {
        posted.push(poster.stop().await);
    }
    assert!(posted.iter().all(|last| *last > 60), "they have posted: {posted:?}");
    for (user, last) in users.iter_mut().zip(posted) {
        user.finds_everything(&stage.node, 0..last).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_moves_into_one_data_centre() {
    let Some(nats) = tool::servers(NatsPlan::default()) else { return };
    let nats = Arc::new(nats);
    let stages = [Stage::on(Arc::clone(&nats)), Stage::on(nats)];
    let mut users = Vec::new();
    let mut posters = Vec::new();
    for stage in &stages {
        let user = User::join(&stage.supernode, 1).await;
        user.fill(&stage.supernode, 60).await;
        let dials = [stage.supernode.dial(), stage.node.dial()];
        posters.push(Poster::start(&user, dials, 60));
        users.push(user);
    }
    // Beside each other; one of them is given up on the way, and begun again.
    let mut importers = stages.each_ref().map(Stage::import);
    importers[1].kill();
    let given_up = stages[1].command("abort");
    let is_too_late = given_up.status.code() == Some(2);
    assert!(given_up.status.success() || is_too_late, "{}", stage::said(&given_up));
    importers[1] = stages[1].import();
    for importer in &mut importers {
        importer.until("everything has moved", |said| said["shards"]["moved"] == 256);
    }
    for ((stage, user), poster) in stages.iter().zip(&mut users).zip(posters) {
        let last = poster.stop().await;
        assert!(last > 60, "it has posted");
        user.finds_everything(&stage.node, 0..last).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_given_up_leaves_nothing_and_can_be_begun_again() {
    let Some(nats) = tool::servers(NatsPlan::default()) else { return };
    let stage = Stage::start(nats);
    let mut user = User::join(&stage.supernode, 1).await;
    user.fill(&stage.supernode, 30).await;
    // Clients are not led to where the record lists no node, so nothing is cut over.
    let copied = |said: &serde_json::Value| {
        let trouble = said["trouble"].as_str().unwrap_or_default();
        said["shards"]["copying"] == 256 && trouble.contains("--endpoints")
    };
    let mut importer = stage.import_to("127.0.0.1:9");
    importer.until("everything is copied", copied);
    // By the importer that runs, which ends.
    let given_up = stage.command("abort");
    assert!(given_up.status.success(), "{}", stage::said(&given_up));
    importer.end();
    let status = stage.status();
    assert_eq!(status["shards"]["waiting"], 256, "{status}");
    user.finds_everything(&stage.supernode, 0..30).await;
    user.fill_frames(&stage.supernode, 30, 70).await;

    // Without one.
    let mut importer = stage.import_to("127.0.0.1:9");
    importer.until("everything is copied again", copied);
    importer.kill();
    let given_up = stage.command("abort");
    assert!(given_up.status.success(), "{}", stage::said(&given_up));
    assert_eq!(stage.status()["shards"]["waiting"], 256);
    assert_eq!(user.post_at(&stage.node, user.posting, 99).await, Reason::Moved);

    let mut importer = stage.import_to("127.0.0.1:9");
    importer.until("everything is copied once more", copied);
    let paused = stage.command_of_key("pause");
    assert!(paused.status.success(), "{}", stage::said(&paused));
    importer.until("it is paused", |said| said["phase"] == "paused");
    importer.kill();
    let mut importer = stage.import();
    importer.until("everything has moved", |said| said["shards"]["moved"] == 256);
    let too_late = stage.command("abort");
    assert_eq!(too_late.status.code(), Some(2), "{}", stage::said(&too_late));
    user.finds_everything(&stage.node, 30..70).await;
}
