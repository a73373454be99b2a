//! Random histories of a relay: ring, spill, takeover, expiry, failures and kills together, with
//! other things happening in the middle of commits and reads. Each is played on the store in memory
//! and on the embedded one, which must look the same from outside, and is compared with a model of
//! what is owed. Everything follows from the seed; a history that shows a fault is shortened.
//!
//! The committer is turned by hand at a time of the history's own, so a thousand hours take no time.
//! A killed relay finds its files as they were in that moment, also in the middle of a write. A
//! store that fails is opened again in the same life of the relay, or never.
//!
//! `VALISE_HISTORIES=N` plays N histories instead of a few; `VALISE_HISTORY_SEED=S` begins at S.
//!
//! That they can find something was tried with broken builds. The seed is the first that finds it:
//!
//! | broken | seed |
//! |---|---|
//! | an acknowledgement covers one frame too few, or one too many | 1 |
//! | a removal does not name a frame that was being written | 425 |
//! | the floor stays when the last frame goes | 1 |
//! | the floor is ahead of what is held | 1 |
//! | frames in the ring pass those that were spilled before them | 2 |
//! | frames pass one that is spilled and undecided | 3 |
//! | ids of queued frames are forgotten with those that left | 145 |
//! | ids of a backlog that was loaded are not known | 1 |
//! | an id that has left is forgotten at once | 8 |
//! | expiry does not ask when a frame was accepted | 4 |
//! | expiry is an hour early | 83 |
//! | undecided frames expire | 35 |
//! | the hour is not persisted | 4 |
//! | a takeover does not tell the older attachment | 1 |
//! | a replaced attachment can acknowledge | 63 |
//! | a replaced attachment that goes stops the newer one | 1 |
//! | a batch is settled before it is committed | 10 |
//! | a failed batch is settled as durable | 11 |
//! | the next sequence number is not persisted | 1 |
//! | the totals forget frames that were never written | 5 |
//! | they are not written at the end | 43 |
//! | merged removals keep the older end | 76 |
//! | the expiry index keeps what is gone, or is forgotten by a restart | 1 |
//! | the ring of a detached mailbox counts for ever | 2 |
//! | a frame that became durable does not ring | 1 |
//! | a mailbox is forgotten while its removals wait | 1602 |
//! | a batch that was written is not found again when the store is back | 1 |
//! | removals of a failed batch are lost | 10 |
//! | appends of a failed batch are written after all | 4 |
//! | a frame in doubt is said to be accepted | 2064 |
//! | a frame in doubt is given up at once | 4 |
//! | what waited is not given up with the store | 1 |
//! | nobody rings when the store is back | 277 |
//! | the last frame that is given up leaves its floor | 496 |
//! | nobody catches up with what has expired | 41 |
//!
//! Two are not found, because nothing can be seen of them from outside: appends of a mailbox that
//! is no longer served wait for their grace, and removals merge across an append of their mailbox.

mod disk;
mod gate;
mod history;
mod model;
mod play;
mod shrink;
mod stage;

use std::panic::{AssertUnwindSafe, catch_unwind};

use disk::Disk;
use history::History;
use play::play;
use stage::Event;

/// Seeds of histories that found a fault which few others find.
const REGRESSIONS: &[u64] = &[425, 496, 1602, 2064];

/// Histories in one run, where nobody asks for more.
const HISTORIES: u64 = 1_500;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|value| value.parse().ok())
}

/// Plays it on one disk; a panic of the relay is a fault like another.
fn outcome(history: &History, disk: Disk) -> Result<Vec<Event>, String> {
    catch_unwind(AssertUnwindSafe(|| play(history, disk))).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", said.unwrap_or("without a word")))
    })
}

/// What is wrong with the relay, if this history shows it.
fn fault(history: &History) -> Option<String> {
    let memory = match outcome(history, Disk::memory()) {
        Ok(events) => events,
        Err(fault) => return Some(format!("in memory: {fault}")),
    };
    let embedded = match outcome(history, Disk::embedded()) {
        Ok(events) => events,
        Err(fault) => return Some(format!("embedded: {fault}")),
    };
    let differs = memory.iter().zip(&embedded).position(|(one, other)| one != other);
    match differs {
        Some(at) => Some(format!("in memory {:?}, embedded {:?}", memory[at], embedded[at])),
        None if memory.len() != embedded.len() => Some("one has seen more".to_owned()),
        None => None,
    }
}

fn judge(seed: u64) {
    let history = History::of(seed);
    if let Some(found) = fault(&history) {
        let (history, found) = shrink::shrink(history, found, fault);
        let History { setup, ops } = history;
        let ops: Vec<_> = ops.iter().map(|op| format!("  {op:?}")).collect();
        panic!("seed {seed}: {found}\n{setup:?}\n{}", ops.join("\n"));
    }
}

#[test]
fn histories() {
    let first = number_from("VALISE_HISTORY_SEED").unwrap_or(1);
    let count = number_from("VALISE_HISTORIES").unwrap_or(HISTORIES);
    let next = std::sync::atomic::AtomicU64::new(first);
    let work = || {
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            judge(seed);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn histories_that_found_what_few_others_find() {
    REGRESSIONS.iter().copied().for_each(judge);
}
