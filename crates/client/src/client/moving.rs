//! Moving to another node of the realm without a gap: the new connection is opened and attached
//! while the old one serves; then everything goes there, and the old one is kept until it has
//! answered what was asked of it. Whatever fails before that leaves everything as it was.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use valise_proto::{MailboxId, Move, MovePhase, RelayAddress};

use super::actor::Actor;
use super::serving::{After, Serving};
use super::{Link, Served, Shared, Update};
use crate::limits::{
    ATTACHING_BYTES_MAX, MOVE_ANSWERS_WAIT, MOVE_REQUESTS_WAIT, MOVE_TRIES_MAX, MOVE_TRY_PAUSE,
    MOVE_WAIT,
};
use crate::trial::{Reached, Trial, reach};
use crate::{Connection, Event, Incoming, RequestError, random};

/// How far a move is.
pub(super) struct Moving(Stage);

enum Stage {
    /// A connection is being opened.
    Opening(BoxFuture<'static, Trial>),
    /// What is served here is being attached there.
    Attaching(BoxFuture<'static, Arrival>),
}

/// Everything is attached there, or not.
pub(super) struct Arrival {
    reached: Reached,
    attached: HashMap<u32, MailboxId>,
    /// What was asked for and never answered.
    unanswered: Vec<MailboxId>,
    is_complete: bool,
    /// It was refused because the mailboxes are served elsewhere: nothing was attached by it.
    is_moved: bool,
}

/// What a move has come to.
pub(super) enum Progress {
    Opened(Trial),
    Attached(Arrival),
}

/// The connection that a client has moved away from. It closes when this is dropped and nobody else
/// holds it: an application that has asked something over it gets its answer.
pub(super) struct Leaving {
    _connection: Connection,
    incoming: Incoming,
    /// Requests of posts, and the outbox's numbers for them.
    posts: HashMap<u32, u64>,
    until: Instant,
}

/// How often it is looked whether somebody still asks something about an attachment.
const LOOK: Duration = Duration::from_millis(20);

impl Moving {
    /// What it has come to. Cancel-safe.
    pub(super) async fn progress(&mut self) -> Progress {
        match &mut self.0 {
            Stage::Opening(opening) => Progress::Opened(opening.await),
            Stage::Attaching(attaching) => Progress::Attached(attaching.await),
        }
    }

    fn takes_over(&self) -> bool {
        matches!(self.0, Stage::Attaching(_))
    }
}

impl Serving {
    /// Whether everything that is served here is being attached elsewhere.
    pub(super) fn takes_over(&self) -> bool {
        self.moving.as_ref().is_some_and(Moving::takes_over)
    }

    /// Whether the mailbox is being attached anew: this is its older attachment.
    pub(super) fn has_newer(&self, mailbox: &MailboxId) -> bool {
        self.takes_over() || self.attached.values().any(|other| other == mailbox)
    }
}

impl Leaving {
    /// What the old connection says, until it owes no outcome any more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        if self.posts.is_empty() {
            return None;
        }
        timeout_at(self.until, self.incoming.next()).await.ok().flatten()
    }
}

impl Actor {
    /// The relay says that this client is better served elsewhere.
    pub(super) fn consider(&mut self, serving: &mut Serving, moved: &Move) -> Option<After> {
        let now = Instant::now().into_std();
        if moved.realm_record.as_ref().is_some_and(|signed| !self.places.admit(now, signed)) {
            return None;
        }
        let order = self.places.judge(now, moved, &serving.at);
        self.tell();
        let order = order?;
        if !self.shared.state().is_wanted() {
            // The next connection begins there; nobody needs one before.
            return (order.phase == MovePhase::Go).then_some(After::Fresh);
        }
        if order.phase == MovePhase::Prepare {
            // Without a token no relay lets it wait.
            if self.member_token().is_some() && !order.places.is_empty() {
                serving.aside.hold(order.places);
            }
            return None;
        }
        // Such a relay gives nothing to an attachment that has moved: staying is no way out.
        serving.ordered = moved.realm_record.is_some().then(|| (order.places.clone(), 0));
        self.go(serving, order.places, order.spread.mul_f64(random::fraction()));
        None
    }

