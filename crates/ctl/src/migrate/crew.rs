//! All shards' importers: rounds of turns, a few at a time, and what they saw.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::sleep;
use valise::store::SHARDS;
use valise::store::jetstream::Center;
use valise_migration::importer::Aim;
use valise_migration::ledger::Stage;
use valise_migration::real::RealLedger;
use valise_migration::wire::{Answer, Question};
use valise_migration::{Migration, Refusal};

use super::ebb::Ebb;
use super::link::Session;
use super::passing::Passing;
use super::shard::{Place, Run, Seen, Trouble};
use crate::limits::{CUT_LEFT_MAX, CUT_TOGETHER, CUT_TURNS, TURN_WAIT_MS};

/// The importers of all shards.
pub(crate) struct Crew {
    runs: Vec<AsyncMutex<Run>>,
    seen: Mutex<Vec<Seen>>,
    trouble: Mutex<Option<String>>,
    passing: Arc<Passing>,
    parallel: usize,
    migration: AtomicU32,
    ebb: Mutex<Ebb>,
}

/// How a round went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Round {
    /// Shards whose turn ended before there was nothing to do.
    pub(crate) troubled: usize,
}

impl Crew {
    pub(crate) fn new(center: &Arc<Center>, passing: Arc<Passing>, parallel: usize) -> Self {
        let run = |shard| AsyncMutex::new(Run::new(Arc::clone(center), shard));
        Self {
            runs: (0..=u8::MAX).map(run).collect(),
            seen: Mutex::new(vec![Seen::default(); SHARDS]),
            trouble: Mutex::default(),
            passing,
            parallel,
            migration: AtomicU32::new(1),
            ebb: Mutex::default(),
        }
    }

