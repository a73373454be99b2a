//! One shard's importer: it does what the machine of `valise_migration` asks for, and says what it saw.

use std::sync::Arc;

use bytes::Bytes;
use valise::store::jetstream::{
    BusError, Center, Changed, ImportError, ShardImport, fitting, stream,
};
use valise_migration::importer::{Action, Aim, Importer, Input, Report};
use valise_migration::ledger::Stage;
use valise_migration::real::{Real, RealLedger};
use valise_migration::wire::{Answer, Question};
use valise_migration::{Migration, Position, Refusal, Shard};

use super::link::{Lost, Session};

/// The importer of one shard.
pub(crate) struct Run {
    center: Arc<Center>,
    shard: u8,
    import: ShardImport,
    /// Where the stretch that is under way begins.
    from: Position,
}

/// What is known of a shard.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// What the supernode says.
    pub(crate) report: Option<Report<Real>>,
    /// What the data centre says.
    pub(crate) ledger: Option<RealLedger>,
    /// Entries of its log that this process has copied.
    pub(crate) copied: u64,
}

/// Where a shard is, as people think of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Nothing was begun, or it was given up and cleared.
    Waiting,
    /// Its log is being copied.
    Copying,
    /// It is sealed.
    Sealed,
    /// The data centre's; the supernode has not been told yet.
    Owned,
    /// The data centre's, and the supernode passes posts on.
    Moved,
    /// Wiped at the supernode.
    Gone,
}

/// Why a turn ended before there was nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There was no answer.
    Unknown,
    /// The supernode would not, or the machine cannot go on.
    Refused(Refusal),
    /// It does not get better by itself.
    Wrong(String),
}

impl Seen {
    pub(crate) fn place(&self) -> Place {
        let shard = self.report.map(|report| report.shard);
        match self.ledger.map(|ledger| ledger.stage) {
            None | Some(Stage::Aborted) => Place::Waiting,
            Some(Stage::Importing(_)) if matches!(shard, Some(Shard::Sealed(_))) => Place::Sealed,
            Some(Stage::Importing(_)) => Place::Copying,
            Some(Stage::Owned(_)) => match shard {
                Some(Shard::Forward { .. }) => Place::Moved,
                Some(Shard::Gone { .. }) => Place::Gone,
                _ => Place::Owned,
            },
        }
    }

    /// Entries that are at the supernode and not at the data centre.
    pub(crate) fn left(&self) -> u64 {
        let Some(report) = self.report else { return 0 };
        match self.ledger.map(|ledger| ledger.stage) {
            Some(Stage::Importing(cursor)) => report.durable.0.saturating_sub(cursor.next.0),
            Some(Stage::Owned(_)) => 0,
            None | Some(Stage::Aborted) => report.durable.0,
        }
    }

    /// Whether it may be cut over, as far as the shard is concerned.
    pub(crate) fn is_followed(&self) -> bool {
        let serves = matches!(self.report, Some(Report { shard: Shard::Local { .. }, .. }));
        match self.place() {
            Place::Copying => serves,
            Place::Sealed | Place::Owned | Place::Moved | Place::Gone => true,
            Place::Waiting => false,
        }
    }
}

impl Run {
    pub(crate) fn new(center: Arc<Center>, shard: u8) -> Self {
        let import = ShardImport::new(Arc::clone(&center), shard);
        Self { center, shard, import, from: Position(0) }
    }

