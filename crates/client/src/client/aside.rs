//! A second connection, to another place of the realm: held for a move that is prepared, and for
//! what is refused `moved` where the client is. A realm in the middle of its move serves some of its
//! mailboxes here, and some there.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use valise_proto::{MovePhase, Reason, RelayAddress};

use super::actor::Actor;
use super::serving::Serving;
use crate::limits::{ASIDE_IDLE, ATTACHING_BYTES_MAX, HOLD_WAIT};
use crate::trial::{Reached, Trial, reach};
use crate::{Backoff, Connection, Event, Posting, random};

/// The second connection, or the reason why there is none yet.
pub(super) struct Aside {
    stage: Stage,
    /// Requests of posts over it, and the outbox's numbers for them.
    posts: HashMap<u32, u64>,
    /// Posts that wait for it.
    waiting: Vec<Posting>,
    /// A move has been announced: until then it is kept, and opened again, without a use.
    held_until: Option<Instant>,
    /// Where the announced move leads to, in order of preference.
    announced: Vec<RelayAddress>,
    used: Instant,
    /// Tries that failed, and connections that ended, since an answer came.
    failures: u32,
    retry_at: Instant,
}

enum Stage {
    Closed,
    Opening(BoxFuture<'static, Trial>),
    Open(Box<Reached>),
    /// As open, but it serves nothing of what is asked: it ends when it owes no answer any more.
    Useless(Box<Reached>),
}

/// What has become of it.
pub(super) enum News {
    /// It is time to open it.
    Due,
    Opened(Trial),
    Said(Event),
    Idle,
}

impl Aside {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            stage: Stage::Closed,
            posts: HashMap::new(),
            waiting: Vec::new(),
            held_until: None,
            announced: Vec::new(),
            used: now,
            failures: 0,
            retry_at: now,
        }
    }

    /// What happens next; nothing, while it is neither open nor wanted. Cancel-safe.
    pub(super) async fn news(&mut self, is_lent: bool) -> News {
        let held = self.held_until.filter(|until| *until > Instant::now());
        let idle_at = (self.used + ASIDE_IDLE).max(held.unwrap_or(self.used));
        match &mut self.stage {
            Stage::Closed if is_lent || held.is_some() || !self.waiting.is_empty() => {
                sleep_until(self.retry_at).await;
                News::Due
            }
            Stage::Closed => std::future::pending().await,
            Stage::Opening(opening) => News::Opened(opening.await),
            Stage::Useless(_) if self.posts.is_empty() => News::Idle,
            Stage::Open(reached) | Stage::Useless(reached) => tokio::select! {
                event = reached.incoming.next() => event.map_or(News::Idle, News::Said),
                () = sleep_until(idle_at), if !is_lent && self.posts.is_empty() => News::Idle,
            },
        }
    }

    /// The connection, if one of these places was meant, with the posts whose outcome it owes.
    pub(super) fn take(&mut self, places: &[RelayAddress]) -> Option<(Reached, HashMap<u32, u64>)> {
        let Stage::Open(reached) = &self.stage else { return None };
        if !places.contains(&reached.at) {
            return None;
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Closed);
        let Stage::Open(reached) = stage else { return None };
        (self.held_until, self.announced) = (None, Vec::new());
        Some((*reached, std::mem::take(&mut self.posts)))
    }

    /// A connection to one of these is kept until a move leads there.
    pub(super) fn hold(&mut self, places: Vec<RelayAddress>) {
        self.held_until = Some(Instant::now() + HOLD_WAIT);
        self.announced = places;
    }

    /// Whether it is this connection.
    pub(super) fn is(&self, connection: &Connection) -> bool {
        matches!(&self.stage, Stage::Open(reached) if reached.connection.is(connection))
    }

    /// What is asked is not served there either.
    fn turn_away(&mut self) -> Option<RelayAddress> {
        let is_held = self.held_until.is_some_and(|until| until > Instant::now());
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            // The move that is prepared leads there, and goes on.
            Stage::Open(reached) if is_held => {
                self.stage = Stage::Open(reached);
                None
            }
            Stage::Open(reached) => {
                let at = reached.at.clone();
                self.stage = Stage::Useless(reached);
                Some(at)
            }
            other => {
                self.stage = other;
                None
            }
        }
    }

    fn failed(&mut self) {
        if let Stage::Open(reached) = &self.stage
            && reached.connection.was_answered()
        {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        // What waits for it is asked here meanwhile, and may be turned away here again.
        let is_held = self.held_until.is_some_and(|until| until > Instant::now());
        let backoff = if is_held { Backoff::RECONNECT } else { Backoff::RETRY };
        self.retry_at = Instant::now() + backoff.wait(self.failures, random::fraction());
    }
}

