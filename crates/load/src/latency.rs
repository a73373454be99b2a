//! Latencies of many tasks, in a few histograms that share the locks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tasks are spread over this many histograms, so that they rarely wait for each other.
const SHARDS: usize = 8;

/// Longer ones count as this long. In nanoseconds.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Latencies as they are measured. Three significant digits.
pub(crate) struct Latencies {
    /// Those since the last cut.
    shards: Vec<Mutex<Histogram<u64>>>,
    /// Those before it.
    earlier: Mutex<Histogram<u64>>,
}

/// What a report says of them; `null` where none were measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(histogram())).collect(),
            earlier: Mutex::new(histogram()),
        }
    }

    /// Adds one latency, measured by task number `task`.
    pub(crate) fn record(&self, task: usize, latency_ns: u64) {
        lock(&self.shards[task % SHARDS]).saturating_record(latency_ns);
    }

    /// Those since the last cut; the next one begins.
    pub(crate) fn cut(&self) -> Histogram<u64> {
        let mut cut = histogram();
        for shard in &self.shards {
            let mut shard = lock(shard);
            if !shard.is_empty() {
                // Swapped, so that the tasks wait for no adding.
                let taken = std::mem::replace(&mut *shard, histogram());
                drop(shard);
                add(&mut cut, &taken);
            }
        }
        add(&mut lock(&self.earlier), &cut);
        cut
    }

    /// All of them.
    pub(crate) fn whole(&self) -> Histogram<u64> {
        let mut all = lock(&self.earlier).clone();
        for shard in &self.shards {
            add(&mut all, &lock(shard));
        }
        all
    }

    /// What a report says of all of them.
    pub(crate) fn percentiles(&self) -> Percentiles {
        Percentiles::of(&self.whole())
    }
}

/// An empty histogram with the bounds all of them have.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds fit the digits")
}

/// Adds one histogram of ours to another.
pub(crate) fn add(to: &mut Histogram<u64>, more: &Histogram<u64>) {
    to.add(more).expect("all have the same bounds");
}

fn lock(histogram: &Mutex<Histogram<u64>>) -> MutexGuard<'_, Histogram<u64>> {
    histogram.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Percentiles {
    pub(crate) fn of(all: &Histogram<u64>) -> Self {
        if all.is_empty() {
            return Self::default();
        }
        let at = |percentile| Some(micros(all.value_at_percentile(percentile)));
        Self {
            p50_us: at(50.0),
            p90_us: at(90.0),
            p99_us: at(99.0),
            p999_us: at(99.9),
            max_us: Some(micros(all.max())),
            count: all.len(),
        }
    }
}

/// The histogram as text: V2, compressed, base64, as every HdrHistogram library reads it.
pub(crate) fn to_text(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .expect("a histogram of ours fits its format");
    BASE64.encode(bytes)
}

/// Reads [`to_text`] back; `None` if it is none, or has not our bounds.
pub(crate) fn from_text(text: &str) -> Option<Histogram<u64>> {
    let bytes = BASE64.decode(text).ok()?;
    let read: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).ok()?;
    let mut ours = histogram();
    ours.add(&read).ok()?;
    Some(ours)
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
    fn a_cut_begins_anew_and_loses_nothing() {
        let latencies = Latencies::new();
        latencies.record(0, 1_000);
        latencies.record(1, 2_000);
        assert_eq!(latencies.cut().len(), 2);
        latencies.record(0, 3_000);
        assert_eq!(latencies.cut().len(), 1);
        assert_eq!(latencies.cut().len(), 0);
        latencies.record(5, 4_000);
        assert_eq!(latencies.percentiles().count, 4);
    }

    #[test]
    fn text_and_back() {
        let mut histogram = histogram();
        for us in 1..=1_000u64 {
            histogram.record(us * 1_000).unwrap();
        }
        let back = from_text(&to_text(&histogram)).unwrap();
        assert_eq!(Percentiles::of(&back), Percentiles::of(&histogram));
        assert_eq!(from_text("bm9uZQ=="), None);
    }

    #[test]
    fn what_is_too_long_counts_as_the_longest() {
        let latencies = Latencies::new();
        latencies.record(0, u64::MAX);
        assert!(latencies.percentiles().max_us > Some(3.59e9));
    }
}
