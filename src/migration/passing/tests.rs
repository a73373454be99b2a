use tokio::sync::mpsc::{Receiver, channel};
use valise_proto::{FrameId, MailboxId, PacketPayload, Posted, ServerPacket};

use super::*;
use crate::doorbell::Doorbell;
use crate::payload::Payload;
use crate::receipt::Receipt;
use crate::store::{RunningHours, Seq};

fn frame(number: u8, bytes: usize) -> Frame {
    Frame {
        mailbox: MailboxId::new([number; 16]),
        seq: Seq(0),
        frame_id: FrameId::new([number; 16]),
        accepted: RunningHours(0),
        ttl_hours: 24,
        payload: Payload::from_packet(vec![number; bytes].into()),
    }
}

/// Whoever posts.
#[derive(Default)]
struct Sender(Arc<Doorbell>);

impl Sender {
    fn passes(&self, passing: &Passing, number: u8, now: Instant) {
        self.passes_bytes(passing, number, 512, now);
    }

    fn passes_bytes(&self, passing: &Passing, number: u8, bytes: usize, now: Instant) {
        let frame = frame(number, bytes);
        let receipt = Receipt::new(number.into(), frame.frame_id, 1, Arc::clone(&self.0));
        let waiter = Waiter::new(Arc::new(receipt), 0);
        passing.pass(number, [number; 8], &frame, now, waiter);
    }

    /// Each post that was answered since, and what was said of it.
    fn told(&self) -> Vec<(u32, Reason)> {
        let cx = std::task::Context::from_waker(std::task::Waker::noop());
        let left = self.0.take(&cx, true).map(|left| left.answers).unwrap_or_default();
        let told = left.into_iter().map(|answer| match answer {
            ServerPacket::Posted(Posted { request, outcomes, .. }) => {
                (request, outcomes[0].expect("it is decided"))
            }
            other => panic!("{}", other.name()),
        });
        told.collect()
    }
}

fn passing() -> Arc<Passing> {
    Arc::new(Passing::new(Metrics::new()))
}

fn came(from: &mut Receiver<Outgoing>) -> (u64, wire::Passing) {
    match from.try_recv().expect("something was passed").message {
        FromSupernode::Pass(number, passed) => (number, passed),
        FromSupernode::Answer(..) => panic!("nothing was asked"),
    }
}

#[test]
fn a_post_comes_as_the_store_writes_it_and_its_sender_is_told() {
    let (passing, sender, now) = (passing(), Sender::default(), Instant::now());
    let (to, mut from) = channel(PASSING_MAX);
    let importer = passing.connected(to);
    for number in 1..=3 {
        sender.passes(&passing, number, now);
    }
    let posts = [1, 2, 3].map(|number| {
        let (post, passed) = came(&mut from);
        assert_eq!((passed.shard, passed.mailbox), (number, [number; 16]), "in their order");
        assert_eq!(passed.serial, [number; 8]);
        assert_eq!(passed.record, Carried::Frame(frame(number, 512)).encode());
        post
    });
    assert_eq!((passing.waiting(), sender.told()), (3, vec![]));
    importer.passed(posts[1], Reason::Accepted.number());
    importer.passed(posts[0], Reason::TokenRevoked.number());
    importer.passed(posts[2], 99);
    let expected = [(2, Reason::Accepted), (1, Reason::TokenRevoked), (3, Reason::Busy)];
    assert_eq!(sender.told(), expected);
    // What is said twice, or of nothing, is nothing.
    importer.passed(posts[1], Reason::Busy.number());
    importer.passed(1_000, Reason::Accepted.number());
    assert_eq!((passing.waiting(), sender.told()), (0, vec![]));
    assert!(passing.state().due.is_empty(), "nothing is left of them");
}

#[test]
fn without_an_importer_it_is_served_elsewhere() {
    let (passing, sender, now) = (passing(), Sender::default(), Instant::now());
    sender.passes(&passing, 1, now);
    let (to, from) = channel(PASSING_MAX);
    drop((passing.connected(to), from));
    sender.passes(&passing, 2, now);
    assert_eq!(sender.told(), [(1, Reason::Moved), (2, Reason::Moved)]);
}

#[test]
fn without_an_answer_it_is_busy() {
    let (passing, sender, now) = (passing(), Sender::default(), Instant::now());
    let (to, mut from) = channel(PASSING_MAX);
    let importer = passing.connected(to);
    sender.passes(&passing, 1, now);
    sender.passes(&passing, 2, now + Duration::from_secs(5));
    passing.overdue(now + PATIENCE - Duration::from_millis(1));
    assert_eq!(sender.told(), []);
    passing.overdue(now + PATIENCE);
    assert_eq!(sender.told(), [(1, Reason::Busy)]);
    // Too late: the sender was told otherwise.
    importer.passed(came(&mut from).0, Reason::Accepted.number());
    importer.passed(came(&mut from).0, Reason::Accepted.number());
    assert_eq!(sender.told(), [(2, Reason::Accepted)]);
}

#[test]
fn what_is_under_way_is_busy_when_the_connection_ends_or_another_comes() {
    let (passing, sender, now) = (passing(), Sender::default(), Instant::now());
    let (to, mut first) = channel(PASSING_MAX);
    let one = passing.connected(to);
    sender.passes(&passing, 1, now);
    let (to, mut second) = channel(PASSING_MAX);
    let two = passing.connected(to);
    assert_eq!(sender.told(), [(1, Reason::Busy)]);
    sender.passes(&passing, 2, now);
    let (post, _) = came(&mut second);
    // The first one's answers are about its own.
    one.passed(post, Reason::Accepted.number());
    drop(one);
    assert_eq!((passing.waiting(), sender.told()), (1, vec![]));
    assert_eq!(came(&mut first).1.shard, 1);
    drop(two);
    assert_eq!(sender.told(), [(2, Reason::Busy)]);
}

/// Neither an importer that does not read, nor one that does not answer, holds more than it may.
#[test]
fn what_is_under_way_is_bounded() {
    let (passing, sender, now) = (passing(), Sender::default(), Instant::now());
    let (to, mut from) = channel(PASSING_MAX);
    let importer = passing.connected(to);
    let most = PASSING_BYTES_MAX / 65_536;
    for _ in 0..most {
        sender.passes_bytes(&passing, 1, 65_536, now);
    }
    sender.passes_bytes(&passing, 2, 512, now);
    assert_eq!(sender.told(), [(2, Reason::Busy)]);
    // Answered and not read, or read and not answered: its room is taken still.
    importer.passed(1, Reason::Accepted.number());
    sender.passes_bytes(&passing, 3, 512, now);
    assert_eq!(sender.told(), [(1, Reason::Accepted), (3, Reason::Busy)]);
    drop((came(&mut from), came(&mut from)));
    sender.passes_bytes(&passing, 4, 65_536, now);
    sender.passes_bytes(&passing, 5, 512, now);
    assert_eq!(sender.told(), [(5, Reason::Busy)]);
    passing.overdue(now + PATIENCE);
    assert_eq!(sender.told().len(), most, "all of the others, and the fourth");
    while from.try_recv().is_ok() {}
    sender.passes_bytes(&passing, 6, 512, now);
    assert_eq!(passing.waiting(), 1);
}
