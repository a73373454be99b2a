//! Reports of several processes that loaded one relay at the same time, as one. Counts are added,
//! percentiles are computed from the added histograms, and what is the relay's own is counted once.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use hdrhistogram::Histogram;

use crate::latency::{self, Percentiles, rounded};
use crate::report::{REPORT_VERSION, Report};
use crate::timeline::{Row, Timeline};

/// What cannot be merged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeError {
    #[error("cannot read {0}: {1}")]
    Read(String, std::io::Error),
    #[error("{0} is no report of one run of this version: {1}")]
    Parse(String, serde_json::Error),
    #[error("{0} has the report version {1}; this is {REPORT_VERSION}")]
    Version(String, u32),
    #[error("{0} has latencies that cannot be read")]
    Histogram(String),
    #[error("nothing to merge")]
    Nothing,
}

/// Reads and merges.
///
/// # Errors
/// [`MergeError`] names the file.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Report, MergeError> {
    let mut merged: Option<Report> = None;
    for path in paths {
        let name = path.display().to_string();
        let text =
            fs::read_to_string(path).map_err(|error| MergeError::Read(name.clone(), error))?;
        let report: Report =
            serde_json::from_str(&text).map_err(|error| MergeError::Parse(name.clone(), error))?;
        if report.report_version != REPORT_VERSION {
            return Err(MergeError::Version(name, report.report_version));
        }
        merged = Some(match merged {
            None => Report { merged_from: report.merged_from.max(1), ..report },
            Some(merged) => add(merged, report).ok_or(MergeError::Histogram(name))?,
        });
    }
    merged.ok_or(MergeError::Nothing)
}

/// `None` if one of them has latencies that cannot be read.
fn add(one: Report, other: Report) -> Option<Report> {
    let mut merged = one;
    add_troubles(&mut merged, &other);
    merged.merged_from += other.merged_from.max(1);
    merged.name = format!("{} + {}", merged.name, other.name);
    merged.command_line.push("+".to_owned());
    merged.command_line.extend(other.command_line);
    merged.started_at_unix_s = merged.started_at_unix_s.min(other.started_at_unix_s);
    merged.interrupted |= other.interrupted;
    merged.clients += other.clients;
    merged.rate_per_s = sum(merged.rate_per_s, other.rate_per_s);
    merged.raised_limits.extend(other.raised_limits);
    merged.verdict.merge(other.verdict);
    merged.signals_dropped += other.signals_dropped;
    merged.accepted_per_s = sum(merged.accepted_per_s, other.accepted_per_s);
    merged.shown_per_s = sum(merged.shown_per_s, other.shown_per_s);
    merged.shown_mb_per_s = sum(merged.shown_mb_per_s, other.shown_mb_per_s);
    for (longest, candidate) in [
        (&mut merged.setup_ms, other.setup_ms),
        (&mut merged.load_s, other.load_s),
        (&mut merged.quiet_ms, other.quiet_ms),
        (&mut merged.send_lag_p99_us, other.send_lag_p99_us),
        (&mut merged.tester_cpu_percent, other.tester_cpu_percent),
        (&mut merged.storm.all_back_ms, other.storm.all_back_ms),
    ] {
        *longest = longest.zip(candidate).map(|(a, b)| a.max(b)).or(*longest).or(candidate);
    }
    merged.tester_threads += other.tester_threads;
    merged.tester_is_bottleneck |= other.tester_is_bottleneck;
    merged.tester_notes.extend(other.tester_notes);
    merged.failed_conditions.clear();
    merged.storm.attached = sum(merged.storm.attached, other.storm.attached);
    merged.others.clients = sum(merged.others.clients, other.others.clients);
    merged.connections = sum(merged.connections, other.connections);
    // The relay's own figures: those of the process that had it, and once if both asked it.
    if merged.conservation.holds.is_none() {
        merged.conservation = other.conservation;
    }
    merged.server_rss_bytes = merged.server_rss_bytes.or(other.server_rss_bytes);
    merged.server_rss_peak_bytes = merged.server_rss_peak_bytes.or(other.server_rss_peak_bytes);
    merged.server_written_bytes = merged.server_written_bytes.or(other.server_written_bytes);
    merged.server_cpu_percent = merged.server_cpu_percent.or(other.server_cpu_percent);
    merged.server_cpu_s = merged.server_cpu_s.or(other.server_cpu_s);
    let frames = merged.verdict.shown.max(1) as f64;
    merged.server_cpu_us_per_frame =
        merged.server_cpu_s.map(|seconds| rounded(seconds * 1e6 / frames, 2));
    if merged.relay_version.is_empty() {
        merged.relay_version = other.relay_version;
    }

    let texts = &mut merged.histograms;
    let more = other.histograms;
    merged.accepted_latency = add_latencies(&mut texts.accepted, &more.accepted)?;
    merged.delivered_latency = add_latencies(&mut texts.delivered, &more.delivered)?;
    merged.others.calm = add_latencies(&mut texts.calm, &more.calm)?;
    merged.others.during = add_latencies(&mut texts.during, &more.during)?;
    let others = &mut merged.others;
    let calm = others.calm.p99_us.filter(|calm| *calm > 0.0);
    others.p99_ratio = others.during.p99_us.zip(calm).map(|(now, then)| rounded(now / then, 2));
    let back = add_latencies(&mut texts.back, &more.back)?;
    if merged.terminated.told.is_some() {
        merged.terminated.back = back;
    } else {
        merged.storm.back = back;
    }
    let delivered = merged.delivered_latency.count > 0;
    merged.headline =
        if delivered { merged.delivered_latency } else { merged.accepted_latency }.into();
    merged.timeline = add_timelines(merged.timeline, other.timeline)?;
    merged.trend = merged.timeline.trend();
    Some(merged)
}

