//! Canaries: small frames that are sent through the relay as anybody's, and have to come back. Each
//! partition has two mailboxes: in one they come back at once, in the other they are held for a day and
//! counted, since an acknowledgement is one of everything before it. The relay knows nothing of them.

mod book;
mod ledger;
mod turn;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use valise::cli::Exit;
use valise::identity::{StateDirectory, read_shard_key};
use valise::store::{SHARDS, ShardKey};
use valise_client::proto::{Reason, RelayAddress, Token};
use valise_client::{Dial, OwnerKeyPair, random};

use crate::ask::now_ms;
use crate::exit::Failure;
use crate::finding::Finding;
use crate::limits::{CANARIES_TOGETHER, HELD_MAX, TOKEN_RENEW_DAYS};
use crate::metrics::{Fate, Metrics};
use crate::state;
use book::{Book, Held, Id, Nest, Tokens};
use ledger::{Ledger, Nature};
use turn::{Flight, Refused, Visit};

/// How often they fly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// In which each partition has its canary once.
    pub(crate) turn: Duration,
    /// In which each partition's held ones are counted once.
    pub(crate) held_turn: Duration,
    /// For which they are held.
    pub(crate) hold: Duration,
}

/// The canaries of a realm.
pub(crate) struct Canaries {
    // Static after construction.
    dial: Dial,
    codes: Vec<Token>,
    pace: Pace,
    directory: Arc<StateDirectory>,
    metrics: Metrics,
    together: Arc<Semaphore>,
    // Each guarded by its own lock; never two at once.
    book: Mutex<Book>,
    ledger: Mutex<Ledger>,
    flying: Mutex<HashSet<(Nature, u8)>>,
}

const BOOK: &str = "canaries.json";

impl Canaries {
    /// Finds their mailboxes, or those that were found before.
    ///
    /// # Errors
    /// [`Failure`], about the shard key, the invite codes or the state directory.
    pub(crate) fn new(
        relay: RelayAddress,
        relay_state: &Path,
        codes: Option<&Path>,
        pace: Pace,
        (directory, metrics): (Arc<StateDirectory>, Metrics),
    ) -> Result<Self, Failure> {
        let codes = codes.map(read_codes).transpose()?.unwrap_or_default();
        let shards = ShardKey::new(&read_shard_key(relay_state)?);
        let mut book: Book = state::read(&directory, BOOK)?;
        if book.realm.is_empty() {
            book = Book::new(&relay.realm, &shards);
            state::write(&directory, BOOK, &book)?;
        } else if !book.is_of(&relay.realm) {
            let path = directory.file(BOOK);
            let said = format!(
                "{}: these canaries are of another realm, or damaged; give this watch a state \
                 directory of its own (--state)",
                path.display()
            );
            return Err(Failure::new(said, Exit::Data));
        }
        metrics.canaries_held(book.count_held());
        Ok(Self {
            dial: Dial::new(relay),
            codes,
            pace,
            directory,
            metrics,
            together: Arc::new(Semaphore::new(CANARIES_TOGETHER)),
            book: Mutex::new(book),
            ledger: Mutex::default(),
            flying: Mutex::default(),
        })
    }

