//! One client's receiving side: what its application would show, after the client library's own
//! `Inbox`, and the checker's log of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use valise_client::{Envelope, Inbox};

use crate::checker::{ShownLane, Strays};
use crate::cli::Kind;
use crate::header::{self, EVERY_RECIPIENT, Header, HeaderError};
use crate::run::{Run, Totals};

/// What one client receives.
pub(crate) struct Receiver {
    run: Arc<Run>,
    /// The client.
    number: usize,
    inbox: Inbox,
    /// In the order of their conversations.
    lanes: Vec<Arriving>,
    strays: Strays,
    /// What comes now waited for us while we were away on purpose.
    is_catching_up: bool,
}

struct Arriving {
    conversation: u32,
    sender: u32,
    lane: usize,
    shown: ShownLane,
}

impl Receiver {
    /// `lanes` are those that lead to this client, as (conversation, sender, lane), ascending.
    pub(crate) fn new(
        run: Arc<Run>,
        number: usize,
        lanes: impl IntoIterator<Item = (u32, u32, usize)>,
    ) -> Self {
        let lanes = lanes.into_iter().map(|(conversation, sender, lane)| Arriving {
            conversation,
            sender,
            lane,
            shown: ShownLane::default(),
        });
        let lanes = lanes.collect();
        Self {
            run,
            number,
            inbox: Inbox::default(),
            lanes,
            strays: Strays::default(),
            is_catching_up: false,
        }
    }

    /// Whether what comes now has waited for us, so that its latency says nothing of the relay.
    pub(crate) fn catch_up(&mut self, is_catching_up: bool) {
        self.is_catching_up = is_catching_up;
    }

    /// A frame or signal was delivered.
    pub(crate) fn receive(&mut self, payload: &Bytes) {
        let Ok(envelope) = Envelope::decode(payload) else {
            self.strays.corrupt += 1;
            return;
        };
        for (counter, message) in (envelope.first_counter..).zip(&envelope.messages) {
            match self.run.stamp.read(message) {
                Err(HeaderError::Corrupt) => self.strays.corrupt += 1,
                Err(HeaderError::Foreign) => self.strays.phantom += 1,
                Ok(header)
                    if header.counter != counter
                        || envelope.stream != header::stream(header.conversation) =>
                {
                    self.strays.corrupt += 1;
                }
                Ok(header) => self.arrive(&header),
            }
        }
    }

    fn arrive(&mut self, header: &Header) {
        let place = self.lanes.binary_search_by_key(&header.conversation, |lane| lane.conversation);
        let for_us =
            header.recipient == EVERY_RECIPIENT || header.recipient as usize == self.number;
        let lane = place.ok().map(|place| &mut self.lanes[place]);
        let Some(lane) = lane.filter(|lane| lane.sender == header.sender && for_us) else {
            self.strays.phantom += 1;
            return;
        };
        let received = self.inbox.receive(header::stream(header.conversation), header.counter, 1);
        if received.fresh.is_empty() {
            lane.shown.dropped(header.counter);
            return;
        }
        lane.shown.show(header.counter);
        Totals::add(&self.run.totals.shown, 1);
        self.run.pauses.shown(lane.lane, self.run.now_ns());
        if self.run.times_deliveries && !self.is_catching_up {
            let latency_ns = self.run.now_ns().saturating_sub(header.intended_ns);
            self.run.delivered_latency.record(self.number, latency_ns);
        }
        if self.run.kind == Kind::Signal {
            self.run.seen[lane.lane].store(header.counter, Ordering::Relaxed);
            self.run.due[header.sender as usize].notify_one();
        }
    }

    /// What the checker needs, by lane.
    pub(crate) fn into_log(self) -> (Vec<(usize, ShownLane)>, Strays) {
        (self.lanes.into_iter().map(|lane| (lane.lane, lane.shown)).collect(), self.strays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{Lane, SentLane, Verdict};

    fn run() -> Arc<Run> {
        Arc::new(Run::new(Kind::Post, 512, 1, 2, u64::MAX, true))
    }

    fn payload(run: &Run, header: Header) -> Bytes {
        let messages = vec![run.stamp.message(&header)];
        let stream = header::stream(header.conversation);
        Envelope { stream, first_counter: header.counter, messages }.encode().unwrap()
    }

    fn frame(counter: u64) -> Header {
        Header { sender: 0, recipient: 1, conversation: 3, counter, intended_ns: 0 }
    }

    /// The judgement when frames 1 to 3 were accepted and these payloads were delivered.
    fn judge(run: &Arc<Run>, delivered: &[Bytes]) -> Verdict {
        let mut receiver = Receiver::new(run.clone(), 1, [(3, 0, 0)]);
        delivered.iter().for_each(|payload| receiver.receive(payload));
        let (mut lanes, strays) = receiver.into_log();
        let mut sent = SentLane::default();
        for _ in 0..3 {
            let counter = sent.invoke();
            sent.accept(counter);
        }
        Verdict::of(&[Lane { sent, shown: lanes.remove(0).1 }], strays)
    }

    #[test]
    fn what_arrives_in_order_is_shown_and_copies_are_dropped() {
        let run = run();
        let delivered: Vec<Bytes> =
            [1, 2, 2, 1, 3].map(|counter| payload(&run, frame(counter))).into();
        let verdict = judge(&run, &delivered);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.shown, verdict.redelivered), (3, 2));
        assert_eq!(run.delivered_latency.percentiles().count, 3);
    }

    #[test]
    fn an_overtaken_frame_is_seen() {
        let run = run();
        let verdict = judge(&run, &[1, 3, 2].map(|counter| payload(&run, frame(counter))));
        assert_eq!((verdict.reordered, verdict.lost, verdict.redelivered), (1, 0, 0));
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let run = run();
        for at in [0, 20, 40, 200] {
            let mut changed = payload(&run, frame(3)).to_vec();
            changed[at] ^= 1;
            let verdict =
                judge(&run, &[payload(&run, frame(1)), payload(&run, frame(2)), changed.into()]);
            assert_eq!((verdict.corrupt, verdict.lost, verdict.phantom), (1, 1, 0), "byte {at}");
        }
    }

    #[test]
    fn a_frame_that_was_never_for_us_is_seen() {
        let run = run();
        let another = self::run();
        let delivered = [
            payload(&run, frame(1)),
            payload(&run, frame(2)),
            payload(&run, frame(3)),
            payload(&run, Header { recipient: 0, ..frame(4) }),
            payload(&run, Header { sender: 1, ..frame(4) }),
            payload(&run, Header { conversation: 4, ..frame(4) }),
            payload(&another, frame(4)),
        ];
        let verdict = judge(&run, &delivered);
        assert_eq!((verdict.phantom, verdict.lost, verdict.corrupt), (4, 0, 0));
    }
}
