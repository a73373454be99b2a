//! The client's task: one connection after the other, for as long as there is a reason.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use valise_proto::{Deliver, MailboxId};

use super::{Link, Receipt, Served, Shared, Update, Wish};
use crate::limits::{ATTACH_RETRY_MS, OUTGOING_BYTES_READY, UPDATES_WAITING_MAX};
use crate::reconnect::{Next, Reconnect, Stop};
use crate::{Connection, Dial, Event, Incoming, RequestError, connect, random};

pub(super) struct Actor {
    shared: Arc<Shared>,
    dial: Dial,
    updates: mpsc::Sender<Update>,
    /// Not yet taken by the channel.
    pending: VecDeque<Update>,
    reconnect: Reconnect,
    generation: u64,
}

/// One connection at work.
struct Serving {
    connection: Connection,
    incoming: Incoming,
    /// Attachment numbers.
    attached: HashMap<u32, MailboxId>,
    attaching: FuturesUnordered<BoxFuture<'static, (Served, Result<u32, RequestError>)>>,
    /// Requests of posts, and the outbox's numbers for them.
    posts: HashMap<u32, u64>,
}

/// What follows a connection.
enum After {
    Close,
    /// Another one, as soon as there is a reason for it.
    Fresh,
    Retry {
        wait: Duration,
        why: String,
    },
    Stop(Stop),
}

impl Actor {
    pub(super) fn new(shared: Arc<Shared>, dial: Dial, updates: mpsc::Sender<Update>) -> Self {
        let (pending, reconnect) = (VecDeque::new(), Reconnect::default());
        Self { shared, dial, updates, pending, reconnect, generation: 0 }
    }

