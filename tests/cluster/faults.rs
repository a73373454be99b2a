//! Servers and nodes that are killed under load: what was accepted is delivered.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use valise_proto::{Posted, Reason, ServerPacket};

use valise_client::testing::TestNats;

use crate::nats;
use crate::nodes::further_node;
use crate::relay::Relay;
use crate::wire::{Mine, Via, Wire, payload};

/// A relay on servers of its own.
async fn relay_on(nats: &TestNats) -> Relay {
    Relay::on_servers(tempfile::tempdir().unwrap(), &nats.section()).await
}

/// Posts one frame after the other from this id on, repeating each until it is accepted, until
/// `stop` says so; returns the ids that were accepted.
async fn post_until(
    wire: &mut Wire,
    mine: &Mine,
    first: u32,
    mut stop: impl FnMut(u32) -> bool,
) -> Vec<u32> {
    let mut accepted = Vec::new();
    let mut id = first;
    while !stop(id) {
        wire.say_post(id, &[mine.capability], payload(id as u8)).await;
        let posted = posted_in_time(wire).await;
        match posted.outcomes[..] {
            [Some(Reason::Accepted)] => {
                accepted.push(id);
                id += 1;
            }
            [Some(Reason::Busy | Reason::RateLimited)] => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            ref other => panic!("{other:?}"),
        }
    }
    accepted
}

/// A node asks the bus for 15 s what is revoked, and as long to store; each try takes 3 s.
async fn posted_in_time(wire: &mut Wire) -> Posted {
    match wire.receive_within(Duration::from_secs(40)).await {
        Some(ServerPacket::Posted(posted)) => posted,
        other => panic!("{other:?}"),
    }
}

