//! The client's task: one connection after the other, for as long as there is a reason.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use valise_proto::{Deliver, Posted, Refused, RelayAddress, Token};

use super::doubts::Doubts;
use super::moving::{Leaving, Moving};
use super::serving::{After, Serving};
use super::{Link, Receipt, Shared, Update, Wish};
use crate::limits::{OUTGOING_BYTES_READY, UPDATES_WAITING_MAX};
use crate::places::Places;
use crate::reconnect::Reconnect;
use crate::trial::{Reached, Trial, reach};
use crate::{ConnectError, Dial, Event, Side, random};

pub(super) struct Actor {
    pub(super) shared: Arc<Shared>,
    pub(super) dial: Dial,
    /// The address that the application has given.
    pub(super) given: RelayAddress,
    pub(super) places: Places,
    /// The endpoint that the application was told to begin with.
    pub(super) prefers: Option<String>,
    /// The epoch of the record that the application has.
    pub(super) told_epoch: u64,
    updates: mpsc::Sender<Update>,
    /// Not yet taken by the channel.
    pub(super) pending: VecDeque<Update>,
    pub(super) reconnect: Reconnect,
    pub(super) generation: u64,
    pub(super) doubts: Doubts,
}

impl Actor {
    pub(super) fn new(shared: Arc<Shared>, mut dial: Dial, updates: mpsc::Sender<Update>) -> Self {
        let places = Places::new(&dial);
        let told_epoch = places.epoch();
        dial.realm_epoch = dial.realm_epoch.max(told_epoch);
        Self {
            shared,
            given: dial.address.clone(),
            places,
            told_epoch,
            prefers: dial.prefer.clone(),
            dial,
            updates,
            pending: VecDeque::new(),
            reconnect: Reconnect::default(),
            generation: 0,
            doubts: Doubts::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut stopped = None;
        while self.is_wanted().await {
            let after = match self.dial().await {
                None => After::Close,
                Some(Ok(reached)) => self.serve(reached).await,
                Some(Err(error)) => {
                    let now = Instant::now().into_std();
                    let next = self.reconnect.failed(now, &error, random::fraction());
                    After::of(next, error.to_string())
                }
            };
            match after {
                After::Close => break,
                After::Fresh => {}
                After::Retry { wait, why } => {
                    self.shared.pause(why.clone(), wait);
                    self.pending.push_back(Update::Disconnected { why, retry_in: wait });
                    self.pause(wait).await;
                }
                After::Stop(stop) => {
                    stopped = Some(stop.clone());
                    self.pending.push_back(Update::GaveUp(stop));
                    break;
                }
            }
        }
        self.shared.set_link(Link::Ended(stopped));
        for update in self.pending {
            if self.updates.send(update).await.is_err() {
                return;
            }
        }
    }

    /// Waits for a reason to be connected; `false` if the client is to end.
    async fn is_wanted(&mut self) -> bool {
        loop {
            {
                let mut state = self.shared.state();
                match state.wish {
                    Wish::Close => return false,
                    Wish::Fresh => state.wish = Wish::None,
                    Wish::None => {}
                }
                if state.is_wanted() {
                    return true;
                }
            }
            let shared = self.shared.clone();
            self.meanwhile(shared.work.notified()).await;
        }
    }

    /// `None` if the client is to end.
    async fn dial(&mut self) -> Option<Result<Reached, ConnectError>> {
        let mut dial = self.dial.clone();
        self.shared.set_link(Link::Down);
        dial.member_token = self.member_token();
        let shared = self.shared.clone();
        let places = self.places.candidates();
        let trial: Option<Trial> = self
            .meanwhile(async {
                let connecting = reach(dial, places);
                tokio::pin!(connecting);
                loop {
                    tokio::select! {
                        biased;
                        connected = &mut connecting => return Some(connected),
                        () = shared.work.notified() => {
                            if shared.state().wish == Wish::Close {
                                return None;
                            }
                        }
                    }
                }
            })
            .await;
        let learnt = trial.map(|trial| trial.learn(&self.given, &mut self.places));
        self.tell();
        learnt
    }

    /// With it, the relay lets a connection wait until a mailbox is attached.
    pub(super) fn member_token(&self) -> Option<Token> {
        let first = self.shared.state().served.first().map(|served| served.member_token);
        self.dial.member_token.or(first)
    }

    /// Waits for the next try, unless the application wants it now.
    async fn pause(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        let shared = self.shared.clone();
        self.meanwhile(async {
            loop {
                tokio::select! {
                    biased;
                    () = sleep_until(until) => return,
                    () = shared.work.notified() => {
                        if shared.state().wish != Wish::None {
                            return;
                        }
                    }
                }
            }
        })
        .await;
    }

    /// Hands updates over while something else is waited for.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = hand_over(&self.updates, &mut self.pending), if !self.pending.is_empty() => {}
            }
        }
    }

    /// A connection is in use from now on.
    pub(super) fn begin(&mut self) {
        self.generation += 1;
        self.reconnect.connected();
        self.shared.state().outbox.rebase();
    }

    async fn serve(&mut self, reached: Reached) -> After {
        let Reached { connection, incoming, at } = reached;
        self.begin();
        {
            let mut state = self.shared.state();
            state.used = Instant::now();
            state.link = Link::Up { generation: self.generation, connection: connection.clone() };
            for served in &mut state.served {
                (served.is_new, served.attachment) = (true, None);
            }
        }
        self.shared.changed.notify_waiters();
        self.pending.push_back(Update::Connected);
        let mut serving = Serving::new(connection, incoming, at);
        let after = loop {
            if let Some(after) = self.turn(&mut serving).await {
                break after;
            }
        };
        self.doubt_what_is_asked(&serving);
        {
            let mut state = self.shared.state();
            state.link = Link::Down;
            state.aside = None;
            state.turned_away.clear();
            state.outbox.lose(std::time::Instant::now());
        }
        if matches!(after, After::Close | After::Stop(_)) {
            serving.connection.close().await;
        }
        // Dropping the rest also drops whatever still comes on a connection that was given up: a
        // `Replaced` there was caused by our own newer attach.
        after
    }

    /// Everything that can be done now, then one wait.
    async fn turn(&mut self, serving: &mut Serving) -> Option<After> {
        let idle_at = {
            let mut state = self.shared.state();
            match state.wish {
                Wish::Close => return Some(After::Close),
                Wish::Fresh => return Some(After::Fresh),
                Wish::None => {}
            }
            for served in state.served.iter_mut().filter(|served| served.is_new) {
                served.is_new = false;
                serving.caught_up.remove(&served.mailbox);
                serving.later.retain(|(_, later)| later.mailbox != served.mailbox);
                serving.attach(served.clone());
            }
            let idle = self.shared.idle.filter(|_| !state.is_wanted());
            idle.map(|idle| state.used + idle)
        };
        self.turn_away(serving);
        let attach_at = serving.attach_due();
        let is_blocked = self.post(serving);
        let is_lent = self.shared.state().lent_aside > 0;
        let next_post = self.shared.state().outbox.next_at(std::time::Instant::now());
        let next_post = next_post.filter(|_| !is_blocked).map(Instant::from_std);
        let Serving { connection, incoming, attaching, moving, leaving, aside, .. } = serving;
        // Attachments first: a delivery must find its mailbox. Then a move and what it has left
        // behind, what the application wants, what it is told, what the relay says, and at last
        // what time brings.
        tokio::select! {
            biased;
            Some((served, result)) = attaching.next(), if !attaching.is_empty() => {
                self.attached(serving, &served, result);
            }
            Some(progress) = OptionFuture::from(moving.as_mut().map(Moving::progress)) => {
                return self.moved(serving, progress);
            }
            Some(event) = OptionFuture::from(leaving.as_mut().map(Leaving::next)) => {
                self.left(serving, event);
            }
            news = aside.news(is_lent) => self.aside(serving, news),
            () = self.shared.work.notified() => {}
            () = hand_over(&self.updates, &mut self.pending), if !self.pending.is_empty() => {}
            event = incoming.next(), if self.pending.len() < UPDATES_WAITING_MAX => {
                return self.events(serving, event);
            }
            () = connection.ready(), if is_blocked => {}
            () = sleep_until(attach_at.unwrap_or_else(Instant::now)), if attach_at.is_some() => {}
            () = sleep_until(next_post.unwrap_or_else(Instant::now)), if next_post.is_some() => {}
            () = sleep_until(idle_at.unwrap_or_else(Instant::now)), if idle_at.is_some() => {
                // Somebody may have come at the last moment.
                return (!self.shared.state().is_wanted()).then_some(After::Fresh);
            }
        }
        None
    }

    /// Posts what is due; whether the connection has no room for more.
    fn post(&self, serving: &mut Serving) -> bool {
        let mut state = self.shared.state();
        let before = state.outbox.waiting_bytes();
        let is_blocked = loop {
            if serving.connection.queued_bytes() >= OUTGOING_BYTES_READY {
                break true;
            }
            let now = std::time::Instant::now();
            let Some(posting) = state.outbox.next_post(now, random::frame_id) else { break false };
            if posting.side == Side::There {
                drop(state);
                self.post_there(serving, posting);
                state = self.shared.state();
                continue;
            }
            let (id, payload) = (posting.frame_id, posting.payload);
            match serving.connection.post_later(id, &posting.capabilities, 0, payload) {
                Ok(request) => drop(serving.posts.insert(request, posting.number)),
                // The connection has ended; its last event says so, and the post is due again.
                Err(_) => break false,
            }
        };
        let has_room = state.outbox.waiting_bytes() < before;
        drop(state);
        if has_room {
            self.shared.changed.notify_waiters();
        }
        is_blocked
    }

    /// One event, and those that are there already.
    fn events(&mut self, serving: &mut Serving, event: Option<Event>) -> Option<After> {
        let mut next = event;
        while let Some(event) = next {
            // The answer to an attach precedes its deliveries, so it is there before each of them.
            while let Some(Some((served, result))) = serving.attaching.next().now_or_never() {
                self.attached(serving, &served, result);
            }
            if let Some(after) = self.event(serving, event) {
                return Some(after);
            }
            if self.pending.len() >= UPDATES_WAITING_MAX {
                break;
            }
            next = serving.incoming.try_next();
        }
        None
    }

    fn event(&mut self, serving: &mut Serving, event: Event) -> Option<After> {
        let now = std::time::Instant::now();
        match event {
            Event::Deliver(Deliver { attachment, n, frame_id, payload }) => {
                let mailbox = *serving.attached.get(&attachment)?;
                let receipt = Receipt { generation: self.generation, attachment, n };
                self.pending.push_back(Update::Message { mailbox, frame_id, payload, receipt });
            }
            Event::Signaled { attachment, payload } => {
                let mailbox = *serving.attached.get(&attachment)?;
                self.pending.push_back(Update::Signaled { mailbox, payload });
            }
            Event::CaughtUp { attachment } => {
                let mailbox = *serving.attached.get(&attachment)?;
                if serving.caught_up.insert(mailbox) {
                    self.pending.push_back(Update::CaughtUp { mailbox });
                }
            }
            Event::BundleLow { attachment, items } => {
                let mailbox = *serving.attached.get(&attachment)?;
                self.pending.push_back(Update::BundleLow { mailbox, items });
            }
            Event::Replaced { attachment } => {
                return self.replaced(serving, attachment);
            }
            Event::Restarting { reconnect_in_ms, try_for_ms } => {
                self.reconnect.restarting(now, reconnect_in_ms, try_for_ms);
            }
            Event::Move(moved) => return self.consider(serving, &moved),
            Event::Posted(posted) => {
                self.reconnect.established();
                let number = serving.posts.remove(&posted.request);
                self.posted(number, &posted);
            }
            Event::Refused(refused) => {
                let number = serving.posts.remove(&refused.request);
                self.refused(number, &refused);
            }
            Event::Closed(ending) => {
                if serving.connection.was_answered() {
                    self.reconnect.established();
                }
                let next = self.reconnect.ended(now, &ending, random::fraction());
                return Some(After::of(next, ending.to_string()));
            }
        }
        None
    }

    /// A post has met its fate, if it was one of the outbox.
    pub(super) fn posted(&mut self, number: Option<u64>, posted: &Posted) {
        let Some(number) = number else { return };
        let wait = Duration::from_millis(posted.retry_after_ms.into());
        let now = std::time::Instant::now();
        let settled = self.shared.state().outbox.resolve(now, number, &posted.outcomes, wait);
        self.settled(settled);
    }

    pub(super) fn refused(&mut self, number: Option<u64>, refused: &Refused) {
        let Some(number) = number else { return };
        let wait = Duration::from_millis(refused.retry_after_ms.into());
        let now = std::time::Instant::now();
        let settled = self.shared.state().outbox.refuse(now, number, refused.reason, wait);
        self.settled(settled);
    }

    fn settled(&mut self, settled: Vec<crate::Settled>) {
        self.pending.extend(settled.into_iter().map(Update::Settled));
        self.shared.changed.notify_waiters();
    }
}

/// Moves updates into the channel, as many as fit once there is room. An application that has
/// dropped its end wants none.
async fn hand_over(updates: &mpsc::Sender<Update>, pending: &mut VecDeque<Update>) {
    match updates.reserve().await {
        Ok(permit) => {
            if let Some(update) = pending.pop_front() {
                permit.send(update);
            }
            while let (Some(_), Ok(permit)) = (pending.front(), updates.try_reserve()) {
                permit.send(pending.pop_front().expect("there is a front"));
            }
        }
        Err(_) => pending.clear(),
    }
}
