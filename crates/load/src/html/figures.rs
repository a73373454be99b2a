//! The figures as tables. What was not measured is left out, and so is a table without rows.

use super::Text;
use crate::latency::{Percentiles, rounded};
use crate::plan::Pace;
use crate::report::{Crossed, Reaped, Report};

/// Name, value, unit.
type Figure = (&'static str, Option<String>, &'static str);

/// The latencies, side by side.
pub(super) fn latencies(report: &Report) -> String {
    let rows = [
        ("delivered: from the intended post until shown", &report.delivered_latency),
        ("accepted: from the intended post to its outcome", &report.accepted_latency),
        ("others, in the calm before", &report.others.calm),
        ("others, meanwhile", &report.others.during),
        ("storm: until attached", &report.storm.back),
        ("restart: until attached again", &report.terminated.back),
        ("longest send pause, calm", &report.migration.calm.send_pause),
        ("longest send pause, copying", &report.migration.copying.send_pause),
        ("longest send pause, cutover", &report.migration.cutover.send_pause),
        ("longest send pause, at the data centre", &report.migration.settled.send_pause),
        ("longest receive gap, calm", &report.migration.calm.receive_gap),
        ("longest receive gap, copying", &report.migration.copying.receive_gap),
        ("longest receive gap, cutover", &report.migration.cutover.receive_gap),
        ("longest receive gap, at the data centre", &report.migration.settled.receive_gap),
    ];
    let rows: String = rows.iter().filter_map(|(name, of)| latency_row(name, of)).collect();
    if rows.is_empty() {
        return String::new();
    }
    let ratio = match report.others.p99_ratio {
        Some(ratio) => format!(
            "<p>The others' p99 meanwhile was <strong>{ratio} times</strong> that of the calm.</p>"
        ),
        None => String::new(),
    };
    format!(
        "<h2>Latency, milliseconds</h2><div class=\"wide\"><table><tr><th></th>\
         <th class=\"number\">p50</th><th class=\"number\">p90</th><th class=\"number\">p99</th>\
         <th class=\"number\">p99.9</th><th class=\"number\">max</th><th class=\"number\">count</th>\
         </tr>{rows}</table></div>{ratio}\n"
    )
}

fn latency_row(name: &str, of: &Percentiles) -> Option<String> {
    let cell = |us: Option<f64>| {
        let ms = us? / 1_000.0;
        let digits = if ms < 10.0 { 3 } else { 1 };
        Some(format!("<td class=\"number\">{}</td>", rounded(ms, digits)))
    };
    Some(format!(
        "<tr><td>{name}</td>{}{}{}{}{}<td class=\"number\">{}</td></tr>",
        cell(of.p50_us)?,
        cell(of.p90_us)?,
        cell(of.p99_us)?,
        cell(of.p999_us)?,
        cell(of.max_us)?,
        grouped(of.count)
    ))
}

/// Everything else that was measured.
pub(super) fn tables(report: &Report) -> String {
    let tables = [
        ("Frames", frames(report)),
        ("The relay", relay(report)),
        ("The scenario", scenario(report)),
        ("The migration", migration(report)),
        ("The tester", tester(report)),
    ];
    let tables: String = tables.into_iter().map(|(title, rows)| table(title, rows)).collect();
    format!("<div class=\"columns\">{tables}</div>\n")
}

fn table(title: &str, figures: Vec<Figure>) -> String {
    let row = |(name, value, unit): Figure| {
        let value = value?;
        Some(format!(
            "<tr><td>{name}</td><td class=\"number\">{}</td><td>{unit}</td></tr>",
            Text(&value)
        ))
    };
    let rows: String = figures.into_iter().filter_map(row).collect();
    match rows.as_str() {
        "" => String::new(),
        rows => format!("<div><h2>{title}</h2><table>{rows}</table></div>\n"),
    }
}

fn count(value: Option<u64>) -> Option<String> {
    value.map(grouped)
}

fn some(value: u64) -> Option<String> {
    (value > 0).then(|| grouped(value))
}

fn number(value: Option<f64>) -> Option<String> {
    value.map(|value| {
        if value.abs() >= 10_000.0 { grouped(value.round() as u64) } else { value.to_string() }
    })
}

fn mib(bytes: Option<u64>) -> Option<String> {
    bytes.map(|bytes| rounded(bytes as f64 / f64::from(1 << 20), 1).to_string())
}

fn kib(bytes: Option<f64>) -> Option<String> {
    bytes.map(|bytes| rounded(bytes / 1_024.0, 1).to_string())
}

/// 1234567 as 1 234 567, with thin spaces.
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

