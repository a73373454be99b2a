//! What is done when: everything is copied, clients are led, shards are cut over, posts are passed on,
//! and in the end the supernode is wiped. Nothing is kept that cannot be read again.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use valise::store::jetstream::Center;
use valise_migration::importer::Aim;
use valise_migration::wire::{Answer, Question};
use valise_migration::{Boot, Shard};

use super::control::Orders;
use super::crew::Crew;
use super::link::{Linked, Session};
use super::passing::Passing;
use super::picture::{Picture, Users};
use super::shard::Place;
use crate::limits::{PREPARING_SECONDS, PROGRESS_SECONDS, RECORD_SECONDS, REST_MS, TROUBLE_MS};

/// A migration that is driven.
pub(crate) struct Driver {
    pub(crate) center: Arc<Center>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) passing: Arc<Passing>,
    pub(crate) linked: watch::Receiver<Linked>,
    pub(crate) orders: watch::Sender<Orders>,
    pub(crate) leading: Leading,
    said: Mutex<Said>,
}

/// Where clients are led to.
#[derive(Debug, Clone)]
pub(crate) struct Leading {
    pub(crate) endpoints: Vec<String>,
    pub(crate) per_second: u32,
}

/// How long a client that was told last has to open a connection.
const PREPARING: Duration = Duration::from_secs(PREPARING_SECONDS);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The supernode is wiped.
    Finished,
    /// It was given up, and what was imported is removed.
    GivenUp,
}

struct Said {
    phase: &'static str,
    /// Of what is done for all shards together.
    trouble: Option<String>,
    rate: (Instant, u64, u64),
}

/// What is known of the supernode's process.
#[derive(Default)]
struct Told {
    led: Option<Boot>,
    /// When all clients have been told to prepare, and have had a moment to do so.
    prepared: Option<Instant>,
    record: Option<(Instant, Bytes)>,
}

enum Next {
    End(End),
    /// Something was done: there may be more.
    Soon,
    Rest,
    /// Something was wrong.
    Trouble,
}

impl Driver {
    pub(crate) fn new(
        center: Arc<Center>,
        passing: Arc<Passing>,
        linked: watch::Receiver<Linked>,
        parallel: usize,
        leading: Leading,
        orders: Orders,
    ) -> Self {
        let crew = Arc::new(Crew::new(&center, Arc::clone(&passing), parallel));
        let rate = (Instant::now(), 0, 0);
        let said = Mutex::new(Said { phase: "connecting", trouble: None, rate });
        let orders = watch::Sender::new(orders);
        Self { center, crew, passing, linked, orders, leading, said }
    }

    /// Drives it to its end.
    pub(crate) async fn run(&self) -> End {
        let (mut told, mut looked) = (Told::default(), false);
        loop {
            let session = self.session().await;
            if !looked {
                looked = self.crew.look(Some(&session)).await.is_ok();
            }
            let next = match looked {
                false => Next::Trouble,
                true => self.step(&session, &mut told).await,
            };
            let wait = match next {
                Next::End(end) => return end,
                Next::Soon => 0,
                Next::Rest => REST_MS,
                Next::Trouble => TROUBLE_MS,
            };
            let mut orders = self.orders.subscribe();
            // Whatever is ordered is done at once.
            drop(timeout(Duration::from_millis(wait), orders.changed()).await);
        }
    }

    /// What it looks like now.
    pub(crate) fn picture(&self) -> Picture {
        let seen = self.crew.seen();
        let linked = self.linked.borrow().clone();
        let mut said = self.said();
        let mut picture = Picture::of(said.phase, &seen);
        let (since, before, rate) = said.rate;
        picture.entries_per_second = rate;
        let elapsed = since.elapsed();
        if elapsed >= Duration::from_secs(PROGRESS_SECONDS) {
            let more = (picture.entries_copied - before) as f64 / elapsed.as_secs_f64();
            picture.entries_per_second = more.round() as u64;
            said.rate = (Instant::now(), picture.entries_copied, picture.entries_per_second);
        }
        picture.posts_passed_on = self.passing.accepted();
        picture.users = linked.session.as_ref().and_then(Session::users).map(|users| Users {
            connections: users.connections,
            attachments: users.attachments,
            passing: users.passing,
        });
        let of_link = linked.session.is_none().then_some(linked.trouble).flatten();
        picture.trouble = of_link.or_else(|| said.trouble.clone()).or_else(|| self.crew.trouble());
        picture
    }