/// What did not go at once for other clients counts as if they had been of this process.
pub(crate) fn add_troubles(merged: &mut Report, other: &Report) {
    merged.retries += other.retries;
    merged.not_sent += other.not_sent;
    merged.reconnects += other.reconnects;
    for (name, count) in &other.errors {
        *merged.errors.entry(name.clone()).or_default() += count;
    }
}

fn sum<T: std::ops::Add<Output = T>>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (one, other) => one.or(other),
    }
}

fn read(text: &str) -> Option<Histogram<u64>> {
    if text.is_empty() { Some(latency::histogram()) } else { latency::from_text(text) }
}

fn add_latencies(text: &mut String, more: &str) -> Option<Percentiles> {
    let mut all = read(text)?;
    latency::add(&mut all, &read(more)?);
    if !(text.is_empty() && more.is_empty()) {
        *text = latency::to_text(&all);
    }
    Some(Percentiles::of(&all))
}

/// Rows that end in the same second become one; the relay's figures are not added.
fn add_timelines(one: Timeline, other: Timeline) -> Option<Timeline> {
    let row_s = one.row_s.max(other.row_s).max(1.0);
    let slot = |row: &Row| (row.at_unix_s / row_s).floor() as u64;
    let slots: BTreeSet<u64> = one.rows.iter().chain(&other.rows).map(slot).collect();
    let mut rows = Vec::with_capacity(slots.len());
    for number in slots {
        let mut all = latency::histogram();
        let mut merged = Row::default();
        for rows in [&one.rows, &other.rows] {
            let mut connections = 0;
            let mut seconds = 0.0;
            for row in rows.iter().filter(|row| slot(row) == number) {
                latency::add(&mut all, &read(&row.latencies)?);
                seconds += row.seconds;
                connections = connections.max(row.connections);
                merged.at_unix_s = merged.at_unix_s.max(row.at_unix_s);
                merged.accepted += row.accepted;
                merged.shown += row.shown;
                merged.refused += row.refused;
                merged.server_rss_bytes = row.server_rss_bytes.or(merged.server_rss_bytes);
                merged.server_cpu_percent = row.server_cpu_percent.or(merged.server_cpu_percent);
                merged.server_written_bytes =
                    row.server_written_bytes.or(merged.server_written_bytes);
                merged.server_descriptors = row.server_descriptors.or(merged.server_descriptors);
            }
            merged.seconds = merged.seconds.max(seconds);
            merged.connections += connections;
        }
        rows.push(merged.with_latencies(&all));
    }
    let mut marks = one.marks;
    marks.extend(other.marks);
    marks.sort_by(|a, b| a.at_unix_s.total_cmp(&b.at_unix_s));
    Some(Timeline { row_s, rows, marks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Verdict;
    use crate::report::{Conservation, Histograms};

    fn report(us: u64, count: u64, at: f64) -> Report {
        let mut latencies = latency::histogram();
        latencies.record_n(us * 1_000, count).unwrap();
        let row = Row {
            at_unix_s: at,
            seconds: 1.0,
            shown: count,
            connections: 10,
            server_rss_bytes: Some(7),
            ..Row::default()
        };
        let row = row.with_latencies(&latencies);
        Report {
            report_version: REPORT_VERSION,
            clients: 10,
            verdict: Verdict { sent: count, accepted: count, shown: count, ..Verdict::default() },
            accepted_per_s: Some(5.0),
            delivered_latency: Percentiles::of(&latencies),
            conservation: Conservation {
                holds: Some(true),
                accepted: Some(30),
                ..Conservation::default()
            },
            histograms: Histograms {
                delivered: latency::to_text(&latencies),
                ..Histograms::default()
            },
            timeline: Timeline { row_s: 1.0, rows: vec![row], marks: Vec::new() },
            ..Report::default()
        }
    }

    #[test]
    fn percentiles_come_from_all_and_the_relay_counts_once() {
        let merged = add(report(100, 10, 50.2), report(900, 20, 50.7)).unwrap();
        assert_eq!((merged.clients, merged.verdict.shown), (20, 30));
        assert_eq!(merged.delivered_latency.count, 30);
        let p50 = merged.headline.p50_us.unwrap();
        assert!((890.0..910.0).contains(&p50), "{p50}");
        assert_eq!(merged.conservation.accepted, Some(30));
        assert_eq!(merged.accepted_per_s, Some(10.0));
        let rows = &merged.timeline.rows;
        assert_eq!((rows.len(), rows[0].shown, rows[0].connections), (1, 30, 20));
        assert_eq!(rows[0].server_rss_bytes, Some(7));
        assert!(rows[0].p50_us.unwrap() > 800.0);
    }

    #[test]
    fn rows_of_different_seconds_stay_apart() {
        let merged = add(report(100, 10, 50.2), report(900, 20, 52.7)).unwrap();
        assert_eq!(merged.timeline.rows.len(), 2);
    }

    #[test]
    fn latencies_that_cannot_be_read_are_refused() {
        let mut broken = report(1, 1, 1.0);
        broken.histograms.delivered = "nonsense".to_owned();
        assert!(add(report(1, 1, 1.0), broken).is_none());
    }
}