    pub(super) async fn run(mut self) {
        let mut stopped = None;
        while self.is_wanted().await {
            let after = match self.dial().await {
                None => After::Close,
                Some(Ok((connection, incoming))) => self.serve(connection, incoming).await,
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
    async fn dial(&mut self) -> Option<Result<(Connection, Incoming), crate::ConnectError>> {
        let mut dial = self.dial.clone();
        self.shared.set_link(Link::Down);
        // With it, the relay lets the connection wait until a mailbox is attached.
        let first = self.shared.state().served.first().map(|served| served.member_token);
        dial.member_token = dial.member_token.or(first);
        let shared = self.shared.clone();
        self.meanwhile(async {
            let connecting = connect(&dial);
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
        .await
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

    async fn serve(&mut self, connection: Connection, incoming: Incoming) -> After {
        self.generation += 1;
        self.reconnect.connected();
        self.dial.realm_epoch = self.dial.realm_epoch.max(connection.record().epoch);
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
        let mut serving = Serving {
            connection,
            incoming,
            attached: HashMap::new(),
            attaching: FuturesUnordered::new(),
            posts: HashMap::new(),
        };
        let after = loop {
            if let Some(after) = self.turn(&mut serving).await {
                break after;
            }
        };
        {
            let mut state = self.shared.state();
            state.link = Link::Down;
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
                serving.attach(served.clone(), Duration::ZERO);
            }
            let idle = self.shared.idle.filter(|_| !state.is_wanted());
            idle.map(|idle| state.used + idle)
        };
        let is_blocked = self.post(serving);
        let next_post = self.shared.state().outbox.next_at(std::time::Instant::now());
        let next_post = next_post.filter(|_| !is_blocked).map(Instant::from_std);
        let Serving { connection, incoming, attaching, .. } = serving;
        // Attachments first: a delivery must find its mailbox. Then what the application wants,
        // what it is told, what the relay says, and at last what time brings.
        tokio::select! {
            biased;
            Some((served, result)) = attaching.next(), if !attaching.is_empty() => {
                self.attached(serving, &served, result);
            }
            () = self.shared.work.notified() => {}
            () = hand_over(&self.updates, &mut self.pending), if !self.pending.is_empty() => {}
            event = incoming.next(), if self.pending.len() < UPDATES_WAITING_MAX => {
                return self.events(serving, event);
            }
            () = connection.ready(), if is_blocked => {}
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

    fn attached(
        &mut self,
        serving: &mut Serving,
        served: &Served,
        result: Result<u32, RequestError>,
    ) {
        match result {
            Ok(attachment) => {
                serving.attached.insert(attachment, served.mailbox);
                self.shared.set_attachment(served.mailbox, attachment);
                self.reconnect.established();
            }
            Err(RequestError::Refused { reason, retry_after_ms }) => {
                if reason.is_some_and(valise_proto::Reason::is_retryable) {
                    let wait = if retry_after_ms == 0 { ATTACH_RETRY_MS } else { retry_after_ms };
                    serving.attach(served.clone(), Duration::from_millis(wait.into()));
                } else {
                    let mailbox = served.mailbox;
                    self.shared.state().served.retain(|other| other.mailbox != mailbox);
                    self.shared.changed.notify_waiters();
                    self.pending.push_back(Update::NotServed { mailbox, reason });
                }
            }
            // The connection's last event says the same.
            Err(RequestError::Closed(_) | RequestError::OtherAnswer) => {}
        }
    }

    /// One event, and those that are there already.
    fn events(&mut self, serving: &mut Serving, event: Option<Event>) -> Option<After> {
        // The answer to an attach precedes its deliveries, so it is there.
        while let Some(Some((served, result))) = serving.attaching.next().now_or_never() {
            self.attached(serving, &served, result);
        }
        let mut next = event;
        while let Some(event) = next {
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
                self.pending.push_back(Update::CaughtUp { mailbox });
            }
            Event::BundleLow { attachment, items } => {
                let mailbox = *serving.attached.get(&attachment)?;
                self.pending.push_back(Update::BundleLow { mailbox, items });
            }
            Event::Replaced { attachment } => {
                let mailbox = serving.attached.remove(&attachment)?;
                self.pending.push_back(Update::Replaced { mailbox });
                let mut state = self.shared.state();
                state.served.retain(|served| served.mailbox != mailbox);
                if state.served.is_empty() {
                    return Some(After::Stop(Stop::Replaced));
                }
            }
            Event::Restarting { reconnect_in_ms, try_for_ms } => {
                self.reconnect.restarting(now, reconnect_in_ms, try_for_ms);
            }
            // Nobody obeys it yet; it may be ignored.
            Event::Move(_) => {}
            Event::Posted(posted) => {
                self.reconnect.established();
                let number = serving.posts.remove(&posted.request)?;
                let wait = Duration::from_millis(posted.retry_after_ms.into());
                let mut state = self.shared.state();
                let settled = state.outbox.resolve(now, number, &posted.outcomes, wait);
                drop(state);
                self.settled(settled);
            }
            Event::Refused(refused) => {
                let number = serving.posts.remove(&refused.request)?;
                let wait = Duration::from_millis(refused.retry_after_ms.into());
                let mut state = self.shared.state();
                let settled = state.outbox.refuse(now, number, refused.reason, wait);
                drop(state);
                self.settled(settled);
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

    fn settled(&mut self, settled: Vec<crate::Settled>) {
        self.pending.extend(settled.into_iter().map(Update::Settled));
        self.shared.changed.notify_waiters();
    }
}

impl Shared {
    fn pause(&self, why: String, wait: Duration) {
        self.state().failures += 1;
        self.set_link(Link::Paused { why, until: Instant::now() + wait });
    }

    fn set_attachment(&self, mailbox: MailboxId, attachment: u32) {
        let mut state = self.state();
        if let Some(served) = state.served.iter_mut().find(|served| served.mailbox == mailbox) {
            served.attachment = Some(attachment);
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Serving {
    fn attach(&mut self, served: Served, wait: Duration) {
        let connection = self.connection.clone();
        self.attaching.push(Box::pin(async move {
            if !wait.is_zero() {
                sleep(wait).await;
            }
            let result = connection.attach(&served.owner, &served.member_token).await;
            (served, result)
        }));
    }
}

impl After {
    fn of(next: Next, why: String) -> Self {
        match next {
            Next::RetryIn(wait) => Self::Retry { wait, why },
            Next::Stop(stop) => Self::Stop(stop),
        }
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
