//! The numbers the page's plots are drawn from.

use serde_json::{Value, json};

use crate::cli::Scenario;
use crate::latency::{self, rounded};
use crate::report::Report;
use crate::timeline::{Row, Timeline};

/// Points of a plot over time, at most: a phone draws no more.
const POINTS_MAX: usize = 1_200;

/// Points of a percentile curve for each nine.
const STEPS_PER_NINE: u32 = 16;

/// Nines a percentile curve has at most: 99.999 %.
const NINES_MAX: u32 = 5;

/// One object for each report, as JSON that can stand in a script element.
pub(super) fn of(reports: &[Report]) -> String {
    let runs: Vec<Value> =
        reports.iter().enumerate().map(|(number, report)| run(number, report)).collect();
    // A script element ends at the first `</script`, wherever that stands.
    Value::Array(runs).to_string().replace('<', "\\u003c")
}

fn run(number: usize, report: &Report) -> Value {
    let timeline = &report.timeline;
    let rows: Vec<&Row> = chosen(timeline);
    let began = timeline.began();
    let column = |of: &dyn Fn(&Row) -> Value| rows.iter().map(|row| of(row)).collect::<Vec<_>>();
    let ms = |us: Option<f64>| json!(us.map(|us| rounded(us / 1_000.0, 4)));
    let marks: Vec<Value> = timeline
        .marks
        .iter()
        .map(|mark| json!([rounded(mark.at_unix_s - began, 2), mark.what]))
        .collect();
    json!({
        "id": format!("plots{number}"),
        "at": column(&|row| json!(rounded(row.at_unix_s - began, 2))),
        "marks": marks,
        "accepted": column(&|row| json!(row.per_s(row.accepted))),
        "shown": column(&|row| json!(row.per_s(row.shown))),
        "refused": column(&|row| json!(row.per_s(row.refused))),
        "p50": column(&|row| ms(row.p50_us)),
        "p99": column(&|row| ms(row.p99_us)),
        "p999": column(&|row| ms(row.p999_us)),
        "connections": column(&|row| json!(row.connections)),
        "rss": column(&|row| {
            let mib = |bytes: u64| rounded(bytes as f64 / f64::from(1 << 20), 2);
            json!(row.server_rss_bytes.map(mib))
        }),
        "cpu": column(&|row| json!(row.server_cpu_percent)),
        "written": column(&|row| {
            let mib_per_s = |bytes: u64| rounded(bytes as f64 / f64::from(1 << 20) / row.seconds, 3);
            json!(row.server_written_bytes.map(mib_per_s))
        }),
        "descriptors": column(&|row| json!(row.server_descriptors)),
        "curve": curves(report),
    })
}

/// Every row, or every so manieth of a long run. A last row that is only a part of one would look
/// as if everything had stopped.
fn chosen(timeline: &Timeline) -> Vec<&Row> {
    let step = timeline.rows.len().div_ceil(POINTS_MAX).max(1);
    let whole = timeline.rows.iter().filter(|row| row.seconds >= timeline.row_s / 2.0);
    whole.step_by(step).collect()
}

/// The latency at each percentile, of what the scenario is about.
fn curves(report: &Report) -> Vec<Value> {
    let texts = &report.histograms;
    let kinds = if !texts.during.is_empty() {
        [("calm", &texts.calm), ("meanwhile", &texts.during)]
    } else if report.scenario == Scenario::ConnectStorm {
        [("until attached", &texts.back), ("", &texts.during)]
    } else {
        [("delivered", &texts.delivered), ("accepted", &texts.accepted)]
    };
    let read = kinds.iter().filter_map(|(name, text)| Some((*name, latency::from_text(text)?)));
    let curves: Vec<_> = read.filter(|(_, histogram)| !histogram.is_empty()).collect();
    let most = curves.iter().map(|(_, histogram)| histogram.len()).max().unwrap_or(0);
    let parts: Vec<f64> = (0..=NINES_MAX * STEPS_PER_NINE)
        .map(|step| 1.0 - 10f64.powf(-f64::from(step) / f64::from(STEPS_PER_NINE)))
        .filter(|part| (1.0 - part) * most as f64 >= 1.0)
        .collect();
    let curve = |(name, histogram): &(&str, hdrhistogram::Histogram<u64>)| {
        let ms = |part: &f64| {
            // Rarer than one of them: nothing is known.
            ((1.0 - part) * histogram.len() as f64 >= 1.0)
                .then(|| rounded(histogram.value_at_quantile(*part) as f64 / 1e6, 4))
        };
        json!({ "name": name, "x": parts, "y": parts.iter().map(ms).collect::<Vec<_>>() })
    };
    curves.iter().map(curve).collect()
}
