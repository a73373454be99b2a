//! Servers that are set up otherwise, and who may ask them.

use valise_authority::{Authority, Files};
use valise_client::testing::{NatsPlan, common_configuration};

use crate::patience::PATIENCE;
use crate::tool::{Checked, answered, checking, servers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_by_which_frames_are_lost_or_seen_are_found() {
    // The second server syncs later, and all have an account that hears what is pushed.
    let spied = common_configuration()
        .replace(
            "users: [ { user: \"valise-relay\" } ]",
            "users: [ { user: \"valise-relay\" } ]\n    exports: [ { stream: \"live.>\" } ]",
        )
        .replace(
            "  RELAY {",
            "  SPY {\n    users: [ { user: \"spy\" } ]\n    imports: [ { stream: { account: RELAY, \
             subject: \"live.>\" } } ]\n  }\n  RELAY {",
        );
    assert!(spied.contains("SPY") && spied.contains("exports: [ { stream"), "{spied}");
    let lazy = spied.replace("sync_interval: always", "sync_interval: \"2m\"");
    let common = Some([spied.clone(), lazy, spied]);
    let Some(nats) = servers(NatsPlan { common, ..NatsPlan::default() }) else { return };
    let spy = async_nats::ConnectOptions::with_user_and_password("spy".into(), String::new());
    let spy = spy.name("spy").connect(nats.urls()).await.unwrap();
    let subscription = spy.subscribe("live.>").await.unwrap();
    spy.flush().await.unwrap();
    // Servers that have just started on a busy machine may leave a question without an answer: all is found
    // in one check, and nobody says in which.
    let wrong = [
        ("server_setting", "n1: sync_interval"),
        ("account_setting", "n0: exports"),
        ("account_setting", "n2: exports"),
        ("foreign_account", "SPY"),
        ("foreign_connection", "spy"),
        ("foreign_subscription", "live.>"),
        // No relay has ever been there.
        ("stream_missing", "streams"),
    ];
    let checked = crate::tool::until(&nats, "what is wrong is found", |checked| {
        wrong.iter().all(|(kind, subject)| checked.has(kind, subject))
    });
    assert!(!checked.has("server_setting", "n0"), "{checked:#?}");
    drop((subscription, spy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_is_known_by_his_certificate() {
    let authority = Authority::new().unwrap();
    let variables =
        authority.of_server(&authority.certificate(&["localhost", "127.0.0.1"]).unwrap());
    let plan = NatsPlan { deployed: true, variables, ..NatsPlan::default() };
    let Some(nats) = servers(plan) else { return };
    let ca = authority.ca();
    let with = |Files { certificate, key }: &Files| {
        let mut command = checking(&nats);
        command.arg("--operator-certificate").arg(certificate).arg("--operator-key").arg(key);
        Checked::of(&answered(command.arg("--ca").arg(&ca)))
    };
    let of = |name: &str| authority.certificate(&[name]).unwrap();
    let operator = of("valise-operator");
    let give_up = std::time::Instant::now() + PATIENCE;
    loop {
        let checked = with(&operator);
        let kinds: Vec<String> = checked.found().into_iter().map(|(kind, _)| kind).collect();
        // Only what a relay would make is missing.
        if kinds == ["stream_missing"] {
            break;
        }
        assert!(std::time::Instant::now() < give_up, "{checked:#?}");
    }
    let relay = with(&of("valise-relay"));
    assert_eq!(relay.code, 78, "{relay:#?}");
    assert!(relay.said.contains("is not an operator's"), "{}", relay.said);
    let stranger = with(&of("somebody"));
    assert_eq!(stranger.code, 77, "{stranger:#?}");
    let without = Checked::of(&answered(&mut checking(&nats)));
    assert_eq!(without.code, 78, "{without:#?}");
    assert!(without.said.contains("--ca"), "{}", without.said);
}