    /// Does what there is to do for this aim now. What it saw is in `seen`, whatever the outcome.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn turn(
        &mut self,
        session: &Session,
        mut aim: Aim,
        seen: &mut Seen,
    ) -> Result<(), Trouble> {
        let mut importer = Importer::Idle;
        let mut input = Input::Woken;
        loop {
            if let Input::Ledger(Some(ledger)) = &input {
                aim = beyond(aim, ledger);
            }
            let (next, action) = importer.step(aim, input).map_err(Trouble::Refused)?;
            let Some(action) = action else { return Ok(()) };
            self.has_room(aim, &action)?;
            importer = next;
            input = self.act(session, action, seen).await?;
        }
    }

    /// Nothing more is copied into a stream that is nearly full.
    fn has_room(&self, aim: Aim, action: &Action<Real, Bytes>) -> Result<(), Trouble> {
        let copies = matches!((aim, action), (Aim::Copy(_), Action::Fetch(_)));
        if copies && self.center.is_full(self.shard) {
            let said = format!(
                "stream {} is nearly full: give the streams more room (cluster.stream_mib)",
                stream(self.shard)
            );
            return Err(Trouble::Wrong(said));
        }
        Ok(())
    }

    /// Reads the ledger, and asks nobody else.
    pub(crate) async fn look(&mut self, seen: &mut Seen) -> Result<(), Trouble> {
        seen.ledger = self.import.read_ledger().await.map_err(of_bus)?;
        Ok(())
    }

    async fn act(
        &mut self,
        session: &Session,
        action: Action<Real, Bytes>,
        seen: &mut Seen,
    ) -> Result<Input<Real, Bytes>, Trouble> {
        Ok(match action {
            Action::Report => match session.ask(Question::Report(self.shard)).await? {
                Answer::Report(report) => {
                    seen.report = Some(*report);
                    Input::Report(*report)
                }
                _ => return Err(nonsense()),
            },
            Action::ReadLedger => {
                self.look(seen).await?;
                Input::Ledger(seen.ledger)
            }
            Action::Fetch(from) => match session.ask(Question::Fetch(self.shard, from)).await? {
                Answer::Lines(digest, lines) => {
                    let lines = fitting(lines);
                    self.from = from;
                    self.import.comes(&lines).map_err(of_bus)?;
                    Input::Lines(digest, lines)
                }
                _ => return Err(nonsense()),
            },
            Action::Remove(migration, removals) => {
                let of = (migration, self.from);
                self.import.remove(of, &removals).await.map_err(of_bus)?;
                Input::Removed
            }
            Action::Change { before, after, writes } => {
                match self.import.change(before, after, &writes).await {
                    Ok(Changed::Done) => {
                        seen.copied += moved_on(before, after);
                        seen.ledger = Some(after);
                        Input::Changed
                    }
                    Ok(Changed::Outdated) => Input::Conflict,
                    Err(ImportError::Bus(error)) => return Err(of_bus(error)),
                    Err(error) => return Err(Trouble::Wrong(error.to_string())),
                }
            }
            Action::Clear(ledger) => {
                self.import.clear(&ledger).await.map_err(of_bus)?;
                Input::Removed
            }
            Action::Tell(boot, request) => {
                match session.ask(Question::Tell(self.shard, boot, request)).await? {
                    // The machine has an answer to this one, and asks for a report after any other.
                    Answer::Told(Err(refusal)) if refusal != Refusal::Diverged => {
                        return Err(Trouble::Refused(refusal));
                    }
                    Answer::Told(told) => Input::Told(told),
                    _ => return Err(nonsense()),
                }
            }
        })
    }
}

/// A migration that was given up is followed by one of a higher number.
fn beyond(aim: Aim, ledger: &RealLedger) -> Aim {
    let next = |of: Migration| match ledger.stage {
        Stage::Aborted if of <= ledger.migration => ledger.migration.next(),
        _ => of,
    };
    match aim {
        Aim::Copy(of) => Aim::Copy(next(of)),
        Aim::Cut(of) => Aim::Cut(next(of)),
        aim => aim,
    }
}

/// By how many entries the cursor has moved on.
fn moved_on(before: Option<RealLedger>, after: RealLedger) -> u64 {
    let place = |ledger: RealLedger| ledger.importing().map_or(0, |cursor| cursor.next.0);
    place(after).saturating_sub(before.map_or(0, place))
}

fn nonsense() -> Trouble {
    Trouble::Wrong("the supernode's answer is not to what it was asked".to_owned())
}

fn of_bus(error: BusError) -> Trouble {
    if error.is_passing() { Trouble::Unknown } else { Trouble::Wrong(error.to_string()) }
}

impl From<Lost> for Trouble {
    fn from(Lost: Lost) -> Self {
        Self::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valise_migration::real::RealCursor;
    use valise_migration::{Boot, Cursor, Version};

    fn ledger(migration: u32, stage: Stage<Real>) -> RealLedger {
        RealLedger { migration: Migration(migration), version: Version(1), boot: Boot(1), stage }
    }

    #[test]
    fn a_number_is_never_used_twice() {
        let aborted = ledger(4, Stage::Aborted);
        assert_eq!(beyond(Aim::Copy(Migration(4)), &aborted), Aim::Copy(Migration(5)));
        assert_eq!(beyond(Aim::Cut(Migration(9)), &aborted), Aim::Cut(Migration(9)));
        assert_eq!(beyond(Aim::Abort, &aborted), Aim::Abort);
        let importing = ledger(4, Stage::Importing(RealCursor::start()));
        assert_eq!(beyond(Aim::Copy(Migration(4)), &importing), Aim::Copy(Migration(4)));
    }

    #[test]
    fn where_a_shard_is() {
        let log = Cursor { next: Position(9), digest: [0; 32] };
        let report = |shard| Some(Report { boot: Boot(1), shard, durable: Position(9) });
        let seen = |ledger, report| Seen { ledger, report, copied: 0 };
        let local = Shard::Local { migration: Migration(4), version: Version(1), log };
        let importing = Some(ledger(4, Stage::Importing(RealCursor::start())));
        let copying = seen(importing, report(local));
        assert_eq!((copying.place(), copying.left()), (Place::Copying, 9));
        assert!(copying.is_followed());
        let unsure = Shard::Unsure { migration: Migration(4), log };
        assert!(!seen(importing, report(unsure)).is_followed());
        let owned = Some(ledger(4, Stage::Owned(log)));
        let forward = Shard::Forward { migration: Migration(4), end: log };
        assert_eq!(seen(owned, report(forward)).place(), Place::Moved);
        assert_eq!(seen(owned, report(local)).place(), Place::Owned);
        assert_eq!(seen(None, report(Shard::Plain)).place(), Place::Waiting);
    }
}