impl Actor {
    /// The second connection has said something, or is to be opened.
    pub(super) fn aside(&mut self, serving: &mut Serving, news: News) {
        match news {
            News::Due => self.open_aside(serving),
            News::Opened(trial) => self.aside_opened(serving, trial),
            News::Idle => self.end_aside(serving),
            News::Said(Event::Posted(posted)) => {
                serving.aside.failures = 0;
                let number = serving.aside.posts.remove(&posted.request);
                if posted.outcomes.contains(&Some(Reason::Moved)) {
                    self.aside_is_useless(serving);
                }
                self.posted(number, &posted);
            }
            News::Said(Event::Refused(refused)) => {
                let number = serving.aside.posts.remove(&refused.request);
                if refused.reason == Some(Reason::Moved) {
                    self.aside_is_useless(serving);
                }
                self.refused(number, &refused);
            }
            News::Said(Event::Closed(_)) => {
                serving.aside.failed();
                self.end_aside(serving);
            }
            News::Said(Event::Move(moved)) if moved.phase == Some(MovePhase::Go) => {
                self.aside_has_moved(serving);
            }
            // Nothing is attached there.
            News::Said(_) => {}
        }
    }

    fn open_aside(&mut self, serving: &mut Serving) {
        let mut places = serving.aside.announced.clone();
        let others = self.places.others(&serving.at);
        places.extend(others.into_iter().filter(|place| !serving.aside.announced.contains(place)));
        if places.is_empty() {
            return self
                .aside_failed(serving, "its realm's record lists no other place".to_owned());
        }
        let mut dial = self.dial.clone();
        dial.member_token = self.member_token();
        // A move may attach there.
        dial.incoming_bytes_max = dial.incoming_bytes_max.max(ATTACHING_BYTES_MAX);
        serving.aside.stage = Stage::Opening(reach(dial, places).boxed());
    }

    fn aside_opened(&mut self, serving: &mut Serving, trial: Trial) {
        serving.aside.stage = Stage::Closed;
        let learnt = trial.learn(&self.given, &mut self.places);
        self.tell();
        match learnt {
            Err(error) => self.aside_failed(serving, error.to_string()),
            Ok(reached) => {
                self.shared.state().aside = Some(reached.connection.clone());
                self.shared.changed.notify_waiters();
                serving.aside.used = Instant::now();
                serving.aside.stage = Stage::Open(Box::new(reached));
                for posting in std::mem::take(&mut serving.aside.waiting) {
                    self.post_there(serving, posting);
                }
            }
        }
    }

    /// What was to be asked there is asked here again, after a pause.
    fn aside_failed(&mut self, serving: &mut Serving, why: String) {
        serving.aside.failed();
        {
            let mut state = self.shared.state();
            let now = std::time::Instant::now();
            for posting in std::mem::take(&mut serving.aside.waiting) {
                let moved = Some(Reason::Moved);
                state.outbox.refuse(now, posting.number, moved, Duration::ZERO);
            }
            state.aside_failures += 1;
            state.aside_until = serving.aside.retry_at;
            state.aside_why = why;
        }
        self.shared.changed.notify_waiters();
    }

    /// Posts over the second connection, or once there is one.
    pub(super) fn post_there(&self, serving: &mut Serving, posting: Posting) {
        let aside = &mut serving.aside;
        aside.used = Instant::now();
        let Stage::Open(reached) = &aside.stage else { return aside.waiting.push(posting) };
        let Posting { number, frame_id, capabilities, payload, .. } = &posting;
        match reached.connection.post_later(*frame_id, &capabilities[..], 0, payload.clone()) {
            Ok(request) => drop(aside.posts.insert(request, *number)),
            // No room, or it has ended; its last event says so.
            Err(_) => {
                let now = std::time::Instant::now();
                let busy = Some(Reason::Busy);
                self.shared.state().outbox.refuse(now, *number, busy, Duration::ZERO);
            }
        }
    }

    /// Another place is asked the next time.
    pub(super) fn aside_is_useless(&mut self, serving: &mut Serving) {
        if let Some(at) = serving.aside.turn_away() {
            self.places.said_moved(&at);
            self.shared.state().aside = None;
        }
    }

    /// It serves nothing any more, but may go on taking posts and pass them on. What is posted there
    /// is posted here from now on: it would be used for ever otherwise. One that a move leads to is
    /// told to go for reasons of its own.
    fn aside_has_moved(&mut self, serving: &mut Serving) {
        if serving.aside.held_until.is_none_or(|until| until <= Instant::now()) {
            self.shared.state().outbox.rebase();
            self.aside_is_useless(serving);
        }
    }

    /// The posts whose outcome it owes are repeated.
    pub(super) fn end_aside(&self, serving: &mut Serving) {
        serving.aside.stage = Stage::Closed;
        self.shared.state().aside = None;
        self.shared.lose(std::mem::take(&mut serving.aside.posts));
    }
}