    /// A move was in vain: it is tried again, where the relay it is to leave serves it no more.
    fn go_again(&mut self, serving: &mut Serving) {
        let Some((places, tries)) = &mut serving.ordered else { return };
        if *tries < MOVE_TRIES_MAX {
            *tries += 1;
            let (places, wait) = (places.clone(), MOVE_TRY_PAUSE * (1 << *tries));
            self.go(serving, places, wait.mul_f64(0.5 + random::fraction() / 2.0));
        }
    }

    /// Goes to the first of these places that lets it attach, after a while; at once, where there is
    /// a connection already.
    pub(super) fn go(&mut self, serving: &mut Serving, places: Vec<RelayAddress>, wait: Duration) {
        // It ends what it has begun; the relay says it again.
        if places.is_empty() || serving.takes_over() {
            return;
        }
        if let Some((reached, posts)) = serving.aside.take(&places) {
            self.shared.state().aside = None;
            serving.carried = posts;
            self.attach_there(serving, reached);
            return;
        }
        let mut dial = self.dial.clone();
        dial.member_token = self.member_token();
        // Nothing is read there before all is attached.
        dial.incoming_bytes_max = dial.incoming_bytes_max.max(ATTACHING_BYTES_MAX);
        let opening = async move {
            sleep(wait).await;
            timeout(MOVE_WAIT, reach(dial, places)).await.unwrap_or_default()
        };
        serving.moving = Some(Moving(Stage::Opening(opening.boxed())));
    }

    /// A move has come this far.
    pub(super) fn moved(&mut self, serving: &mut Serving, progress: Progress) -> Option<After> {
        serving.moving = None;
        let arrival = match progress {
            // The client is served where it is: there is nothing to say if this failed.
            Progress::Opened(trial) => {
                let learnt =
                    (!trial.is_empty()).then(|| trial.learn(&self.given, &mut self.places));
                self.tell();
                match learnt {
                    Some(Ok(reached)) => self.attach_there(serving, reached),
                    _ => self.go_again(serving),
                }
                return None;
            }
            Progress::Attached(arrival) if arrival.is_complete => {
                self.arrive(serving, arrival);
                return None;
            }
            Progress::Attached(arrival) => arrival,
        };
        self.end_carried(serving);
        arrival.unanswered.iter().for_each(|mailbox| self.doubts.arise(*mailbox));
        if !arrival.attached.is_empty() {
            // As a connection that broke: one is opened anew.
            return Some(After::Fresh);
        }
        if arrival.is_moved {
            self.places.said_moved(&arrival.reached.at);
        } else {
            self.places.silent(&arrival.reached.at);
        }
        let mut state = self.shared.state();
        let is_here = |served: &Served| {
            let mut here = serving.attached.values();
            here.any(|m| *m == served.mailbox) || serving.refused.contains(&served.mailbox)
        };
        if !state.served.iter().all(|served| served.is_new || is_here(served)) {
            return Some(After::Fresh);
        }
        for (number, mailbox) in &serving.attached {
            let mut all = state.served.iter_mut();
            if let Some(served) = all.find(|served| served.mailbox == *mailbox) {
                served.attachment = Some(*number);
            }
        }
        drop(state);
        self.shared.changed.notify_waiters();
        self.go_again(serving);
        None
    }

    /// Attaches there what is served here, once nobody asks anything about an attachment here.
    fn attach_there(&mut self, serving: &mut Serving, reached: Reached) {
        let shared = Arc::clone(&self.shared);
        let all: Vec<Served> = {
            let mut state = shared.state();
            state.served.iter_mut().for_each(|served| served.attachment = None);
            state.served.iter().filter(|served| !served.is_new).cloned().collect()
        };
        let attaching = async move {
            let _ = timeout(MOVE_REQUESTS_WAIT, asks_nothing(&shared)).await;
            let until = Instant::now() + MOVE_WAIT;
            let connection = reached.connection.clone();
            // Asked for at once, in this order: the first one is what the relay steers by.
            let asked = all.iter().map(|served| {
                timeout_at(until, connection.attach(&served.owner, &served.member_token))
            });
            let answers = join_all(asked).await;
            let is_moved =
                answers.iter().all(|answer| matches!(answer, Ok(Err(e)) if e.is_moved()));
            let is_unanswered = |answer: &Result<Result<u32, RequestError>, Elapsed>| {
                !matches!(answer, Ok(Ok(_) | Err(RequestError::Refused { .. })))
            };
            let unanswered = all.iter().zip(&answers).filter(|(_, answer)| is_unanswered(answer));
            let unanswered = unanswered.map(|(served, _)| served.mailbox).collect();
            let answers = all.iter().zip(answers);
            let done =
                answers.filter_map(|(served, done)| Some((done.ok()?.ok()?, served.mailbox)));
            let attached: HashMap<u32, MailboxId> = done.collect();
            let is_complete = attached.len() == all.len();
            Arrival { reached, attached, unanswered, is_complete, is_moved }
        };
        serving.moving = Some(Moving(Stage::Attaching(attaching.boxed())));
    }

