//! Random histories of a relay: ring, spill, takeover, expiry, failures and kills together, with
//! other things happening in the middle of commits and reads. Each is played on the store in memory
//! and on the embedded one, which must look the same from outside, and is compared with a model of
//! what is owed. Everything follows from the seed.
//!
//! `VALISE_HISTORIES=N` plays N histories instead of a few; `VALISE_HISTORY_SEED=S` begins at S.

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

/// Seeds of histories that once found a fault.
const REGRESSIONS: &[u64] = &[315, 737, 1475, 2169, 3100];

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
fn histories_that_once_found_a_fault() {
    REGRESSIONS.iter().copied().for_each(judge);
}