fn frames(report: &Report) -> Vec<Figure> {
    let verdict = &report.verdict;
    let pace = match (report.rate_per_s, report.window) {
        (Some(rate), _) => Some(Pace::Rate(rate)),
        (None, Some(window)) => Some(Pace::Window(window)),
        (None, None) => None,
    };
    let (rate, window) = match pace {
        Some(Pace::Rate(rate)) => (Some(rate.to_string()), None),
        Some(Pace::Window(window)) => (None, Some(window.to_string())),
        None => (None, None),
    };
    vec![
        ("clients", some(report.clients.into()), ""),
        ("payload", some(report.payload_bytes), "bytes"),
        ("intended (open model)", rate, "frames/s"),
        ("in flight per sender (closed model)", window, "frames"),
        ("under load", number(report.load_s), "s"),
        ("accepted", number(report.accepted_per_s), "frames/s"),
        ("shown", number(report.shown_per_s), "frames/s"),
        ("shown", number(report.shown_mb_per_s), "MB/s"),
        ("sent", some(verdict.sent), "frames"),
        ("accepted", some(verdict.accepted), "frames"),
        ("refused for good", some(verdict.refused), "frames"),
        ("outcome never known", some(verdict.unknown), "frames"),
        ("shown", some(verdict.shown), "frames"),
        ("delivered again, dropped unseen", some(verdict.redelivered), "frames"),
        ("signals that reached nobody", some(report.signals_dropped), ""),
        ("posts repeated", some(report.retries), ""),
        ("due and not sent", some(report.not_sent), "frames"),
        ("reconnects", some(report.reconnects), ""),
    ]
}

fn relay(report: &Report) -> Vec<Figure> {
    let trend = &report.trend;
    vec![
        ("CPU under load", number(report.server_cpu_percent), "% of a core"),
        ("CPU per frame", number(report.server_cpu_us_per_frame), "µs"),
        ("CPU per connect", number(report.server_cpu_ms_per_connect), "ms"),
        ("CPU while idle", number(report.idle_server_cpu_percent), "% of a core"),
        ("memory at the end", mib(report.server_rss_bytes), "MiB"),
        ("memory at most", mib(report.server_rss_peak_bytes), "MiB"),
        ("memory growth", number(trend.server_rss_mib_per_h), "MiB/h"),
        ("open files, least", count(trend.server_descriptors_least), ""),
        ("open files, most", count(trend.server_descriptors_most), ""),
        ("p99, last quarter against second", number(trend.p99_drift_percent), "% more"),
        ("written to disk", mib(report.server_written_bytes), "MiB"),
        ("its count: queued at start", count(report.conservation.queued_at_start), "frames"),
        ("its count: accepted", count(report.conservation.accepted), "frames"),
        ("its count: acknowledged", count(report.conservation.acknowledged), "frames"),
        ("its count: expired", count(report.conservation.expired), "frames"),
        ("its count: discarded", count(report.conservation.discarded), "frames"),
        ("its count: queued", count(report.conservation.queued), "frames"),
    ]
}

fn scenario(report: &Report) -> Vec<Figure> {
    let (storm, ended) = (&report.storm, &report.terminated);
    let (slow, stalled) = (&report.slow_readers, &report.stalled);
    let (groups, overload) = (&report.groups, &report.overload);
    let faults = &report.cluster_faults;
    let never = |ms: Option<f64>, is_part: bool| match ms {
        None if is_part => Some("never".to_owned()),
        ms => number(ms),
    };
    let reaped = |reaped: &Reaped| {
        let (opened, closed) = (reaped.opened?, reaped.reaped?);
        let most = reaped.most_s.map_or_else(String::new, |most| format!(" by {most} s"));
        Some(format!("{closed} of {opened}{most}"))
    };
    vec![
        ("filled", number(report.fill_accepted_per_s), "frames/s"),
        ("filled, CPU per frame", number(report.fill_server_cpu_us_per_frame), "µs"),
        ("written per byte stored", number(report.fill_write_amplification), "bytes"),
        ("drained", number(report.drain_shown_per_s), "frames/s"),
        ("drained, CPU per frame", number(report.drain_server_cpu_us_per_frame), "µs"),
        ("connections", count(report.connections), ""),
        ("connected", number(report.connects_per_s), "a second"),
        ("memory per connection", kib(report.rss_bytes_per_connection), "KiB"),
        ("memory per silent connection", kib(report.rss_bytes_per_silent_connection), "KiB"),
        ("kills", some(report.kills), ""),
        ("ready after a kill, longest", number(report.ready_max_ms), "ms"),
        ("everyone back after a kill, longest", number(report.recovery_max_ms), "ms"),
        ("NATS servers' CPU per frame", number(report.bus_cpu_us_per_frame), "µs"),
        ("failures", count(faults.times), ""),
        ("everyone served again, longest", number(faults.back_max_ms), "ms"),
        ("everyone served again, half of them", number(faults.back_p50_ms), "ms"),
        ("stale replicas met", count(faults.stale_reads), ""),
        ("pushes lost", count(faults.pushes_dropped), ""),
        ("came within", number(storm.within_s), "s"),
        ("source addresses", count(storm.sources), ""),
        ("attached in the end", count(storm.attached), "clients"),
        ("everyone attached after", never(storm.all_back_ms, storm.attached.is_some()), "ms"),
        ("told of the restart", count(ended.told), "clients"),
        ("SIGTERM until ended", number(ended.drain_ms), "ms"),
        ("start until ready", number(ended.ready_ms), "ms"),
        ("SIGTERM until everyone was back", never(ended.all_back_ms, ended.told.is_some()), "ms"),
        ("frames queued meanwhile", count(ended.queued_frames), ""),
        ("kill -9: start until ready", number(ended.kill_ready_ms), "ms"),
        ("kill -9: start until connected", number(ended.kill_first_connect_ms), "ms"),
        ("queue taken in", number(ended.drain_queue_s), "s"),
        ("slow readers", count(slow.readers), ""),
        ("frames waiting for each", count(slow.queued_frames), ""),
        ("memory per slow reader", kib(slow.rss_bytes_per_reader), "KiB"),
        ("taken while slow", count(slow.frames_taken_while_slow), "frames"),
        ("rest taken in", number(slow.drain_s), "s"),
        ("stalled connections", count(stalled.connections), ""),
        ("memory per stalled connection", kib(stalled.rss_bytes_per_connection), "KiB"),
        ("reaped: no ClientHello", reaped(&stalled.no_client_hello), ""),
        ("reaped: half a handshake", reaped(&stalled.half_handshake), ""),
        ("reaped: no Hello", reaped(&stalled.no_hello), ""),
        ("reaped: attached and silent", reaped(&stalled.silent), ""),
        ("groups", count(groups.groups), ""),
        ("members of each", count(groups.members), ""),
        ("messages", count(groups.messages), ""),
        ("posts for each message", number(groups.posts_per_message), ""),
        ("absences", count(groups.absences), ""),
        ("peak", number(overload.peak_per_s), "frames/s"),
        ("offered", number(overload.offered_per_s), "frames/s"),
        ("goodput", number(overload.goodput_percent), "% of the peak"),
    ]
}

