//! The importer of one shard: it dials the supernode, reads there, writes to the data centre, and
//! is the only one that changes the ledger. `valisectl migrate` runs one for each shard.
//!
//! It keeps nothing that it cannot read again: after a crash, a timeout or a conflict it begins
//! with [`Importer::Idle`], asks the supernode what it is, and reads the ledger. So two of them
//! beside each other are safe too. What it does next is decided in [`decide`], from what it knows
//! and what is wanted; the rest is waiting for an answer.
//!
//! The shell matches answers to questions: an answer that comes after [`Input::Unknown`] is
//! dropped. What was asked may still happen, at any later time.

use serde::{Deserialize, Serialize};

use crate::entry::Line;
use crate::ledger::{Ledger, Seal, Stage};
use crate::plan::{Plan, Removal, Write};
use crate::refusal::Refusal;
use crate::scheme::{Boot, Migration, Position, Scheme};
use crate::shard::{Request, Shard};

/// What is wanted of a shard. It may change at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aim {
    /// Import, and follow.
    Copy(Migration),
    /// Cut over, and tell the supernode.
    Cut(Migration),
    /// Let the supernode serve again if it was sealed: the abort of one cutover.
    Release,
    /// Give the migration up.
    Abort,
    /// Remove what the supernode has, after everything moved.
    Wipe {
        /// Who still uses it there, as the supernode counts.
        users: usize,
    },
}

/// What a supernode says of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Report<S: Scheme> {
    /// Which life of its process says so.
    pub boot: Boot,
    /// The shard.
    pub shard: Shard<S>,
    /// The first place of the log that is not on the disk yet: entries are read up to here.
    pub durable: Position,
}