    /// What was seen of each shard last.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen_now().clone()
    }

    /// What was wrong last, until a round without it.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble_now().clone()
    }

    /// The number of the migration that is under way or would begin.
    pub(crate) fn migration(&self) -> Migration {
        Migration(self.migration.load(Ordering::Relaxed))
    }

    /// Reads every ledger, and every report where the supernode can be asked.
    ///
    /// # Errors
    /// [`Trouble`], of the data centre.
    pub(crate) async fn look(&self, session: Option<&Session>) -> Result<(), Trouble> {
        let looked = stream::iter(0..self.runs.len()).map(|shard| async move {
            let mut seen = self.seen_now()[shard];
            let looked = self.runs[shard].lock().await.look(&mut seen).await;
            looked.map(|()| self.seen_now()[shard].ledger = seen.ledger)
        });
        let looked: Vec<_> = looked.buffer_unordered(self.parallel).collect().await;
        looked.into_iter().collect::<Result<(), _>>()?;
        let ledgers: Vec<_> = self.seen_now().iter().filter_map(|seen| seen.ledger).collect();
        self.migration.store(number(&ledgers).0, Ordering::Relaxed);
        if let Some(session) = session {
            self.ask_reports(session).await?;
        }
        Ok(())
    }

    /// Asks the supernode how all shards are.
    ///
    /// # Errors
    /// [`Trouble::Unknown`].
    pub(crate) async fn ask_reports(&self, session: &Session) -> Result<(), Trouble> {
        let Answer::Reports(reports) = session.ask(Question::Reports).await? else {
            return Err(Trouble::Unknown);
        };
        for (seen, report) in self.seen_now().iter_mut().zip(reports) {
            seen.report = Some(report);
        }
        Ok(())
    }

    /// One turn of each of these shards.
    pub(crate) async fn round(
        &self,
        session: &Session,
        aim: Aim,
        which: impl Fn(&Seen) -> bool,
    ) -> Round {
        let shards: Vec<usize> = {
            let seen = self.seen_now();
            (0..seen.len()).filter(|shard| which(&seen[*shard])).collect()
        };
        let turns = stream::iter(shards).map(|shard| self.turn(session, shard, aim));
        let outcomes: Vec<_> = turns.buffer_unordered(self.parallel).collect().await;
        let troubled = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        if troubled == 0 {
            *self.trouble_now() = None;
        }
        Round { troubled }
    }

    /// Cuts these shards over, a few at a time, while it may go on.
    pub(crate) async fn cut(
        &self,
        session: &Session,
        migration: Migration,
        may_go_on: impl Fn() -> bool,
    ) -> Round {
        let shards: Vec<usize> = {
            let seen = self.seen_now();
            let not_moved = |shard: &usize| seen[*shard].place() < Place::Moved;
            (0..seen.len()).filter(not_moved).collect()
        };
        let may_go_on = &may_go_on;
        let cuts = stream::iter(shards).map(|shard| async move {
            if !self.clients_keep_up(session, may_go_on).await? {
                return Ok(());
            }
            self.cut_one(session, migration, shard).await
        });
        let outcomes: Vec<_> = cuts.buffer_unordered(CUT_TOGETHER).collect().await;
        Round { troubled: outcomes.iter().filter(|outcome| outcome.is_err()).count() }
    }

    /// Waits until so few clients are behind that one more shard may be cut over; false when none may.
    async fn clients_keep_up(
        &self,
        session: &Session,
        may_go_on: &impl Fn() -> bool,
    ) -> Result<bool, Trouble> {
        loop {
            if !may_go_on() {
                return Ok(false);
            }
            let Answer::Users(users) = session.ask(Question::Users).await? else {
                return Err(Trouble::Unknown);
            };
            let now = Instant::now();
            if self.ebb.lock().expect("no one panics here").allows(users.attachments, now) {
                return Ok(true);
            }
            sleep(Duration::from_millis(TURN_WAIT_MS)).await;
        }
    }

    async fn cut_one(
        &self,
        session: &Session,
        migration: Migration,
        shard: usize,
    ) -> Result<(), Trouble> {
        // What has come since: it need not wait for it while it is sealed.
        self.turn(session, shard, Aim::Copy(migration)).await?;
        for _ in 0..CUT_TURNS {
            self.turn(session, shard, Aim::Cut(migration)).await?;
            if self.seen_now()[shard].place() >= Place::Moved {
                return Ok(());
            }
            // Its record is on its way to the supernode's disk.
            sleep(Duration::from_millis(TURN_WAIT_MS)).await;
        }
        Err(Trouble::Unknown)
    }

    /// Whether every shard is copied up to a little.
    pub(crate) fn is_followed(&self) -> bool {
        self.seen_now().iter().all(|seen| seen.is_followed() && seen.left() <= CUT_LEFT_MAX)
    }

    /// Whether every shard is at least there.
    pub(crate) fn all(&self, place: Place) -> bool {
        self.seen_now().iter().all(|seen| seen.place() >= place)
    }

    async fn turn(&self, session: &Session, shard: usize, aim: Aim) -> Result<(), Trouble> {
        let mut seen = self.seen_now()[shard];
        let outcome = self.runs[shard].lock().await.turn(session, aim, &mut seen).await;
        self.seen_now()[shard] = seen;
        if seen.place() >= Place::Owned {
            self.passing.owned(u8::try_from(shard).expect("there are 256 shards"));
        }
        match &outcome {
            Ok(()) => {}
            Err(Trouble::Unknown) => {
                let said = "there was no answer, from the supernode or the data centre".to_owned();
                self.trouble_now().get_or_insert(said);
            }
            // It says so until its clients have gone.
            Err(Trouble::Refused(Refusal::Left)) if matches!(aim, Aim::Wipe { .. }) => {}
            Err(Trouble::Refused(refusal)) => {
                *self.trouble_now() = Some(format!("shard {shard:02x}: {refusal}"));
            }
            Err(Trouble::Wrong(said)) => {
                *self.trouble_now() = Some(format!("shard {shard:02x}: {said}"));
            }
        }
        outcome
    }

    fn seen_now(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().expect("no one panics while it holds the lock")
    }

    fn trouble_now(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().expect("no one panics while it holds the lock")
    }
}

/// The migration that is under way, by its ledgers; or the next one, where the last was given up.
fn number(ledgers: &[RealLedger]) -> Migration {
    let newest = ledgers.iter().map(|ledger| ledger.migration).max().unwrap_or(Migration(0));
    let given_up = |ledger: &&RealLedger| ledger.stage == Stage::Aborted;
    let over = ledgers.iter().filter(given_up).any(|ledger| ledger.migration == newest);
    if newest == Migration(0) || over { newest.next() } else { newest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valise_migration::real::RealCursor;
    use valise_migration::{Boot, Version};

    #[test]
    fn one_that_is_under_way_goes_on() {
        let ledger = |migration, stage| RealLedger {
            migration: Migration(migration),
            version: Version(1),
            boot: Boot(1),
            stage,
        };
        let importing = Stage::Importing(RealCursor::start());
        assert_eq!(number(&[]), Migration(1));
        assert_eq!(number(&[ledger(3, importing), ledger(2, Stage::Aborted)]), Migration(3));
        assert_eq!(number(&[ledger(3, importing), ledger(3, Stage::Aborted)]), Migration(4));
        assert_eq!(number(&[ledger(3, Stage::Aborted)]), Migration(4));
    }
}
