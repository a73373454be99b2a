//! Whether clients keep up: a function of `(now, input)`. A device whose shard has moved gets nothing until
//! it has gone to the data centre, so shards are cut over as fast as that is done, and not faster.

use std::time::{Duration, Instant};

use crate::limits::{BEHIND_MAX, BEHIND_SECONDS};

/// Those that are still at the supernode though their shard has moved.
#[derive(Debug, Default)]
pub(crate) struct Ebb {
    /// Those that do not go: nobody waits for them again.
    stay: u32,
    /// Since when there are too many.
    since: Option<Instant>,
}

const PATIENCE: Duration = Duration::from_secs(BEHIND_SECONDS);

impl Ebb {
    /// Whether one more shard may be cut over, with so many behind.
    pub(crate) fn allows(&mut self, behind: u32, now: Instant) -> bool {
        self.stay = self.stay.min(behind);
        if behind <= self.stay.saturating_add(BEHIND_MAX) {
            self.since = None;
            return true;
        }
        let since = *self.since.get_or_insert(now);
        let too_long = now.duration_since(since) >= PATIENCE;
        if too_long {
            (self.stay, self.since) = (behind, None);
        }
        too_long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_wait_for_clients_and_not_for_those_that_stay() {
        let now = Instant::now();
        let mut ebb = Ebb::default();
        assert!(ebb.allows(BEHIND_MAX, now));
        assert!(!ebb.allows(BEHIND_MAX + 1, now));
        assert!(!ebb.allows(BEHIND_MAX + 1, now + PATIENCE - Duration::from_millis(1)));
        assert!(ebb.allows(BEHIND_MAX + 1, now + PATIENCE), "they do not go");
        let later = now + PATIENCE;
        assert!(ebb.allows(2 * BEHIND_MAX + 1, later), "nobody waits for those again");
        assert!(!ebb.allows(2 * BEHIND_MAX + 2, later));
        assert!(ebb.allows(BEHIND_MAX + 3, later), "some have gone");
        // Those that have gone after all make no room for others.
        assert!(ebb.allows(3, later));
        assert!(!ebb.allows(BEHIND_MAX + 4, later));
    }
}
