//! Latencies of many tasks, in a few histograms that share the locks.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::Serialize;

/// Tasks are spread over this many histograms, so that they rarely wait for each other.
const SHARDS: usize = 8;

/// Longer ones count as this long. In nanoseconds.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Latencies as they are measured. Three significant digits.
pub(crate) struct Latencies(Vec<Mutex<Histogram<u64>>>);

/// What a report says of them; `null` where none were measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Percentiles {
    /// Half of them were at most this, in microseconds.
    pub(crate) p50_us: Option<f64>,
    /// 90 of 100, in microseconds.
    pub(crate) p90_us: Option<f64>,
    /// 99 of 100, in microseconds.
    pub(crate) p99_us: Option<f64>,
    /// 999 of 1,000, in microseconds.
    pub(crate) p999_us: Option<f64>,
    /// The longest, in microseconds.
    pub(crate) max_us: Option<f64>,
    /// How many were measured.
    pub(crate) count: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds fit the digits");
        Self((0..SHARDS).map(|_| Mutex::new(histogram())).collect())
    }

    /// Adds one latency, measured by task number `task`.
    pub(crate) fn record(&self, task: usize, latency_ns: u64) {
        let shard = self.0[task % SHARDS].lock();
        shard.unwrap_or_else(PoisonError::into_inner).saturating_record(latency_ns);
    }

    /// All of them.
    pub(crate) fn percentiles(&self) -> Percentiles {
        let mut all = Histogram::<u64>::new_with_bounds(1, LATENCY_NS_MAX, 3)
            .expect("the bounds fit the digits");
        for shard in &self.0 {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&*shard).expect("all have the same bounds");
        }
        if all.is_empty() {
            return Percentiles::default();
        }
        let at = |percentile| Some(micros(all.value_at_percentile(percentile)));
        Percentiles {
            p50_us: at(50.0),
            p90_us: at(90.0),
            p99_us: at(99.0),
            p999_us: at(99.9),
            max_us: Some(micros(all.max())),
            count: all.len(),
        }
    }
}

/// Nanoseconds as microseconds, to a tenth.
fn micros(ns: u64) -> f64 {
    ((ns as f64) / 100.0).round() / 10.0
}

/// Rounded to `digits` behind the point: what a report prints is what it measured, not more.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// A duration in milliseconds, to a tenth.
pub(crate) fn millis(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1_000.0, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_over_all_tasks() {
        let latencies = Latencies::new();
        assert_eq!(latencies.percentiles(), Percentiles::default());
        for us in 1..=1_000u64 {
            latencies.record(us as usize, us * 1_000);
        }
        let got = latencies.percentiles();
        let close = |got: Option<f64>, expected: f64| (got.unwrap() / expected - 1.0).abs() < 0.002;
        assert!(close(got.p50_us, 500.0), "{got:?}");
        assert!(close(got.p90_us, 900.0), "{got:?}");
        assert!(close(got.p99_us, 990.0), "{got:?}");
        assert!(close(got.p999_us, 999.0), "{got:?}");
        assert!(close(got.max_us, 1_000.0), "{got:?}");
        assert_eq!(got.count, 1_000);
    }

    #[test]
    fn what_is_too_long_counts_as_the_longest() {
        let latencies = Latencies::new();
        latencies.record(0, u64::MAX);
        assert!(latencies.percentiles().max_us > Some(3.59e9));
    }
}