    /// From now on everything goes over the new connection.
    fn arrive(&mut self, serving: &mut Serving, arrival: Arrival) {
        let Arrival { reached: Reached { connection, incoming, at }, attached, .. } = arrival;
        self.end_leaving(serving);
        let leaving = Leaving {
            _connection: std::mem::replace(&mut serving.connection, connection.clone()),
            incoming: std::mem::replace(&mut serving.incoming, incoming),
            posts: std::mem::replace(&mut serving.posts, std::mem::take(&mut serving.carried)),
            until: Instant::now() + MOVE_ANSWERS_WAIT,
        };
        serving.leaving = Some(leaving);
        serving.asked.drain().for_each(|mailbox| self.doubts.arise(mailbox));
        serving.attaching.clear();
        serving.later.clear();
        self.places.found(&at);
        self.tell();
        serving.at = at;
        serving.ordered = None;
        (serving.turned_away, serving.refused) = (0, HashSet::new());
        self.begin();
        {
            let mut state = self.shared.state();
            state.link = Link::Up { generation: self.generation, connection };
            for served in &mut state.served {
                let there = attached.iter().find(|(_, mailbox)| **mailbox == served.mailbox);
                served.attachment = there.map(|(number, _)| *number);
                served.is_new = there.is_none();
            }
        }
        serving.attached = attached;
        self.reconnect.established();
        self.shared.changed.notify_waiters();
        self.shared.work.notify_one();
    }

    /// The old connection has said something, or owes nothing any more.
    pub(super) fn left(&mut self, serving: &mut Serving, event: Option<Event>) {
        let Some(leaving) = &mut serving.leaving else { return };
        match event {
            Some(Event::Posted(posted)) => {
                let number = leaving.posts.remove(&posted.request);
                self.posted(number, &posted);
            }
            Some(Event::Refused(refused)) => {
                let number = leaving.posts.remove(&refused.request);
                self.refused(number, &refused);
            }
            None | Some(Event::Closed(_)) => self.end_leaving(serving),
            // What was delivered there and not acknowledged comes again.
            Some(_) => {}
        }
    }

    /// The posts whose outcome the old connection still owes are repeated.
    fn end_leaving(&self, serving: &mut Serving) {
        let Some(leaving) = serving.leaving.take() else { return };
        self.shared.lose(leaving.posts);
    }

    /// So are those of the connection that has attached nothing.
    fn end_carried(&self, serving: &mut Serving) {
        self.shared.lose(std::mem::take(&mut serving.carried));
    }

    /// Tells the application which endpoint to begin with next time and which record counts, when
    /// that has changed.
    pub(super) fn tell(&mut self) {
        let prefers = self.places.prefers();
        if prefers != self.prefers {
            self.prefers.clone_from(&prefers);
            self.pending.push_back(Update::Prefers(prefers));
        }
        let epoch = self.places.epoch();
        if let Some(signed) = self.places.signed().filter(|_| epoch > self.told_epoch) {
            self.pending.push_back(Update::Realm(signed.clone()));
            self.told_epoch = epoch;
        }
        self.dial.realm_epoch = self.dial.realm_epoch.max(epoch);
    }
}

impl Shared {
    /// The outcomes of these posts are unknown: they are repeated.
    pub(super) fn lose(&self, posts: HashMap<u32, u64>) {
        let mut state = self.state();
        let now = std::time::Instant::now();
        posts.into_values().for_each(|number| state.outbox.lose_one(now, number));
    }
}

async fn asks_nothing(shared: &Shared) {
    while shared.state().lent_attached > 0 {
        sleep(LOOK).await;
    }
}
