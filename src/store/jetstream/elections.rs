//! Who waits for a stream's new leader is told of it. A leader that is gone leaves requests without
//! an answer, and the servers need seconds for an election: whoever then waited for the end of a
//! time limit would wait for nothing.

use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::BusError;
use super::subject::{STREAMS, number_of_stream, stream_number};
use crate::limits::BUS_PATIENCE_MS;

/// How many leaders each stream has had, as far as it was heard.
type Counts = [u32; STREAMS as usize];

/// What is heard. Dropped, nobody listens any more.
pub(super) struct Elections {
    counts: watch::Receiver<Counts>,
    listening: JoinHandle<()>,
}

/// The patience of whoever asks something of a stream's leader, and may ask it again.
pub(super) struct Patience {
    leader: NewLeader,
    until: Instant,
    wait: Duration,
}

const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Nobody waits for longer in one piece.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Waits for a new leader of one stream; without a stream, for ever.
struct NewLeader {
    stream: Option<usize>,
    counts: watch::Receiver<Counts>,
    seen: u32,
}

impl Elections {
    /// Where the servers tell of new leaders.
    pub(super) const SUBJECT: &str = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*";

    /// Listens to [`Self::SUBJECT`].
    pub(super) fn hear(advisories: Subscriber) -> Self {
        let (told, counts) = watch::channel([0; STREAMS as usize]);
        Self { counts, listening: tokio::spawn(listen(advisories, told)) }
    }

    /// The patience of whoever asks something of the stream that has this subject, or that this
    /// request names; it begins now.
    pub(super) fn wait_for(&self, what: &str) -> Patience {
        let until = Instant::now() + Duration::from_millis(BUS_PATIENCE_MS);
        Patience { leader: self.leader_of(what), until, wait: FIRST_WAIT }
    }

    fn leader_of(&self, what: &str) -> NewLeader {
        let stream = stream(what).map(usize::from);
        let mut counts = self.counts.clone();
        let seen = stream.map_or(0, |stream| counts.borrow_and_update()[stream]);
        NewLeader { stream, counts, seen }
    }
}

impl Patience {
    /// Tries once. None if it is to be tried again: after a while, or because there is a new leader.
    pub(super) async fn attempt<T>(
        &mut self,
        attempt: impl Future<Output = Result<T, BusError>>,
    ) -> Option<Result<T, BusError>> {
        tokio::select! {
            biased;
            outcome = attempt => match outcome {
                Err(error) if error.is_passing() && Instant::now() + self.wait < self.until => {}
                outcome => return Some(outcome),
            },
            // The one that was asked is not the leader any more, and may never answer.
            () = self.leader.elected() => return None,
        }
        tokio::select! {
            () = self.leader.elected() => {}
            () = tokio::time::sleep(self.wait) => self.wait = (self.wait * 2).min(LONGEST_WAIT),
        }
        None
    }
}

impl Drop for Elections {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl NewLeader {
    /// Until there is one. Cancel-safe.
    async fn elected(&mut self) {
        let (Some(stream), seen) = (self.stream, self.seen) else {
            return std::future::pending().await;
        };
        let told = self.counts.wait_for(|counts| counts[stream] != seen).await;
        match told.map(|counts| counts[stream]).ok() {
            Some(count) => self.seen = count,
            // Nobody tells any more: time limits are all there is.
            None => std::future::pending().await,
        }
    }
}

async fn listen(mut advisories: Subscriber, told: watch::Sender<Counts>) {
    while let Some(advisory) = advisories.next().await {
        let Some(name) = advisory.subject.rsplit('.').next() else { continue };
        let said: Value = serde_json::from_slice(&advisory.payload).unwrap_or_default();
        // A stream that has lost its leader says so with an empty name.
        let has_leader = said["leader"].as_str().is_some_and(|leader| !leader.is_empty());
        if let (Some(stream), true) = (number_of_stream(name), has_leader) {
            told.send_modify(|counts| counts[usize::from(stream)] += 1);
        }
    }
}

/// The stream of a stored subject, `m.<realm>.<v>.`, or of a request, which ends with its name. The
/// leader of a stream that is being made is not the one that was asked to make it.
fn stream(what: &str) -> Option<u8> {
    let mut tokens = what.split('.');
    match tokens.next()? {
        _ if what.starts_with("STREAM.CREATE.") => None,
        "m" => Some(stream_number(u8::from_str_radix(tokens.nth(1)?, 16).ok()?)),
        _ => number_of_stream(tokens.next_back()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_tells_the_stream() {
        // Eight shards in a stream.
        assert_eq!(stream("m.0909.13.abcd.f"), Some(2));
        assert_eq!(stream("STREAM.MSG.GET.MB_1_31"), Some(31));
        assert_eq!(stream("STREAM.LIST"), None);
        assert_eq!(stream("STREAM.CREATE.MB_1_31"), None);
        assert_eq!(stream("dir.0909"), None);
        assert_eq!(stream("m.0909"), None);
    }

    #[tokio::test]
    async fn who_waits_for_a_stream_is_told_of_that_one() {
        let (told, counts) = watch::channel([0; STREAMS as usize]);
        let elections = Elections { counts, listening: tokio::spawn(async {}) };
        let mut leader = elections.leader_of("m.0909.13.abcd.f");
        told.send_modify(|counts| counts[3] += 1);
        assert!(futures_util::poll!(std::pin::pin!(leader.elected())).is_pending());
        told.send_modify(|counts| counts[2] += 1);
        leader.elected().await;
        // Once is once.
        assert!(futures_util::poll!(std::pin::pin!(leader.elected())).is_pending());
    }
}
