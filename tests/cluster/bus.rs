//! What a node counts of its bus: each count moves when that happens, and not before.

use std::time::{Duration, Instant};

use valise_proto::{ClientPacket, Reason, ServerPacket};

use crate::nats;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload};

async fn detach(owner: &mut Wire, attachment: u32) {
    owner.say(&ClientPacket::Detach { request: 900, attachment }).await;
    while !matches!(owner.receive().await, ServerPacket::Detached { .. }) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_on_the_bus_is_counted() {
    let Some(nats) = nats::start() else { return };
    // Connected to the one that stays: a connection that is lost is another count.
    let section = format!("[cluster]\nservers = {:?}\nstream_mib = 64\n", &nats.urls()[2..]);
    let relay = Relay::on_servers(tempfile::tempdir().unwrap(), &section).await;
    relay.until("valise_bus_connected", |connected| connected > 0.0).await;
    relay.until("valise_bus_gaps_total", |gaps| gaps > 0.0).await;
    for name in ["claims_total", "purges_total", "streams_full"] {
        assert_eq!(relay.metric(&format!("valise_bus_{name}")), 0.0, "{name}");
    }
    let (mut owner, mine) = Wire::serve(&relay, Via::Raw).await;
    relay.until("valise_bus_claims_total", |claims| claims > 0.0).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    sender.post(1, &[mine.capability], payload(1)).await;
    let delivered = owner.delivered().await;
    owner.ack(mine.attachment, delivered.n).await;
    detach(&mut owner, mine.attachment).await;
    relay.until("valise_bus_purges_total", |purges| purges > 0.0).await;

    // A replica that is asked right after a claim may not have it yet: some in a hundred.
    let give_up = Instant::now() + Duration::from_secs(60);
    while relay.metric("valise_bus_stale_reads_total") == 0.0 {
        assert!(Instant::now() < give_up, "no replica was ever behind");
        let (attachment, _) = owner.attach_and_catch_up(&mine.owner, &mine.member).await;
        detach(&mut owner, attachment).await;
    }

    // Nobody can store anything: it is tried again, and given up. A slow start has done so as well.
    let repeated = relay.metric("valise_bus_publications_repeated_total");
    nats.kill(0).unwrap();
    nats.kill(1).unwrap();
    let give_up = Instant::now() + Duration::from_secs(60);
    while relay.metric("valise_bus_publications_given_up_total") == 0.0 {
        assert!(Instant::now() < give_up, "nothing was given up");
        sender.say_post(2, &[mine.capability], payload(2)).await;
        let answer = sender.receive_within(Duration::from_secs(30)).await;
        let Some(ServerPacket::Posted(posted)) = answer else { panic!("{answer:?}") };
        assert_eq!(posted.outcomes, [Some(Reason::Busy)]);
    }
    assert!(relay.metric("valise_bus_publications_repeated_total") > repeated);
    nats.kill(2).unwrap();
    relay.until("valise_bus_connected", |connected| connected == 0.0).await;
}
