//! Users of a realm that moves: what they have stored is found on the other side.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;
use valise_client::proto::{FrameId, PublicationId, PutId, Reason, SlotId, Token, TokenKind};
use valise_client::testing::TestRelay;
use valise_client::{
    Connection, Dial, Event, Incoming, OwnerKeyPair, Publication, RequestError, connect,
};

use crate::patience::{PATIENCE, Patience};

/// Somebody with a mailbox, a bundle and a slot.
pub(crate) struct User {
    number: u8,
    owner: OwnerKeyPair,
    member: Token,
    code: Token,
    pub(crate) posting: Token,
    pub(crate) revoked: Token,
    taking: Token,
    slotting: Token,
    /// Frames that were busy, once for each time that they were posted again.
    again: Mutex<Vec<u32>>,
}

fn payload(number: u8, n: u32) -> Bytes {
    let mut bytes = vec![number; 512];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    bytes.into()
}

fn frame_id(number: u8, n: u32) -> FrameId {
    let mut id = [number; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    FrameId::new(id)
}

fn n_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

impl User {
    pub(crate) async fn join(relay: &TestRelay, number: u8) -> Self {
        let (connection, _incoming) = connect(&relay.dial()).await.unwrap();
        let owner = OwnerKeyPair::generate();
        let code = relay.invite_code().unwrap();
        let member = connection.join(&owner, Some(&code)).await.unwrap();
        let attachment = connection.attach(&owner, &member).await.unwrap();
        let mut tokens = Vec::new();
        for kind in [TokenKind::Post, TokenKind::Post, TokenKind::Take, TokenKind::Slot] {
            tokens.extend(connection.issue(attachment, kind, 1, 30, 0).await.unwrap());
        }
        let [posting, revoked, taking, slotting] = tokens[..] else { panic!("four tokens") };
        connection.revoke(attachment, &revoked).await.unwrap();
        connection.close().await;
        let again = Mutex::default();
        Self { number, owner, member, code, posting, revoked, taking, slotting, again }
    }

    /// Frames 0 to `frames`, a bundle of which one item is taken, a slot.
    pub(crate) async fn fill(&self, relay: &TestRelay, frames: u32) {
        self.fill_frames(relay, 0, frames).await;
        let (connection, _incoming) = connect(&relay.dial()).await.unwrap();
        let attachment = connection.attach(&self.owner, &self.member).await.unwrap();
        let publication = Publication {
            replace: false,
            last_resort: Some(payload(self.number, 99)),
            items: (0..3).map(|n| payload(self.number, n)).collect(),
        };
        let id = PublicationId::new([self.number; 16]);
        connection.publish_bundle(attachment, id, publication).await.unwrap();
        let taken = connection.take_bundle(&self.taking).await.unwrap();
        assert_eq!(n_of(&taken.payload), 0);
        let slot = (SlotId::new([self.number; 32]), PutId::new([self.number; 16]));
        let put = connection.put_slot(&self.slotting, slot.0, slot.1, payload(self.number, 7));
        put.await.unwrap();
        connection.close().await;
    }

    pub(crate) async fn fill_frames(&self, relay: &TestRelay, from: u32, to: u32) {
        for n in from..to {
            assert_eq!(self.post_at(relay, self.posting, n).await, Reason::Accepted);
        }
    }

    /// These, without waiting for one before the next; those that are busy again.
    pub(crate) async fn post_together(&self, relay: &TestRelay, frames: Range<u32>) {
        let (connection, mut incoming) = connect(&relay.dial()).await.unwrap();
        let (mut left, mut patience): (Vec<u32>, _) = (frames.collect(), Patience::new());
        loop {
            for n in &left {
                let id = frame_id(self.number, *n);
                connection.post_later(id, &[self.posting], 0, payload(self.number, *n)).unwrap();
            }
            let mut busy = Vec::new();
            for _ in &left {
                let next = tokio::time::timeout(PATIENCE, incoming.next()).await.unwrap();
                let Event::Posted(posted) = next.expect("it stays connected") else {
                    panic!("it answers")
                };
                match posted.outcomes[..] {
                    [Some(Reason::Accepted)] => {}
                    [Some(Reason::Busy)] => busy.push(n_of(posted.frame_id.as_bytes())),
                    ref other => panic!("{other:?}"),
                }
            }
            if busy.is_empty() {
                break;
            }
            assert!(!patience.left(busy.len()).is_zero(), "they stay busy: {busy:?}");
            self.again.lock().unwrap().extend(&busy);
            left = busy;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        connection.close().await;
    }

    /// How often a post was said again.
    pub(crate) fn posted_again(&self) -> u64 {
        self.again.lock().unwrap().len() as u64
    }

    /// What is handed out of the bundle at last: the two items that are left, and the last resort.
    pub(crate) async fn takes_what_is_left(&self, relay: &TestRelay) {
        let (connection, _incoming) = connect(&relay.dial()).await.unwrap();
        let mut taken = Vec::new();
        for _ in 0..4 {
            let item = connection.take_bundle(&self.taking).await.unwrap();
            taken.push((n_of(&item.payload), item.last_resort));
        }
        assert_eq!(taken, [(1, false), (2, false), (99, true), (99, true)]);
        connection.close().await;
    }

    /// Somebody else comes with the code by which this one has joined.
    pub(crate) async fn joins_no_second_time(&self, relay: &TestRelay) {
        let (connection, _incoming) = connect(&relay.dial()).await.unwrap();
        let other = OwnerKeyPair::generate();
        let refused = connection.join(&other, Some(&self.code)).await.unwrap_err();
        let RequestError::Refused { reason, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(reason, Some(Reason::CodeSpent));
        connection.close().await;
    }

    pub(crate) async fn post_at(&self, relay: &TestRelay, token: Token, n: u32) -> Reason {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let (connection, _incoming) = connect(&relay.dial()).await.unwrap();
            let reason = post(&connection, self.number, token, n).await.unwrap();
            connection.close().await;
            if reason != Reason::Busy {
                return reason;
            }
            assert!(Instant::now() < give_up, "it stays busy");
            self.again.lock().unwrap().push(n);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// These frames, each once and in order; the slot, and what was revoked. One that was busy may have been
    /// stored after those that were not.
    pub(crate) async fn finds_everything(&mut self, relay: &TestRelay, frames: Range<u32>) {
        let (connection, mut incoming) = connect(&relay.dial()).await.unwrap();
        let (attachment, found) = self.read(&connection, &mut incoming).await;
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, frames.collect::<Vec<_>>(), "user {}", self.number);
        let again = self.again.lock().unwrap().clone();
        let in_order = found.iter().filter(|n| !again.contains(n)).is_sorted();
        assert!(in_order, "user {}: {found:?}, of which again {again:?}", self.number);
        let slots = connection.get_slots(&[SlotId::new([self.number; 32])]).await.unwrap();
        assert_eq!(slots, [Some(payload(self.number, 7))]);
        assert_eq!(self.post_at(relay, self.revoked, 9_999).await, Reason::TokenRevoked);
        connection.detach(attachment).await.unwrap();
        connection.close().await;
    }

    /// The one frame that waits.
    pub(crate) async fn is_delivered(&mut self, relay: &TestRelay, n: u32) {
        let (connection, mut incoming) = connect(&relay.dial()).await.unwrap();
        let (attachment, found) = self.read(&connection, &mut incoming).await;
        assert_eq!(found, [n]);
        connection.detach(attachment).await.unwrap();
        connection.close().await;
    }

    async fn read(&self, connection: &Connection, incoming: &mut Incoming) -> (u32, Vec<u32>) {
        let attachment = connection.attach(&self.owner, &self.member).await.unwrap();
        let mut found = Vec::new();
        loop {
            let next = tokio::time::timeout(PATIENCE, incoming.next()).await.unwrap();
            match next.expect("it stays connected") {
                Event::Deliver(deliver) => {
                    found.push(n_of(&deliver.payload));
                    connection.ack(attachment, deliver.n).unwrap();
                }
                Event::CaughtUp { .. } => return (attachment, found),
                _ => {}
            }
        }
    }
}

async fn post(
    connection: &Connection,
    number: u8,
    token: Token,
    n: u32,
) -> Result<Reason, RequestError> {
    let id = frame_id(number, n);
    let posted = connection.post(id, &[token], 0, payload(number, n)).await?;
    Ok(posted.outcomes[0].unwrap())
}

/// Posts one frame after the other, each until it is accepted, to whichever side takes it.
pub(crate) struct Poster {
    ends: Arc<AtomicBool>,
    posting: JoinHandle<u32>,
}

impl Poster {
    /// From this number on. It ends only with a frame that was accepted: of another one it is not known
    /// whether it is stored.
    pub(crate) fn start(user: &User, dials: [Dial; 2], from: u32) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (number, token, over) = (user.number, user.posting, Arc::clone(&ends));
        let posting = tokio::spawn(async move {
            let mut n = from;
            let mut connections = [None, None];
            let mut side = 0;
            let mut patience = Patience::new();
            // A mailbox holds a thousand.
            while n < 800 {
                let left = patience.left(n);
                assert!(!left.is_zero(), "user {number}: {n} is never accepted");
                if connections[side].is_none() {
                    connections[side] = connect(&dials[side]).await.ok();
                }
                let outcome = match &connections[side] {
                    Some((connection, _)) => post(connection, number, token, n).await.ok(),
                    None => None,
                };
                match outcome {
                    Some(Reason::Accepted) => {
                        n += 1;
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    Some(Reason::Busy) => {}
                    Some(Reason::Moved) => side = 1 - side,
                    Some(other) => panic!("user {number}: {n} is refused: {other}"),
                    // It is away; what became of the frame is not known.
                    None => connections[side] = None,
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            n
        });
        Self { ends, posting }
    }

    /// The number after the last one that was accepted.
    pub(crate) async fn stop(self) -> u32 {
        self.ends.store(true, Ordering::Relaxed);
        self.posting.await.unwrap()
    }
}
