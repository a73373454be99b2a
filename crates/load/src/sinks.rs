//! Where figures go: JSON, CSV, an HdrHistogram log, an HTML page.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use serde::Serialize;

use crate::cli::FileOptions;
use crate::html;
use crate::latency;
use crate::plan::Sinks;
use crate::report::Report;
use crate::timeline::{Row, Timeline};

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {0}: {1}")]
pub(crate) struct SinkError(String, io::Error);

/// The reports of a scenario file.
#[derive(Serialize)]
struct Collection<'a> {
    /// Each as it would be alone.
    runs: &'a [Report],
}

/// The largest unit of the log's numbers: the tools show milliseconds.
const HDR_NS_PER_UNIT: f64 = 1e6;

const CSV_HEAD: &str = "at_unix_s,elapsed_s,seconds,accepted_per_s,shown_per_s,refused_per_s,\
     p50_us,p99_us,p999_us,connections,server_rss_bytes,server_cpu_percent,server_descriptors,\
     server_written_bytes";

/// Writes everything that was asked for.
///
/// # Errors
/// [`SinkError`] names the file.
pub(crate) fn write(sinks: &Sinks, report: &Report) -> Result<(), SinkError> {
    if let Some(path) = &sinks.json {
        put(path, &json(report))?;
    }
    if let Some(path) = &sinks.csv {
        put(path, csv(&report.timeline).as_bytes())?;
    }
    if let Some(path) = &sinks.hdr {
        let log = hdr(&report.timeline).map_err(|error| failed(path)(error))?;
        put(path, &log)?;
    }
    if let Some(path) = &sinks.html {
        put(path, html::page(std::slice::from_ref(report)).as_bytes())?;
    }
    Ok(())
}

/// Writes the reports of a scenario file.
///
/// # Errors
/// [`SinkError`] names the file.
pub(crate) fn collect(options: &FileOptions, reports: &[Report]) -> Result<(), SinkError> {
    if let Some(path) = &options.json {
        put(path, &json(&Collection { runs: reports }))?;
    }
    if let Some(path) = &options.html {
        put(path, html::page(reports).as_bytes())?;
    }
    Ok(())
}

fn failed(path: &Path) -> impl Fn(io::Error) -> SinkError + use<> {
    let path = path.display().to_string();
    move |error| SinkError(path.clone(), error)
}

fn put(path: &PathBuf, bytes: &[u8]) -> Result<(), SinkError> {
    std::fs::write(path, bytes).map_err(failed(path))
}

fn json(report: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(report).expect("a report is JSON");
    bytes.push(b'\n');
    bytes
}

fn csv(timeline: &Timeline) -> String {
    let began = timeline.began();
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let count = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
    let line = |row: &Row| {
        format!(
            "{:.3},{:.3},{},{},{},{},{},{},{},{},{},{},{},{}\n",
            row.at_unix_s,
            row.at_unix_s - began,
            row.seconds,
            row.per_s(row.accepted),
            row.per_s(row.shown),
            row.per_s(row.refused),
            number(row.p50_us),
            number(row.p99_us),
            number(row.p999_us),
            row.connections,
            count(row.server_rss_bytes),
            number(row.server_cpu_percent),
            count(row.server_descriptors),
            count(row.server_written_bytes)
        )
    };
    let lines: String = timeline.rows.iter().map(line).collect();
    format!("{CSV_HEAD}\n{lines}")
}

/// An interval log as `HistogramLogAnalyzer` and `HistogramLogProcessor` read it: values in
/// nanoseconds, maxima in milliseconds.
fn hdr(timeline: &Timeline) -> io::Result<Vec<u8>> {
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let began = UNIX_EPOCH + Duration::from_secs_f64(timeline.began().max(0.0));
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("valise-load: latencies in nanoseconds, one interval a row")
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(HDR_NS_PER_UNIT)
        .begin_log_with(&mut log, &mut serializer)?;
    for row in &timeline.rows {
        let Some(histogram) = latency::from_text(&row.latencies) else { continue };
        let since = row.at_unix_s - row.seconds - timeline.began();
        let start = Duration::from_secs_f64(since.max(0.0));
        let length = Duration::from_secs_f64(row.seconds.max(0.0));
        writer
            .write_histogram(&histogram, start, length, None)
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
    }
    drop(writer);
    log.flush()?;
    Ok(log)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    fn timeline() -> Timeline {
        let row = |second: u32| {
            let mut latencies = latency::histogram();
            latencies.record_n(2_000_000, 10 + u64::from(second)).unwrap();
            let row = Row {
                at_unix_s: 1_700_000_000.0 + f64::from(second) + 1.0,
                seconds: 1.0,
                accepted: 5,
                ..Row::default()
            };
            row.with_latencies(&latencies)
        };
        Timeline { row_s: 1.0, rows: (0..3).map(row).collect(), marks: Vec::new() }
    }

    #[test]
    fn a_row_a_second() {
        let csv = csv(&timeline());
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 4);
        let columns = lines[0].split(',').count();
        assert!(lines.iter().all(|line| line.split(',').count() == columns));
        assert!(lines[1].starts_with("1700000001.000,1.000,1,5,0,0,20"), "{}", lines[1]);
    }

    #[test]
    fn the_log_can_be_read_by_others() {
        let log = hdr(&timeline()).unwrap();
        let mut counts = Vec::new();
        for entry in IntervalLogIterator::new(&log) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                let bytes = base64::Engine::decode(
                    &base64::engine::general_purpose::STANDARD,
                    interval.encoded_histogram(),
                )
                .unwrap();
                let read: hdrhistogram::Histogram<u64> =
                    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                counts.push((interval.start_timestamp().as_secs(), read.len()));
            }
        }
        assert_eq!(counts, [(0, 10), (1, 11), (2, 12)]);
    }
}