fn migration(report: &Report) -> Vec<Figure> {
    let all = &report.migration;
    let slowest = |of: fn(&Crossed) -> Option<f64>| {
        number(all.migrations.iter().filter_map(of).reduce(f64::max))
    };
    let kills = all.migrations.iter().map(|one| one.crashes.len() as u64).sum();
    vec![
        ("done", count(all.done), ""),
        ("given up", all.aborted.and_then(some), ""),
        ("too late for that", all.aborted_too_late.and_then(some), ""),
        ("kills", some(kills), ""),
        ("prepare", slowest(|one| one.prepare_ms), "ms"),
        ("copy", slowest(|one| one.copy_ms), "ms"),
        ("cutover", slowest(|one| one.cutover_ms), "ms"),
        ("drain", slowest(|one| one.drain_ms), "ms"),
        ("finish", slowest(|one| one.finish_ms), "ms"),
        ("the whole of it", number(all.whole_s), "s"),
        ("copied", number(all.copy_entries_per_s), "entries/s"),
        ("queued before", count(all.queued_frames), "frames"),
        ("of these read afterwards", count(all.queued_frames_read), "frames"),
        ("posts passed on", count(all.posts_passed), ""),
    ]
}

fn tester(report: &Report) -> Vec<Figure> {
    vec![
        ("threads", some(report.tester_threads), ""),
        ("CPU", number(report.tester_cpu_percent), "% of its threads"),
        ("lateness, p99", number(report.send_lag_p99_us), "µs"),
        ("lateness of connections, p99", number(report.storm.start_lag_p99_us), "µs"),
        ("set-up", number(report.setup_ms), "ms"),
        ("quiet after", number(report.quiet_ms), "ms"),
    ]
}

/// What went wrong, by its name.
pub(super) fn errors(report: &Report) -> String {
    if report.errors.is_empty() {
        return String::new();
    }
    let row = |(name, count): (&String, &u64)| {
        format!("<tr><td>{}</td><td class=\"number\">{}</td></tr>", Text(name), grouped(*count))
    };
    let rows: String = report.errors.iter().map(row).collect();
    format!(
        "<h2>Refused or broken, and carried on</h2><table><tr><th>what</th>\
         <th class=\"number\">how often</th></tr>{rows}</table>\n"
    )
}

/// The limits that were raised for the relay.
pub(super) fn raised(report: &Report) -> String {
    if report.raised_limits.is_empty() {
        return String::new();
    }
    let item = |(key, value): (&String, &u64)| format!("{}={value}", Text(key));
    let list: Vec<String> = report.raised_limits.iter().map(item).collect();
    format!(
        "<p class=\"faint\">Limits raised for the spawned relay, in force all the same: \
         <code>{}</code></p>\n",
        list.join(" ")
    )
}
