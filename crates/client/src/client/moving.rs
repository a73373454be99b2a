//! Moving to another node of the realm without a gap: the new connection is opened and attached
//! while the old one serves; then everything goes there, and the old one is kept until it has
//! answered what was asked of it. Whatever fails before that leaves everything as it was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use valise_proto::{MailboxId, Move, MovePhase, RelayAddress};

use super::actor::Actor;
use super::serving::{After, Serving};
use super::{Link, Served, Shared, Update};
use crate::limits::{ATTACHING_BYTES_MAX, MOVE_ANSWERS_WAIT, MOVE_REQUESTS_WAIT, MOVE_WAIT};
use crate::places::Places;
use crate::{ConnectError, Connection, Dial, Event, Incoming, connect, random};

/// A connection to one of several places, or why there is none.
pub(super) struct Trial {
    /// Those that were tried in vain.
    failed: Vec<(RelayAddress, ConnectError)>,
    pub(super) reached: Option<Reached>,
}

/// A connection, and where it leads.
pub(super) struct Reached {
    pub(super) connection: Connection,
    pub(super) incoming: Incoming,
    pub(super) at: RelayAddress,
}

/// How far a move is.
pub(super) struct Moving {
    phase: MovePhase,
    stage: Stage,
}

enum Stage {
    /// A connection is being opened.
    Opening(BoxFuture<'static, Trial>),
    /// There is one, and the relay has not said `GO`.
    Held(Box<Reached>),
    /// What is served here is being attached there.
    Attaching(BoxFuture<'static, Arrival>),
}

/// Everything is attached there, or not.
pub(super) struct Arrival {
    reached: Reached,
    attached: HashMap<u32, MailboxId>,
    is_complete: bool,
}

/// What a move has come to.
pub(super) enum Progress {
    Opened(Trial),
    Attached(Arrival),
    /// The connection that was held has ended.
    Lost,
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

/// Connects to the first of these places that can be reached and proves the realm.
pub(super) async fn reach(mut dial: Dial, places: Vec<RelayAddress>) -> Trial {
    let mut failed = Vec::new();
    for at in places {
        dial.address = at.clone();
        match connect(&dial).await {
            Ok((connection, incoming)) => {
                return Trial { failed, reached: Some(Reached { connection, incoming, at }) };
            }
            Err(error) => failed.push((at, error)),
        }
    }
    Trial { failed, reached: None }
}

impl Trial {
    /// Remembers what was found. The error, where nothing was reached: that of the address that was
    /// given, if it was tried.
    pub(super) fn learn(
        self,
        given: &RelayAddress,
        places: &mut Places,
    ) -> Result<Reached, ConnectError> {
        for (at, error) in &self.failed {
            match error {
                ConnectError::Opening(_) if at != given => places.untrusted(at),
                _ => places.silent(at),
            }
        }
        let Some(reached) = self.reached else {
            let mut errors = self.failed;
            let by_given = errors.iter().position(|(at, _)| at == given);
            let (_, error) = errors.swap_remove(by_given.unwrap_or(errors.len() - 1));
            return Err(error);
        };
        places.reached(&reached.at, reached.connection.record());
        Ok(reached)
    }
}

impl Moving {
    /// What it has come to. Cancel-safe.
    pub(super) async fn progress(&mut self) -> Progress {
        match &mut self.stage {
            Stage::Opening(opening) => Progress::Opened(opening.await),
            Stage::Attaching(attaching) => Progress::Attached(attaching.await),
            Stage::Held(reached) => loop {
                // Nothing is served there yet, so nothing that is said is for us.
                match reached.incoming.next().await {
                    None | Some(Event::Closed(_)) => return Progress::Lost,
                    Some(_) => {}
                }
            },
        }
    }

    fn takes_over(&self) -> bool {
        matches!(self.stage, Stage::Attaching(_))
    }
}

impl Serving {
    /// What a `Replaced` on this connection means, where it is the client's own doing: nothing, or
    /// that a move which was given up has attached there all the same.
    pub(super) fn own_doing(&self) -> Option<Option<After>> {
        if self.moving.as_ref().is_some_and(Moving::takes_over) {
            return Some(None);
        }
        let is_own = self.in_vain.is_some_and(|at| at.elapsed() < MOVE_ANSWERS_WAIT);
        is_own.then_some(Some(After::Fresh))
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
        let order = self.places.judge(now, moved, serving.connection.record(), &serving.at)?;
        if order.phase == MovePhase::Go {
            self.prefer();
        }
        if !self.shared.state().is_wanted() {
            // The next connection begins there; nobody needs one before.
            return (order.phase == MovePhase::Go).then_some(After::Fresh);
        }
        if let Some(Moving { phase, stage }) = serving.moving.take() {
            match stage {
                Stage::Held(held)
                    if order.phase == MovePhase::Go && order.places.contains(&held.at) =>
                {
                    serving.moving = Some(self.attach_there(*held));
                    return None;
                }
                // It ends what it has begun; the relay says it again.
                Stage::Attaching(_) => {
                    serving.moving = Some(Moving { phase, stage });
                    return None;
                }
                Stage::Opening(_) | Stage::Held(_) => {}
            }
        }
        if order.places.is_empty() {
            return None;
        }
        let mut dial = self.dial.clone();
        dial.member_token = self.member_token();
        // Nothing is read there before all is attached.
        dial.incoming_bytes_max = dial.incoming_bytes_max.max(ATTACHING_BYTES_MAX);
        let wait = order.spread.mul_f64(random::fraction());
        let opening = async move {
            sleep(wait).await;
            let reaching = reach(dial, order.places);
            let late = Trial { failed: Vec::new(), reached: None };
            timeout(MOVE_WAIT, reaching).await.unwrap_or(late)
        };
        let stage = Stage::Opening(opening.boxed());
        serving.moving = Some(Moving { phase: order.phase, stage });
        None
    }

    /// A move has come this far.
    pub(super) fn moved(&mut self, serving: &mut Serving, progress: Progress) -> Option<After> {
        let moving = serving.moving.take()?;
        match progress {
            Progress::Opened(trial) => {
                // The client is served where it is: there is nothing to say if this failed.
                if trial.is_empty() {
                    return None;
                }
                let learnt = trial.learn(&self.given, &mut self.places);
                self.prefer();
                let reached = learnt.ok()?;
                let stage = Stage::Held(Box::new(reached));
                serving.moving = Some(match (moving.phase, stage) {
                    (MovePhase::Go, Stage::Held(reached)) => self.attach_there(*reached),
                    (phase, stage) => Moving { phase, stage },
                });
                None
            }
            Progress::Lost => None,
            Progress::Attached(arrival) if arrival.is_complete => {
                self.arrive(serving, arrival);
                None
            }
            // As a connection that broke: one is opened anew.
            Progress::Attached(arrival) if !arrival.attached.is_empty() => Some(After::Fresh),
            Progress::Attached(arrival) => {
                self.places.silent(&arrival.reached.at);
                serving.in_vain = Some(Instant::now());
                let mut state = self.shared.state();
                let is_here =
                    |served: &Served| serving.attached.values().any(|m| *m == served.mailbox);
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
                None
            }
        }
    }

    /// Attaches there what is served here, once nobody asks anything about an attachment here.
    fn attach_there(&self, reached: Reached) -> Moving {
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
            let answers = all.iter().zip(answers);
            let done =
                answers.filter_map(|(served, done)| Some((done.ok()?.ok()?, served.mailbox)));
            let attached: HashMap<u32, MailboxId> = done.collect();
            let is_complete = attached.len() == all.len();
            Arrival { reached, attached, is_complete }
        };
        Moving { phase: MovePhase::Go, stage: Stage::Attaching(attaching.boxed()) }
    }

    /// From now on everything goes over the new connection.
    fn arrive(&mut self, serving: &mut Serving, arrival: Arrival) {
        let Arrival { reached: Reached { connection, incoming, at }, attached, .. } = arrival;
        self.end_leaving(serving);
        let leaving = Leaving {
            _connection: std::mem::replace(&mut serving.connection, connection.clone()),
            incoming: std::mem::replace(&mut serving.incoming, incoming),
            posts: std::mem::take(&mut serving.posts),
            until: Instant::now() + MOVE_ANSWERS_WAIT,
        };
        serving.leaving = Some(leaving);
        serving.attaching.clear();
        serving.at = at;
        serving.in_vain = None;
        self.begin(&connection);
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
        let mut state = self.shared.state();
        let now = std::time::Instant::now();
        leaving.posts.into_values().for_each(|number| state.outbox.lose_one(now, number));
    }

    /// Tells the application which endpoint to begin with next time, when that has changed.
    pub(super) fn prefer(&mut self) {
        let prefers = self.places.prefers();
        if prefers != self.prefers {
            self.prefers.clone_from(&prefers);
            self.pending.push_back(Update::Prefers(prefers));
        }
    }
}

impl Trial {
    /// Nothing was found out: the time was over.
    fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.reached.is_none()
    }
}

async fn asks_nothing(shared: &Shared) {
    while shared.state().lent_attached > 0 {
        sleep(LOOK).await;
    }
}