/// What it has learnt since it was idle. Either may be old by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Known<S: Scheme> {
    /// From the supernode.
    pub report: Report<S>,
    /// From the data centre.
    pub ledger: Option<Ledger<S>>,
}

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Importer<S: Scheme, B> {
    /// Knows nothing.
    Idle,
    /// Has asked for a report.
    Asking,
    /// Has asked for the ledger.
    Reading(Report<S>),
    /// Has asked for entries.
    Fetching(Known<S>, Ledger<S>),
    /// Has asked for removals.
    Removing(Known<S>, Ledger<S>, Plan<S, B>),
    /// Has asked for a change of the ledger.
    Changing(Known<S>, Ledger<S>),
    /// Has asked for the removal of everything that aborted migrations have imported.
    Clearing(Known<S>, Ledger<S>),
    /// Has asked something of the supernode.
    Telling(Known<S>),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<S: Scheme, B> {
    /// It is time: at the start, after a rest, when there is news.
    Woken,
    /// The supernode's answer to [`Action::Report`].
    Report(Report<S>),
    /// The data centre's answer to [`Action::ReadLedger`]: from the leader, never a replica.
    Ledger(Option<Ledger<S>>),
    /// The supernode's answer to [`Action::Fetch`]: durable entries, and the digest of its log up
    /// to the place asked for; none beyond its end.
    Lines(Option<S::Digest>, Vec<Line<S, B>>),
    /// Everything asked for is removed.
    Removed,
    /// The ledger is changed.
    Changed,
    /// The ledger was another one, and is not changed.
    Conflict,
    /// The supernode did it, or would not.
    Told(Result<(), Refusal>),
    /// No answer: it may have happened, or happen later.
    Unknown,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action<S: Scheme, B> {
    /// Ask the supernode for a [`Report`].
    Report,
    /// Read the ledger at the data centre.
    ReadLedger,
    /// Ask the supernode for entries from this place on.
    Fetch(Position),
    /// Remove these at the data centre, of what this migration has imported.
    Remove(Migration, Vec<Removal<S>>),
    /// In one atomic batch: write these, and change the ledger if it still is `before`.
    Change {
        /// What it has to be; none: absent.
        before: Option<Ledger<S>>,
        /// What it will be.
        after: Ledger<S>,
        /// What goes with it.
        writes: Vec<Write<S, B>>,
    },
    /// Remove everything this migration and earlier ones have imported: everything in the shard up
    /// to the sequence of this aborted ledger, and nothing after it.
    Clear(Ledger<S>),
    /// Ask this of the supernode, of the process with this boot and no other.
    Tell(Boot, Request<S>),
}

type Step<S, B> = (Importer<S, B>, Option<Action<S, B>>);

impl<S: Scheme, B: Clone> Importer<S, B> {
    /// One step. No action and [`Importer::Idle`] means: nothing to do now.
    ///
    /// # Errors
    /// [`Refusal::OutOfOrder`]: the answer is to nothing that was asked, or the report and the
    /// ledger are of different times and contradict each other. [`Refusal::Owned`]: it is too late
    /// to abort. Nothing has happened: the shell begins with [`Importer::Idle`] again, after a
    /// pause, and tells the operator what it was.
    pub fn step(self, aim: Aim, input: Input<S, B>) -> Result<Step<S, B>, Refusal> {
        Ok(match (self, input) {
            (Self::Idle, Input::Woken) => (Self::Asking, Some(Action::Report)),
            (Self::Asking, Input::Report(report)) => {
                (Self::Reading(report), Some(Action::ReadLedger))
            }
            (Self::Reading(report), Input::Ledger(ledger)) => {
                return decide(aim, Known { report, ledger }, false);
            }
            (Self::Fetching(known, ledger), Input::Lines(own, lines)) => {
                fetched(known, ledger, own, lines)?
            }
            (Self::Removing(known, ledger, plan), Input::Removed) => commit(known, ledger, plan)?,
            (Self::Changing(known, after), Input::Changed) => {
                return decide(aim, Known { ledger: Some(after), ..known }, false);
            }
            (Self::Clearing(known, _), Input::Removed) => return decide(aim, known, true),
            (Self::Telling(known), Input::Told(Err(Refusal::Diverged))) => {
                let boot = known.report.boot;
                match known.ledger {
                    Some(ledger) => change(known, ledger, ledger.abort(boot)?),
                    None => (Self::Idle, None),
                }
            }
            (Self::Telling(_), Input::Told(_)) => (Self::Asking, Some(Action::Report)),
            (Self::Changing(..), Input::Conflict) | (_, Input::Unknown) => (Self::Idle, None),
            _ => return Err(Refusal::OutOfOrder),
        })
    }
}

/// What to do next: the whole importer in one table.
///
/// # Errors
/// As [`Importer::step`].
pub fn decide<S: Scheme, B>(
    aim: Aim,
    known: Known<S>,
    cleared: bool,
) -> Result<Step<S, B>, Refusal> {
    let boot = known.report.boot;
    let Some(ledger) = known.ledger else { return open(aim, known) };
    match (ledger.stage, known.report.shard) {
        // Busy for a moment.
        (_, Shard::Writing { .. }) => Ok(rest()),

        (Stage::Owned(_), Shard::Forward { .. }) => match aim {
            Aim::Wipe { users } => Ok(tell(known, Request::Wipe { ledger, users })),
            Aim::Abort => Err(Refusal::Owned),
            _ => Ok(rest()),
        },
        (Stage::Owned(_), Shard::Gone { .. }) => Ok(rest()),
        (Stage::Owned(_), _) => Ok(show(known, ledger)),

        (Stage::Aborted, Shard::Plain) if !cleared => Ok(clear(known, ledger)),
        (Stage::Aborted, Shard::Plain) => open(aim, known),

        // The supernode serves without a log, or had another: it was restored.
        (Stage::Importing(cursor), Shard::Plain) if cursor.next > Position(0) => {
            Ok(change(known, ledger, ledger.abort(boot)?))
        }
        // Its log is of a migration that was given up: a question from then came late.
        (Stage::Importing(_), shard)
            if shard.migration().is_some_and(|of| of != ledger.migration) =>
        {
            Ok(change(known, ledger, ledger.abort(boot)?))
        }
        (Stage::Importing(_), _) if aim == Aim::Abort => {
            Ok(change(known, ledger, ledger.abort(boot)?))
        }
        (Stage::Importing(_), Shard::Plain) if ledger.boot == boot => {
            Ok((Importer::Telling(known), Some(Action::Tell(boot, begin(ledger)))))
        }
        (Stage::Importing(cursor), Shard::Local { .. }) => {
            Ok(follow(aim, known, ledger, cursor.next))
        }
        (Stage::Importing(cursor), Shard::Sealed(seal)) if aim != Aim::Release => {
            finish(known, ledger, cursor.next, seal)
        }
        (Stage::Importing(_), Shard::Sealed(seal))
            if ledger.boot == boot && ledger.version > seal.version =>
        {
            Ok(show(known, ledger))
        }
        (Stage::Importing(_) | Stage::Aborted, Shard::Unsure { .. } | Shard::Local { .. })
            if ledger.boot == boot =>
        {
            Ok(show(known, ledger))
        }
        (Stage::Aborted, Shard::Sealed(_)) if ledger.boot == boot => Ok(show(known, ledger)),
        // What the ledger allows is not for this boot: a new version is.
        (
            Stage::Importing(_) | Stage::Aborted,
            Shard::Plain | Shard::Unsure { .. } | Shard::Local { .. } | Shard::Sealed(_),
        ) => Ok(change(known, ledger, ledger.renew(boot)?)),
        (_, Shard::Forward { .. } | Shard::Gone { .. }) => Err(Refusal::OutOfOrder),
    }
}

fn open<S: Scheme, B>(aim: Aim, known: Known<S>) -> Result<Step<S, B>, Refusal> {
    let (Aim::Copy(migration) | Aim::Cut(migration)) = aim else { return Ok(rest()) };
    if known.report.shard != Shard::Plain {
        return Err(Refusal::OutOfOrder);
    }
    let after = Ledger::open(known.ledger, migration, known.report.boot)?;
    let action = Action::Change { before: known.ledger, after, writes: Vec::new() };
    Ok((Importer::Changing(known, after), Some(action)))
}

/// The shell fills in the end of the log: only the supernode knows what there is.
fn begin<S: Scheme>(ledger: Ledger<S>) -> Request<S> {
    Request::Begin { ledger, existing: crate::Cursor::start() }
}

fn follow<S: Scheme, B>(
    aim: Aim,
    known: Known<S>,
    ledger: Ledger<S>,
    next: Position,
) -> Step<S, B> {
    if next < known.report.durable {
        return fetch(known, ledger, next);
    }
    match aim {
        Aim::Cut(_) => {
            let Ledger { migration, version, .. } = ledger;
            tell(known, Request::Seal { migration, version })
        }
        _ => rest(),
    }
}

fn finish<S: Scheme, B>(
    known: Known<S>,
    ledger: Ledger<S>,
    next: Position,
    seal: Seal<S>,
) -> Result<Step<S, B>, Refusal> {
    let Ledger { migration, version, .. } = ledger;
    if seal.migration == migration && seal.version < version {
        return Ok(tell(known, Request::Seal { migration, version }));
    }
    if seal.migration == migration && next < seal.end.next {
        return Ok(fetch(known, ledger, next));
    }
    match ledger.activate(seal) {
        Ok(after) => Ok(change(known, ledger, after)),
        // The ledger that was read is older than the report: read again.
        Err(Refusal::Overtaken) => Ok(rest()),
        Err(_) => Ok(change(known, ledger, ledger.abort(known.report.boot)?)),
    }
}

fn fetched<S: Scheme, B: Clone>(
    known: Known<S>,
    ledger: Ledger<S>,
    own: Option<S::Digest>,
    lines: Vec<Line<S, B>>,
) -> Result<Step<S, B>, Refusal> {
    let cursor = ledger.importing()?;
    if own != Some(cursor.digest) {
        return Ok(change(known, ledger, ledger.abort(known.report.boot)?));
    }
    let Some(plan) = Plan::of(cursor, lines) else { return Ok(rest()) };
    if plan.removals.is_empty() {
        return commit(known, ledger, plan);
    }
    let action = Action::Remove(ledger.migration, plan.removals.clone());
    Ok((Importer::Removing(known, ledger, plan), Some(action)))
}

fn commit<S: Scheme, B>(
    known: Known<S>,
    ledger: Ledger<S>,
    plan: Plan<S, B>,
) -> Result<Step<S, B>, Refusal> {
    let after = ledger.advance(plan.from, plan.to)?;
    let action = Action::Change { before: Some(ledger), after, writes: plan.writes };
    Ok((Importer::Changing(known, after), Some(action)))
}

fn rest<S: Scheme, B>() -> Step<S, B> {
    (Importer::Idle, None)
}

fn fetch<S: Scheme, B>(known: Known<S>, ledger: Ledger<S>, from: Position) -> Step<S, B> {
    (Importer::Fetching(known, ledger), Some(Action::Fetch(from)))
}

fn change<S: Scheme, B>(known: Known<S>, before: Ledger<S>, after: Ledger<S>) -> Step<S, B> {
    let action = Action::Change { before: Some(before), after, writes: Vec::new() };
    (Importer::Changing(known, after), Some(action))
}

fn clear<S: Scheme, B>(known: Known<S>, ledger: Ledger<S>) -> Step<S, B> {
    (Importer::Clearing(known, ledger), Some(Action::Clear(ledger)))
}

/// The supernode fills in the digest of its own log.
fn show<S: Scheme, B>(known: Known<S>, ledger: Ledger<S>) -> Step<S, B> {
    tell(known, Request::Show { ledger, own: None })
}

fn tell<S: Scheme, B>(known: Known<S>, request: Request<S>) -> Step<S, B> {
    (Importer::Telling(known), Some(Action::Tell(known.report.boot, request)))
}
