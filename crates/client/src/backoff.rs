//! How long to wait before the next try: exponential with full jitter, so that ten thousand clients
//! that lost one relay do not come back together.

use std::time::Duration;

/// A wait that doubles with each failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub first: Duration,
    /// The longest wait of all.
    pub most: Duration,
}

impl Backoff {
    /// For reconnecting.
    pub const RECONNECT: Self =
        Self { first: Duration::from_millis(500), most: Duration::from_secs(60) };

    /// For reconnecting to a relay that said that it restarts: soon back, and worth asking often.
    pub const RESTART: Self =
        Self { first: Duration::from_millis(200), most: Duration::from_secs(2) };

    /// For repeating a post the relay could not decide.
    pub const RETRY: Self =
        Self { first: Duration::from_millis(50), most: Duration::from_secs(10) };

    /// The wait after `failures` failed tries (1 is the first), for a `fraction` drawn from 0 to 1:
    /// anything from nothing to the doubled bound.
    pub fn wait(&self, failures: u32, fraction: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let bound = self.first.saturating_mul(1 << doublings).min(self.most);
        bound.mul_f64(fraction.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bound_doubles_up_to_the_most() {
        let backoff =
            Backoff { first: Duration::from_millis(100), most: Duration::from_millis(1_500) };
        let bounds: Vec<u128> =
            (0..8).map(|failures| backoff.wait(failures, 1.0).as_millis()).collect();
        assert_eq!(bounds, [100, 100, 200, 400, 800, 1_500, 1_500, 1_500]);
    }

    proptest! {
        #[test]
        fn jitter_covers_the_whole_range(failures in any::<u32>(), fraction in 0.0f64..1.0) {
            let backoff = Backoff::RECONNECT;
            let wait = backoff.wait(failures, fraction);
            let bound = backoff.wait(failures, 1.0);
            prop_assert!(wait <= bound && bound <= backoff.most);
            prop_assert_eq!(backoff.wait(failures, 0.0), Duration::ZERO);
            prop_assert!((wait.as_secs_f64() - bound.as_secs_f64() * fraction).abs() < 1e-6);
        }
    }
}
