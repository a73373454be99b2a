//! What a relay prints.

use std::io::{BufRead, BufReader};
use std::process::ChildStdout;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::PATIENCE;

/// What the process has printed, filled by a thread of its own.
#[derive(Default)]
pub(super) struct Output {
    printed: Mutex<Printed>,
    more: Condvar,
}

#[derive(Default)]
pub(super) struct Printed {
    pub(super) lines: Vec<String>,
    ended: bool,
}

impl Output {
    pub(super) fn collect(stdout: ChildStdout) -> Arc<Self> {
        let output = Arc::new(Self::default());
        let filled = output.clone();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                filled.lock().lines.push(line);
                filled.more.notify_all();
            }
            filled.lock().ended = true;
            filled.more.notify_all();
        });
        output
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first line that `find` finds something in; `None` once the output has ended, or
    /// patience has.
    pub(super) fn wait_for<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let until = Instant::now() + PATIENCE;
        let mut printed = self.lock();
        loop {
            if let Some(found) = printed.lines.iter().find_map(|line| find(line)) {
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if printed.ended || left.is_zero() {
                return None;
            }
            printed =
                self.more.wait_timeout(printed, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
