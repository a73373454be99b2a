//! What a run did second by second: one row each, for the plots, the CSV and the HDR log. Pure; the
//! `recorder` fills it.

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::latency::{self, Percentiles, rounded};

/// Rows a run has at most, give or take its set-up: beyond an hour a row is longer than a second.
pub(crate) const ROWS_MAX: u64 = 3_600;

/// Slopes are said only of runs at least this long, in seconds: memory settles first.
const SLOPE_SECONDS_MIN: f64 = 60.0;

/// The part of a run, from its beginning, in which memory is still growing to its size.
const SETTLING_PART: f64 = 0.25;

/// A run, second by second.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Timeline {
    /// The length of a row, in seconds: 1, or more in a run of hours.
    pub(crate) row_s: f64,
    /// One for each second, in order.
    pub(crate) rows: Vec<Row>,
    /// What happened when.
    pub(crate) marks: Vec<Mark>,
}

/// One second.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Row {
    /// Its end, in seconds since 1970-01-01 UTC.
    pub(crate) at_unix_s: f64,
    /// Its length, in seconds.
    pub(crate) seconds: f64,
    /// Frames accepted in it, per target.
    pub(crate) accepted: u64,
    /// Frames shown in it.
    pub(crate) shown: u64,
    /// Frames refused for good in it.
    pub(crate) refused: u64,
    /// Half of its latencies were at most this, in microseconds.
    pub(crate) p50_us: Option<f64>,
    /// 99 of 100, in microseconds.
    pub(crate) p99_us: Option<f64>,
    /// 999 of 1,000, in microseconds.
    pub(crate) p999_us: Option<f64>,
    /// Clients attached at its end, and connections the tester holds besides.
    pub(crate) connections: u64,
    /// Resident memory of the relay, in bytes; `null` where the relay is not ours.
    pub(crate) server_rss_bytes: Option<u64>,
    /// CPU of the relay, in percent of one core.
    pub(crate) server_cpu_percent: Option<f64>,
    /// Files the relay has open, sockets among them.
    pub(crate) server_descriptors: Option<u64>,
    /// Bytes the relay wrote to its disk in it.
    pub(crate) server_written_bytes: Option<u64>,
    /// Its latencies in nanoseconds: HdrHistogram V2, compressed, base64.
    pub(crate) latencies: String,
}

/// Something that happened during a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Mark {
    /// In seconds since 1970-01-01 UTC.
    pub(crate) at_unix_s: f64,
    /// What.
    pub(crate) what: String,
}

/// How the relay's size changed over the run; `null` in a run of less than a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Trend {
    /// Least squares over the last three quarters of the run, in MiB an hour.
    pub(crate) server_rss_mib_per_h: Option<f64>,
    /// Fewest files the relay had open in that time.
    pub(crate) server_descriptors_least: Option<u64>,
    /// Most files the relay had open in that time.
    pub(crate) server_descriptors_most: Option<u64>,
    /// p99 of the last quarter over that of the second, in percent above it.
    pub(crate) p99_drift_percent: Option<f64>,
}

impl Row {
    /// Sets the latencies, and what follows from them.
    pub(crate) fn with_latencies(mut self, histogram: &Histogram<u64>) -> Self {
        let Percentiles { p50_us, p99_us, p999_us, .. } = Percentiles::of(histogram);
        (self.p50_us, self.p99_us, self.p999_us) = (p50_us, p99_us, p999_us);
        self.latencies = latency::to_text(histogram);
        self
    }

    /// Per second, from a count of the row.
    pub(crate) fn per_s(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { rounded(count as f64 / self.seconds, 1) } else { 0.0 }
    }
}

impl Timeline {
    /// When its first row began, in seconds since 1970-01-01 UTC.
    pub(crate) fn began(&self) -> f64 {
        self.rows.first().map_or(0.0, |row| row.at_unix_s - row.seconds)
    }

    /// What became of the relay's size.
    pub(crate) fn trend(&self) -> Trend {
        let (Some(first), Some(last)) = (self.rows.first(), self.rows.last()) else {
            return Trend::default();
        };
        let length = last.at_unix_s - first.at_unix_s;
        if length < SLOPE_SECONDS_MIN {
            return Trend::default();
        }
        let part = |row: &Row| (row.at_unix_s - first.at_unix_s) / length;
        let settled: Vec<&Row> =
            self.rows.iter().filter(|row| part(row) >= SETTLING_PART).collect();
        let sizes: Vec<(f64, f64)> = settled
            .iter()
            .filter_map(|row| Some((row.at_unix_s - first.at_unix_s, row.server_rss_bytes? as f64)))
            .collect();
        let descriptors = || settled.iter().filter_map(|row| row.server_descriptors);
        let p99 = |from: f64, to: f64| {
            let mut all = latency::histogram();
            for row in self.rows.iter().filter(|row| (from..to).contains(&part(row))) {
                if let Some(histogram) = latency::from_text(&row.latencies) {
                    latency::add(&mut all, &histogram);
                }
            }
            Percentiles::of(&all).p99_us
        };
        let drift = p99(0.25, 0.5).zip(p99(0.75, 2.0)).filter(|(then, _)| *then > 0.0);
        Trend {
            server_rss_mib_per_h: slope(&sizes)
                .map(|bytes_per_s| rounded(bytes_per_s * 3_600.0 / f64::from(1 << 20), 2)),
            server_descriptors_least: descriptors().min(),
            server_descriptors_most: descriptors().max(),
            p99_drift_percent: drift.map(|(then, now)| rounded((now / then - 1.0) * 100.0, 1)),
        }
    }
}

/// The slope of the straight line nearest to these points.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let common: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    (points.len() > 2 && spread > 0.0).then(|| common / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(seconds: u32, rss: impl Fn(f64) -> f64) -> Timeline {
        let row = |second: u32| {
            let mut latencies = latency::histogram();
            latencies.record(1_000_000 + u64::from(second) * 10_000).unwrap();
            let row = Row {
                at_unix_s: 1e9 + f64::from(second),
                seconds: 1.0,
                server_rss_bytes: Some(rss(f64::from(second)) as u64),
                server_descriptors: Some(10 + u64::from(second % 3)),
                ..Row::default()
            };
            row.with_latencies(&latencies)
        };
        Timeline { row_s: 1.0, rows: (0..=seconds).map(row).collect(), marks: Vec::new() }
    }

    #[test]
    fn growth_is_seen_and_the_beginning_is_not_growth() {
        let mib = f64::from(1 << 20);
        let growing = timeline(100, |second| if second < 20.0 { 0.0 } else { mib * second });
        let trend = growing.trend();
        assert_eq!(trend.server_rss_mib_per_h, Some(3_600.0));
        assert_eq!(trend.server_descriptors_least, Some(10));
        assert_eq!(trend.server_descriptors_most, Some(12));
        assert!(trend.p99_drift_percent > Some(20.0), "{trend:?}");
        let flat = timeline(100, |_| mib).trend();
        assert_eq!(flat.server_rss_mib_per_h, Some(0.0));
    }

    #[test]
    fn a_short_run_has_no_trend() {
        assert_eq!(timeline(50, |second| second).trend(), Trend::default());
        assert_eq!(Timeline::default().trend(), Trend::default());
    }
}