    async fn session(&self) -> Session {
        let mut linked = self.linked.clone();
        loop {
            if let Some(session) = linked.borrow_and_update().session.clone() {
                return session;
            }
            if linked.changed().await.is_err() {
                // Nobody dials any more: the process ends.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn step(&self, session: &Session, told: &mut Told) -> Next {
        self.look_around(session, told).await;
        let orders = *self.orders.borrow();
        if orders.abort {
            return self.give_up(session).await;
        }
        if self.crew.all(Place::Moved) {
            return self.drain(session, orders).await;
        }
        if orders.paused {
            self.phase("paused");
            let sealed = self.crew.round(session, Aim::Release, |s| s.place() == Place::Sealed);
            return if sealed.await.troubled > 0 { Next::Trouble } else { Next::Rest };
        }
        self.go_on(session, told).await
    }

    async fn go_on(&self, session: &Session, told: &mut Told) -> Next {
        self.phase("copying");
        let migration = self.crew.migration();
        let not_moved = |seen: &super::shard::Seen| seen.place() < Place::Moved;
        let round = self.crew.round(session, Aim::Copy(migration), not_moved).await;
        if round.troubled > 0 || self.crew.ask_reports(session).await.is_err() {
            return Next::Trouble;
        }
        if !self.crew.is_followed() {
            return Next::Soon;
        }
        if !self.lead(session, told).await {
            return Next::Trouble;
        }
        if told.prepared.is_some_and(|prepared| Instant::now() < prepared) {
            self.phase("clients prepare");
            return Next::Rest;
        }
        if !session.is_close() {
            self.phase("waiting: the way to the supernode takes too long");
            return Next::Rest;
        }
        self.phase("cutting over");
        let may_go_on = || {
            let orders = *self.orders.borrow();
            session.is_close() && !orders.paused && !orders.abort
        };
        match self.crew.cut(session, migration, may_go_on).await.troubled {
            0 => Next::Soon,
            _ => Next::Trouble,
        }
    }

    /// Clients are told to prepare, by each life of the supernode's process.
    async fn lead(&self, session: &Session, told: &mut Told) -> bool {
        let boot = session.welcome.boot;
        if told.led == Some(boot) {
            return true;
        }
        let Leading { endpoints, per_second } = self.leading.clone();
        let trouble = match session.ask(Question::Lead { endpoints, per_second }).await {
            Ok(Answer::Told(Ok(()))) => {
                told.led = Some(boot);
                let connections = session.users().unwrap_or_default().connections;
                let telling = Duration::from_secs(1) * connections / per_second.max(1);
                told.prepared = Some(Instant::now() + telling + PREPARING);
                None
            }
            Ok(Answer::Told(Err(_))) => Some(
                "the supernode does not lead its clients to these endpoints: the realm's record does \
                 not list them; give those for which nodes were made (--endpoints)",
            ),
            _ => Some("the supernode does not answer"),
        };
        self.said().trouble = trouble.map(str::to_owned);
        trouble.is_none()
    }

    /// How full the streams are; and the supernode hears of a newer record from here: it may not be listed
    /// in it any more.
    async fn look_around(&self, session: &Session, told: &mut Told) {
        let pause = Duration::from_secs(RECORD_SECONDS);
        if told.record.as_ref().is_some_and(|(at, _)| at.elapsed() < pause) {
            return;
        }
        // What cannot be known now is looked at the next time.
        drop(self.center.look_at_room().await);
        let Ok(Some(record)) = self.center.realm_record().await else { return };
        let known = told.record.as_ref().is_some_and(|(_, known)| *known == record);
        if !known && record != session.welcome.record {
            // What comes of it is seen in the shards' reports.
            drop(session.ask(Question::Record(record.clone())).await);
        }
        told.record = Some((Instant::now(), record));
    }

    /// Everything has moved. Posts are passed on meanwhile, by [`Passing`].
    async fn drain(&self, session: &Session, orders: Orders) -> Next {
        if self.crew.all(Place::Gone) {
            return Next::End(End::Finished);
        }
        self.phase(if orders.finish { "waiting for the last to leave" } else { "passing on" });
        let users = session.users().unwrap_or_default();
        let count = u64::from(users.connections) + u64::from(users.attachments);
        let count = count + u64::from(users.passing);
        if orders.finish && session.users().is_some() && count == 0 {
            self.phase("wiping the supernode");
            let aim = Aim::Wipe { users: 0 };
            let round = self.crew.round(session, aim, |seen| seen.place() < Place::Gone).await;
            return if round.troubled > 0 { Next::Trouble } else { Next::Soon };
        }
        sleep(Duration::from_millis(REST_MS)).await;
        Next::Rest
    }

    /// Nothing is given up once a shard is the data centre's: there is no way back.
    async fn give_up(&self, session: &Session) -> Next {
        let owned = self.crew.seen().iter().filter(|s| s.place() >= Place::Owned).count();
        if owned > 0 {
            self.orders.send_modify(|orders| orders.abort = false);
            self.said().trouble = Some(format!(
                "{owned} shards are the data centre's already: the migration cannot be given up"
            ));
            return Next::Soon;
        }
        self.phase("giving up");
        let round = self.crew.round(session, Aim::Abort, |_| true).await;
        let plain = |seen: &super::shard::Seen| {
            seen.place() == Place::Waiting && seen.report.is_some_and(|r| r.shard == Shard::Plain)
        };
        match round.troubled {
            0 if self.crew.seen().iter().all(plain) => Next::End(End::GivenUp),
            0 => Next::Rest,
            _ => Next::Trouble,
        }
    }

    fn phase(&self, phase: &'static str) {
        let mut said = self.said();
        said.phase = phase;
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().expect("no one panics while it holds the lock")
    }
}
