//! How long something is waited for.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long a fault may take to be found, and to be gone, and for how long work may stand still: elections
/// take up to 9 s, and the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// For work that takes as long as it takes: it lasts while that gets on, and [`PATIENCE`] beyond.
pub(crate) struct Patience {
    seen: BTreeSet<String>,
    give_up: Instant,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { seen: BTreeSet::new(), give_up: Instant::now() + PATIENCE }
    }

    /// What is left, now that the work is seen to be here. Where it has been before is no progress, so what
    /// comes and goes for ever ends too.
    pub(crate) fn left(&mut self, here: impl Debug) -> Duration {
        let now = Instant::now();
        if self.seen.insert(format!("{here:?}")) {
            self.give_up = now + PATIENCE;
        }
        self.give_up.saturating_duration_since(now)
    }
}
