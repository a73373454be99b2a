//! How often is too often: the generic cell rate algorithm (ITU-T I.371) as a pure function.
//!
//! Own code, because the session and the mailboxes decide as functions of `now`, and the library
//! for this (governor) reads its own clock and keeps a second map beside ours.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// So many a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval: Duration,
    tolerance: Duration,
}

impl Rate {
    /// `per_second` on average; up to `burst` at once. Zeros count as one.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, tolerance: interval * (burst.max(1) - 1) }
    }

    /// So many on average in each such time, and as many at once. Zero counts as one.
    pub fn in_each(time: Duration, count: u32) -> Self {
        let interval = time / count.max(1);
        Self { interval, tolerance: interval * (count.max(1) - 1) }
    }
}

/// The rate of every class: class 0's where nothing else was said.
#[derive(Debug, Clone)]
pub struct RateClasses {
    default: Rate,
    others: Vec<(u8, Rate)>,
}

impl RateClasses {
    /// The rate of class 0, and those of other classes.
    pub fn new(default: Rate, others: Vec<(u8, Rate)>) -> Self {
        Self { default, others }
    }

    /// The rate of a class.
    pub fn of(&self, class: u8) -> &Rate {
        let other = self.others.iter().find(|(other, _)| *other == class && class != 0);
        other.map_or(&self.default, |(_, rate)| rate)
    }
}

/// The past of one source: when it would have used up all it took. A new one is full.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    used_up: Option<Instant>,
}

impl Bucket {
    /// Takes `cost` at once, whatever is left; the debt shows in the next [`Self::wait`].
    pub fn charge(&mut self, rate: &Rate, cost: u32, now: Instant) {
        let from = self.used_up.map_or(now, |at| at.max(now));
        self.used_up = Some(from + rate.interval * cost);
    }

    /// How long until one more may be taken; zero when it may now.
    pub fn wait(&self, rate: &Rate, now: Instant) -> Duration {
        self.used_up.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(now).saturating_sub(rate.tolerance)
        })
    }

    /// Takes `cost` if one may be taken; the rest is a debt.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take_many(&mut self, rate: &Rate, cost: u32, now: Instant) -> Result<(), Duration> {
        match self.wait(rate, now) {
            Duration::ZERO => {
                self.charge(rate, cost, now);
                Ok(())
            }
            wait => Err(wait),
        }
    }

    fn is_full(&self, now: Instant) -> bool {
        self.used_up.is_none_or(|at| at <= now)
    }
}

/// Buckets by source. Full ones are forgotten, so it holds the recently busy sources only.
#[derive(Debug)]
pub struct Buckets<K> {
    buckets: HashMap<K, Bucket>,
    prune_at: usize,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { buckets: HashMap::new(), prune_at: PRUNE_FIRST }
    }
}

/// Below this many buckets nothing is gained by forgetting.
const PRUNE_FIRST: usize = 16;

impl<K: Hash + Eq> Buckets<K> {
    /// Takes one from the source's bucket if it may be taken.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take(&mut self, source: K, rate: &Rate, now: Instant) -> Result<(), Duration> {
        self.take_many(source, rate, 1, now)
    }

    /// Takes `cost` from the source's bucket if one may be taken; the rest is a debt.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take_many(
        &mut self,
        source: K,
        rate: &Rate,
        cost: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        if self.buckets.len() >= self.prune_at {
            self.forget_full(now);
        }
        self.buckets.entry(source).or_default().take_many(rate, cost, now)
    }

    /// Forgets the sources that have not been busy lately.
    pub fn forget_full(&mut self, now: Instant) {
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
        self.prune_at = (self.buckets.len() * 2).max(PRUNE_FIRST);
        if self.buckets.is_empty() {
            self.buckets = HashMap::new();
        }
    }

    /// Whether no source has been busy lately.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Sources remembered.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::new(10, 3);
        let start = Instant::now();
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.take_many(&rate, 1, start), Ok(()));
        }
        assert_eq!(bucket.take_many(&rate, 1, start), Err(Duration::from_millis(100)));
        let later = start + Duration::from_millis(100);
        assert_eq!(bucket.take_many(&rate, 1, later), Ok(()));
        assert!(bucket.take_many(&rate, 1, later).is_err());
        assert_eq!(bucket.take_many(&rate, 1, later + Duration::from_secs(9)), Ok(()));
    }

    #[test]
    fn a_class_that_nobody_has_defined_is_the_default() {
        let [default, strict, lax] =
            [(50, 500), (5, 20), (200, 2_000)].map(|(a, b)| Rate::new(a, b));
        let classes = RateClasses::new(default, vec![(0, lax), (1, strict), (200, lax)]);
        let rates = [0, 1, 2, 200, 255].map(|class| *classes.of(class));
        assert_eq!(rates, [default, strict, default, lax, default]);
    }

    #[test]
    fn what_is_charged_beyond_the_burst_must_be_waited_for() {
        let rate = Rate::new(10, 1);
        let start = Instant::now();
        let mut bucket = Bucket::default();
        bucket.charge(&rate, 5, start);
        assert_eq!(bucket.wait(&rate, start), Duration::from_millis(500));
    }

    #[test]
    fn only_busy_sources_are_remembered() {
        let rate = Rate::new(1, 1);
        let start = Instant::now();
        let mut buckets = Buckets::default();
        for source in 0..1_000 {
            let now = start + Duration::from_secs(2 * source);
            assert_eq!(buckets.take(source, &rate, now), Ok(()));
        }
        assert!(buckets.len() <= PRUNE_FIRST);
    }
}