    /// What there is to tell in this round.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.metrics.canaries_held(self.book().count_held());
        lock(&self.ledger).findings()
    }

    /// Sends them out, one after the other, without an end. Dropped, those under way are dropped too.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(
            Arc::clone(&self).turns(Nature::Quick, self.pace.turn),
            Arc::clone(&self).turns(Nature::Held, self.pace.held_turn),
        );
    }

    async fn turns(self: Arc<Self>, nature: Nature, turn: Duration) {
        let mut ticks = interval(turn / SHARDS as u32);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tasks = JoinSet::new();
        for partition in (0..=u8::MAX).cycle() {
            ticks.tick().await;
            // Ended ones need no one to wait for them.
            while tasks.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&self.together).acquire_owned().await else { return };
            if !lock(&self.flying).insert((nature, partition)) {
                continue;
            }
            let canaries = Arc::clone(&self);
            tasks.spawn(async move {
                canaries.one(nature, partition).await;
                lock(&canaries.flying).remove(&(nature, partition));
                drop(permit);
            });
        }
    }

    async fn one(&self, nature: Nature, partition: u8) {
        let done = match nature {
            Nature::Quick => self.quick(partition).await,
            Nature::Held => self.held(partition).await,
        };
        let Err(refused) = done else { return };
        if refused.is_about_tokens() {
            self.change(nature, partition, |nest| nest.tokens = None);
        }
        // Joins are let in a few a minute: the others have their turn later.
        if refused.reason == Some(Reason::RateLimited) {
            return;
        }
        self.metrics.canary(Fate::Refused);
        tracing::debug!(partition, why = %refused, "a canary was not taken");
        lock(&self.ledger).refused(partition, nature, &refused);
    }

    async fn quick(&self, partition: u8) -> Result<(), Refused> {
        let (owner, member, capability) = self.tokens(Nature::Quick, partition).await?;
        let flight = turn::fly(&self.dial, &owner, (&member, &capability)).await?;
        let (fate, took) = match flight {
            Flight::Back(took) => (Fate::Returned, Some(took)),
            Flight::Late(took) => (Fate::Late, Some(took)),
            Flight::Lost => (Fate::Lost, None),
            Flight::Doubled => (Fate::Doubled, None),
        };
        self.metrics.canary(fate);
        if let Some(took) = took {
            self.metrics.canary_took(took.as_secs_f64());
        }
        lock(&self.ledger).flew(partition, flight);
        Ok(())
    }

    async fn held(&self, partition: u8) -> Result<(), Refused> {
        let (owner, member, capability) = self.tokens(Nature::Held, partition).await?;
        let visit = Visit::begin(&self.dial, &owner, &member).await?;
        let found: Vec<Id> = visit.found.iter().map(|(id, _)| id.clone()).collect();
        let (now, hold) = (now_seconds(), self.pace.hold.as_secs());
        let before = self.nest(Nature::Held, partition).frames.len();
        let counted =
            self.change(Nature::Held, partition, |nest| book::count(nest, &found, hold, now));
        let after = self.nest(Nature::Held, partition).frames.len();
        self.save()?;
        visit.acknowledge(counted.done);
        (0..counted.lost).for_each(|_| self.metrics.canary(Fate::Lost));
        (0..counted.doubled).for_each(|_| self.metrics.canary(Fate::Doubled));
        (after + counted.lost..before).for_each(|_| self.metrics.canary(Fate::Returned));
        lock(&self.ledger).counted(partition, counted.lost, counted.doubled);
        if after < HELD_MAX {
            self.hold(partition, &visit, &capability, now).await?;
        }
        visit.end(None).await;
        Ok(())
    }

    /// Posts one more that is to be held. It is in the book before it is posted: of one that was posted
    /// by a watch that died it is known that it may be there.
    async fn hold(
        &self,
        partition: u8,
        visit: &Visit,
        capability: &Token,
        now: u64,
    ) -> Result<(), Refused> {
        let frame = random::frame_id();
        let id = Id::from(&frame);
        let held = Held { id: id.clone(), posted: now, accepted: false };
        self.change(Nature::Held, partition, |nest| nest.frames.push(held));
        self.save()?;
        visit.post(frame, capability).await?;
        self.change(Nature::Held, partition, |nest| {
            nest.frames
                .iter_mut()
                .filter(|held| held.id == id)
                .for_each(|held| held.accepted = true);
        });
        self.save()
    }

    /// Whose a mailbox is, and its tokens: those there are, or new ones.
    async fn tokens(
        &self,
        nature: Nature,
        partition: u8,
    ) -> Result<(OwnerKeyPair, Token, Token), Refused> {
        let nest = self.nest(nature, partition);
        let owner = nest.owner().ok_or_else(|| Refused::of("read the book", "it is damaged"))?;
        let today = now_seconds() / DAY;
        let there = nest.tokens.as_ref().and_then(|tokens| Some((tokens.read()?, tokens.day)));
        let (member, capability) = match there {
            Some((tokens, day)) if today.saturating_sub(day) < TOKEN_RENEW_DAYS => {
                return Ok((owner, tokens.0, tokens.1));
            }
            Some(((member, _), _)) => turn::renew(&self.dial, &owner, &member).await?,
            None => {
                let number = usize::from(partition) + SHARDS * usize::from(nature == Nature::Held);
                turn::join(&self.dial, &owner, self.codes.get(number)).await?
            }
        };
        let tokens = Tokens::new(&member, &capability, today);
        self.change(nature, partition, |nest| nest.tokens = Some(tokens));
        self.save()?;
        Ok((owner, member, capability))
    }

    fn nest(&self, nature: Nature, partition: u8) -> Nest {
        self.change(nature, partition, |nest| nest.clone())
    }

    fn change<T>(&self, nature: Nature, partition: u8, change: impl FnOnce(&mut Nest) -> T) -> T {
        let mut book = self.book();
        let nests = match nature {
            Nature::Quick => &mut book.quick,
            Nature::Held => &mut book.held,
        };
        // A book is whole: `Book::is_of`.
        change(&mut nests[usize::from(partition)])
    }

    fn save(&self) -> Result<(), Refused> {
        let book = self.book();
        let saved = state::write(&self.directory, BOOK, &*book);
        saved.map_err(|failure| Refused::of("keep the book", failure.said))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

const DAY: u64 = 86_400;

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().expect("no one panics while it holds the lock")
}

/// Seconds since 1970.
pub(crate) fn now_seconds() -> u64 {
    u64::try_from(now_ms() / 1_000).unwrap_or_default()
}

/// Invite codes, one a line, as `valise invite-code` prints them.
fn read_codes(path: &Path) -> Result<Vec<Token>, Failure> {
    let wrong = |said: String| Failure::new(format!("{}: {said}", path.display()), Exit::Data);
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let code = |(number, line)| {
        Token::from_text(line).map_err(|_| wrong(format!("line {number} is no invite code")))
    };
    let codes: Vec<Token> = (1..).zip(lines).map(code).collect::<Result<_, Failure>>()?;
    match codes.len() {
        enough if enough >= 2 * SHARDS => Ok(codes),
        few => Err(wrong(format!(
            "{few} invite codes, and canaries need {}: valise invite-code --count {}",
            2 * SHARDS,
            2 * SHARDS,
        ))),
    }
}
