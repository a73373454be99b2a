//! Makes a history that shows a fault as short as it gets.

use super::history::{History, Op};

/// Histories tried at most.
const TRIES: usize = 600;

/// The shortest history found that still shows a fault, and the fault.
pub(super) fn shrink(
    mut history: History,
    mut found: String,
    fault: impl Fn(&History) -> Option<String>,
) -> (History, String) {
    let mut tries = 0;
    let mut accept = |candidate: History, history: &mut History| {
        tries += 1;
        let Some(again) = (tries <= TRIES).then(|| fault(&candidate)).flatten() else {
            return false;
        };
        found = again;
        *history = candidate;
        true
    };
    let mut len = history.ops.len() / 2;
    while len > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < history.ops.len() {
            let mut candidate = history.clone();
            candidate.ops.drain(at..(at + len).min(history.ops.len()));
            if accept(candidate, &mut history) {
                shorter = true;
            } else {
                at += len;
            }
        }
        if len > 1 || !shorter {
            len /= 2;
        }
    }
    for at in 0..history.ops.len() {
        let mut candidate = history.clone();
        if simplify(&mut candidate.ops[at]) {
            accept(candidate, &mut history);
        }
    }
    (history, found)
}

/// The same operation with fewer parts; false when it has none to lose.
fn simplify(op: &mut Op) -> bool {
    match op {
        Op::Post { to, .. } | Op::Retry { to, .. } if to.len() > 1 => to.truncate(1),
        Op::Pull { within, .. } | Op::Turn { within, .. } if *within != (0, 0) => *within = (0, 0),
        _ => return false,
    }
    true
}