/// Everything there is, acknowledged as it comes.
async fn drained(relay: &Relay, mine: &Mine) -> Vec<u32> {
    // Whoever attaches is told to come again until a leader is found.
    let give_up = Instant::now() + Duration::from_secs(40);
    loop {
        let mut owner = Wire::open(relay, Via::Raw).await;
        let attach = owner.make_attach(&mine.owner, &mine.member);
        owner.say(&valise_proto::ClientPacket::Attach(Box::new(attach))).await;
        match owner.receive_within(Duration::from_secs(40)).await {
            Some(ServerPacket::Attached { .. }) => return drain(&mut owner).await,
            other => assert!(Instant::now() < give_up, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// In order, each once, and all that was accepted.
fn check(delivered: &[u32], accepted: &[u32]) {
    let there: BTreeSet<_> = delivered.iter().collect();
    let lost: Vec<_> = accepted.iter().filter(|id| !there.contains(id)).collect();
    assert!(lost.is_empty(), "{} of {} accepted are lost: {lost:?}", lost.len(), accepted.len());
    assert_eq!(there.len(), delivered.len(), "some came twice");
    assert!(delivered.is_sorted(), "out of order: {delivered:?}");
}

async fn detached(relay: &Relay) -> Mine {
    let (mut owner, mine) = Wire::serve(relay, Via::Raw).await;
    let attachment = mine.attachment;
    owner.say(&valise_proto::ClientPacket::Detach { request: 900, attachment }).await;
    while !matches!(owner.receive().await, ServerPacket::Detached { .. }) {}
    mine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_takes_no_accepted_frame_with_it() {
    let Some(nats) = nats::start() else { return };
    let relay = relay_on(&nats).await;
    let mine = detached(&relay).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    let mut accepted = Vec::new();
    for victim in 0..3 {
        let before = accepted.len() as u32;
        accepted.extend(post_until(&mut sender, &mine, before, |id| id >= before + 10).await);
        nats.kill(victim).unwrap();
        // While two are left, and until another one leads; a mailbox holds a thousand.
        let (began, before) = (Instant::now(), accepted.len() as u32);
        let more = post_until(&mut sender, &mine, before, |id| {
            let most = if began.elapsed() < Duration::from_secs(3) { 300 } else { 10 };
            id >= before + most
        });
        accepted.extend(more.await);
        nats.restart(victim).unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    check(&drained(&relay, &mine).await, &accepted);
}

/// All three at once, as a power cut does to processes: what was accepted is on the disks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_survives_the_kill_of_all_servers() {
    let Some(nats) = nats::start() else { return };
    let relay = relay_on(&nats).await;
    let mine = detached(&relay).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    let accepted = post_until(&mut sender, &mine, 0, |id| id >= 200).await;
    (0..3).for_each(|i| nats.kill(i).unwrap());
    (0..3).for_each(|i| nats.restart(i).unwrap());
    check(&drained(&relay, &mine).await, &accepted);
}

async fn drain(owner: &mut Wire) -> Vec<u32> {
    let mut ids = Vec::new();
    loop {
        match owner.receive_within(Duration::from_secs(40)).await {
            Some(ServerPacket::Deliver(deliver)) => {
                let id = deliver.frame_id.as_bytes()[..4].try_into().unwrap();
                ids.push(u32::from_be_bytes(id));
                owner.ack(deliver.attachment, deliver.n).await;
            }
            Some(ServerPacket::CaughtUp { .. }) => return ids,
            other => panic!("{other:?}"),
        }
    }
}

/// A node as a process, so that it can be killed.
pub struct Process(Child);

impl Process {
    pub fn start(state: &std::path::Path, port: u16, nats: &TestNats) -> Self {
        Self::logging(state, port, nats, "off", Stdio::null())
    }

    fn logging(
        state: &std::path::Path,
        port: u16,
        nats: &TestNats,
        level: &str,
        to: Stdio,
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_valise"))
            .arg("--state-directory")
            .arg(state)
            .args(["--listen", &format!("127.0.0.1:{port}"), "--admin", "off"])
            .args(["--cluster", &nats.urls().join(",")])
            .args(["--log", level])
            .env("VALISE_CLUSTER_STREAM_MIB", "64")
            .stdout(Stdio::piped())
            .stderr(to)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.starts_with("valise://"), "{line}");
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_takes_no_accepted_frame_with_it() {
    let Some(nats) = nats::shared() else { return };
    let first = Relay::start().await;
    let (directory, port, _) = further_node(&first);
    let state = directory.path().join("state");
    let mut second = Some(Process::start(&state, port, &nats));
    let mine = detached(&first).await;
    let mut accepted = Vec::new();
    let mut next = 0;
    for _ in 0..3 {
        let socket = ([127, 0, 0, 1], port).into();
        let mut sender = Wire::connect_to(socket, first.realm(), Via::Raw).await;
        sender.say(&crate::wire::hello()).await;
        let count = next + 40;
        accepted.extend(post_until(&mut sender, &mine, next, |id| id >= count).await);
        // One more is under way when it dies: nobody knows what comes of it.
        sender.say_post(count, &[mine.capability], payload(0)).await;
        drop(second.take());
        next = count + 1;
        second = Some(Process::start(&state, port, &nats));
    }
    check(&drained(&first, &mine).await, &accepted);
}

/// The library that speaks to the bus would print every operation, payloads included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_logs_no_frame_and_no_mailbox_at_any_level() {
    let Some(nats) = nats::shared() else { return };
    let first = Relay::start().await;
    let (directory, port, _) = further_node(&first);
    let log = directory.path().join("log");
    let to = Stdio::from(std::fs::File::create(&log).unwrap());
    let state = directory.path().join("state");
    let node = Process::logging(&state, port, &nats, "trace", to);
    let address = ([127, 0, 0, 1], port).into();
    let mut owner = Wire::connect_to(address, first.realm(), Via::Raw).await;
    owner.say(&crate::wire::hello()).await;
    let mine = owner.join_and_attach(valise_client::OwnerKeyPair::generate()).await;
    let mut sender = Wire::open(&first, Via::Raw).await;
    sender.post(1, &[mine.capability], payload(b'Q')).await;
    owner.delivered().await;
    owner.ping().await;
    drop((owner, node));
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("INFO"), "it does log: {text}");
    let mailbox: String =
        mine.mailbox.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    for kept_out in ["QQQQ", mailbox.as_str()] {
        assert!(!text.contains(kept_out), "the log has {kept_out}");
    }
}

/// A stream that is nearly full takes no posts, and everything that drains it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_nearly_full_can_be_drained() {
    let Some(nats) = nats::start() else { return };
    let section = format!("{}[limits]\nposts_burst = 5000\n", nats.section());
    let relay = Relay::on_servers(tempfile::tempdir().unwrap(), &section).await;
    let mine = detached(&relay).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    // 64 MiB hold a little more than 1,000 of the largest frames; 85 % of it are 870.
    let large = || bytes::Bytes::from(vec![7; 64 * 1024]);
    let mut accepted = 0;
    let give_up = Instant::now() + Duration::from_secs(120);
    let refused = loop {
        assert!(accepted < 1_000, "the mailbox is full before the stream is");
        if accepted > 860 {
            // A node looks how full the streams are every five seconds.
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        sender.say_post(accepted, &[mine.capability], large()).await;
        match posted_in_time(&mut sender).await.outcomes[..] {
            [Some(Reason::Accepted)] => accepted += 1,
            // Busy for another reason, where the servers were slow for a moment.
            [Some(Reason::Busy)] if relay.metric("valise_bus_streams_full") == 0.0 => {
                assert!(Instant::now() < give_up, "it is always busy");
            }
            [other] => break other,
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused, Some(Reason::Busy));
    assert!(accepted > 850, "{accepted} only");
    // Whoever comes is served, and what is acknowledged makes room.
    assert_eq!(drained(&relay, &mine).await.len(), accepted as usize);
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        sender.say_post(2_000, &[mine.capability], payload(1)).await;
        if posted_in_time(&mut sender).await.outcomes == [Some(Reason::Accepted)] {
            break;
        }
        assert!(Instant::now() < give_up, "there is room again, and nobody looks");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
