//! The report for people: what was asked first, the figures, and the judgement last, where the eye
//! ends up.

use std::fmt::{self, Display, Formatter};

use clap::ValueEnum;

use crate::checker::Verdict;
use crate::latency::Percentiles;
use crate::report::{Crossed, Report};

/// Prints a report as text.
pub(crate) struct Summary<'a>(pub(crate) &'a Report);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.0;
        head(f, report)?;
        rates(f, report)?;
        latency(f, "accepted", &report.accepted_latency)?;
        latency(f, "delivered", &report.delivered_latency)?;
        cost(f, report)?;
        scenario(f, report)?;
        for (name, count) in &report.errors {
            row(f, "event", format_args!("{count} x {name}"))?;
        }
        judgement(f, report)
    }
}

fn row(f: &mut Formatter<'_>, name: &str, value: impl Display) -> fmt::Result {
    writeln!(f, "{name:<12} {value}")
}

/// A figure that was not measured is left out.
fn figure(f: &mut Formatter<'_>, name: &str, value: Option<f64>, unit: &str) -> fmt::Result {
    match value {
        Some(value) => row(f, name, format_args!("{value} {unit}")),
        None => Ok(()),
    }
}

fn head(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let machine = &report.machine;
    row(f, "command", report.command_line.join(" "))?;
    row(
        f,
        "machine",
        format_args!(
            "{} cores, {}, {} GiB, Linux {}",
            machine.cores,
            machine.cpu_model,
            machine.memory_bytes >> 30,
            machine.kernel
        ),
    )?;
    if !report.raised_limits.is_empty() {
        let limits: Vec<String> =
            report.raised_limits.iter().map(|(key, value)| format!("{key}={value}")).collect();
        row(f, "raised", limits.join(" "))?;
    }
    Ok(())
}

fn rates(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    row(
        f,
        "frames",
        format_args!(
            "{} sent, {} accepted, {} refused, {} unknown, {} shown in {} s",
            report.verdict.sent,
            report.verdict.accepted,
            report.verdict.refused,
            report.verdict.unknown,
            report.verdict.shown,
            report.load_s.unwrap_or_default()
        ),
    )?;
    if report.signals_dropped > 0 {
        row(f, "dropped", format_args!("{} signals", report.signals_dropped))?;
    }
    if report.retries + report.reconnects + report.not_sent > 0 {
        let Report { retries, reconnects, not_sent, .. } = report;
        row(
            f,
            "again",
            format_args!("{retries} retries, {reconnects} reconnects; {not_sent} not sent"),
        )?;
    }
    row(
        f,
        "rate",
        format_args!(
            "{} accepted/s, {} shown/s, {} MB/s",
            report.accepted_per_s.unwrap_or_default(),
            report.shown_per_s.unwrap_or_default(),
            report.shown_mb_per_s.unwrap_or_default()
        ),
    )
}

fn latency(f: &mut Formatter<'_>, name: &str, latency: &Percentiles) -> fmt::Result {
    let [Some(p50), Some(p90), Some(p99), Some(p999), Some(max)] =
        [latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us]
    else {
        return Ok(());
    };
    row(f, name, format_args!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {max} us"))
}

fn cost(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    figure(f, "relay CPU", report.server_cpu_us_per_frame, "us/frame")?;
    figure(f, "relay CPU", report.server_cpu_percent, "% of a core")?;
    if let (Some(now), Some(peak)) = (report.server_rss_bytes, report.server_rss_peak_bytes) {
        row(f, "relay RSS", format_args!("{} KiB, {} KiB at most", now >> 10, peak >> 10))?;
    }
    figure(f, "tester CPU", report.tester_cpu_percent, "% of its threads")?;
    figure(f, "send lag", report.send_lag_p99_us, "us at p99")?;
    Ok(())
}

fn scenario(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    figure(f, "fill", report.fill_accepted_per_s, "frames/s")?;
    figure(f, "fill CPU", report.fill_server_cpu_us_per_frame, "us/frame")?;
    figure(f, "fill writes", report.fill_write_amplification, "bytes per byte stored")?;
    figure(f, "drain", report.drain_shown_per_s, "frames/s")?;
    figure(f, "drain CPU", report.drain_server_cpu_us_per_frame, "us/frame")?;
    figure(f, "connects", report.connects_per_s, "/s")?;
    figure(f, "connect CPU", report.server_cpu_ms_per_connect, "ms each, relay")?;
    figure(f, "memory", report.rss_bytes_per_silent_connection, "bytes per silent connection")?;
    figure(f, "memory", report.rss_bytes_per_connection, "bytes per connection after a message")?;
    figure(f, "idle CPU", report.idle_server_cpu_percent, "% of a core, relay")?;
    if report.kills > 0 {
        row(
            f,
            "kills",
            format_args!(
                "{}: ready within {}, connected within {}, everyone back within {}",
                report.kills,
                Ms(report.ready_max_ms),
                Ms(report.first_connect_max_ms),
                Ms(report.recovery_max_ms)
            ),
        )?;
    }
    centre(f, report)?;
    migration(f, report)?;
    storm(f, report)?;
    restart(f, report)?;
    slow(f, report)?;
    stalled(f, report)?;
    groups(f, report)?;
    others(f, report)?;
    trend(f, report)
}

fn centre(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    if report.nodes > 0 {
        row(f, "data centre", format_args!("{} nodes over three NATS servers", report.nodes))?;
    }
    figure(f, "bus CPU", report.bus_cpu_us_per_frame, "us/frame")?;
    let faults = &report.cluster_faults;
    let (Some(fault), Some(times)) = (faults.fault, faults.times) else { return Ok(()) };
    row(
        f,
        "faults",
        format_args!(
            "{} {times} times: everyone served again within {}, {} in half of them",
            fault.to_possible_value().map_or_else(String::new, |name| name.get_name().to_owned()),
            Ms(faults.back_max_ms),
            Ms(faults.back_p50_ms)
        ),
    )?;
    row(
        f,
        "attaches",
        format_args!(
            "{} more, {} stale replicas met",
            faults.attaches.unwrap_or_default(),
            faults.stale_reads.unwrap_or_default()
        ),
    )?;
    if let (Some(pushes), Some(dropped)) = (faults.pushes, faults.pushes_dropped) {
        row(f, "pushes", format_args!("{dropped} of {pushes} lost on the way to the last node"))?;
    }
    Ok(())
}

fn migration(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let migration = &report.migration;
    let Some(done) = migration.done else { return Ok(()) };
    row(
        f,
        "migrations",
        format_args!(
            "{done} done, {} given up, {} too late for that; {} kills",
            migration.aborted.unwrap_or_default(),
            migration.aborted_too_late.unwrap_or_default(),
            migration.migrations.iter().map(|one| one.crashes.len()).sum::<usize>()
        ),
    )?;
    let slowest = |of: fn(&Crossed) -> Option<f64>| {
        Ms(migration.migrations.iter().filter_map(of).reduce(f64::max))
    };
    if done > 0 {
        row(
            f,
            "phases",
            format_args!(
                "prepare {}, copy {}, cutover {}, drain {}, finish {}",
                slowest(|one| one.prepare_ms),
                slowest(|one| one.copy_ms),
                slowest(|one| one.cutover_ms),
                slowest(|one| one.drain_ms),
                slowest(|one| one.finish_ms)
            ),
        )?;
    }
    figure(f, "whole", migration.whole_s, "s")?;
    figure(f, "copied", migration.copy_entries_per_s, "entries/s")?;
    row(
        f,
        "queued",
        format_args!(
            "{} before, {} of them read afterwards; {} posts passed on",
            migration.queued_frames.unwrap_or_default(),
            migration.queued_frames_read.unwrap_or_default(),
            migration.posts_passed.unwrap_or_default()
        ),
    )?;
    for (pause, gap, noticed) in [
        ("calm send", "calm gap", &migration.calm),
        ("copy send", "copy gap", &migration.copying),
        ("cut send", "cut gap", &migration.cutover),
        ("after send", "after gap", &migration.settled),
    ] {
        latency(f, pause, &noticed.send_pause)?;
        latency(f, gap, &noticed.receive_gap)?;
    }
    Ok(())
}

fn storm(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let storm = &report.storm;
    let (Some(within), Some(attached)) = (storm.within_s, storm.attached) else { return Ok(()) };
    row(
        f,
        "storm",
        format_args!(
            "{attached} of {} attached, begun within {within} s from {} addresses; everyone \
             within {}",
            report.clients,
            storm.sources.unwrap_or_default(),
            Ms(storm.all_back_ms)
        ),
    )?;
    latency(f, "attached", &storm.back)
}

fn restart(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let ended = &report.terminated;
    let Some(told) = ended.told else { return Ok(()) };
    row(
        f,
        "SIGTERM",
        format_args!(
            "{told} told, ended after {}, ready after {} more, everyone back within {}",
            Ms(ended.drain_ms),
            Ms(ended.ready_ms),
            Ms(ended.all_back_ms)
        ),
    )?;
    latency(f, "back", &ended.back)?;
    if ended.kill_ready_ms.is_some() {
        row(
            f,
            "kill -9",
            format_args!(
                "with {} queued: ready after {}, connected after {}; taken in {} s",
                ended.queued_frames.unwrap_or_default(),
                Ms(ended.kill_ready_ms),
                Ms(ended.kill_first_connect_ms),
                ended.drain_queue_s.unwrap_or_default()
            ),
        )?;
    }
    Ok(())
}

fn slow(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let slow = &report.slow_readers;
    let (Some(readers), Some(frames)) = (slow.readers, slow.queued_frames) else { return Ok(()) };
    row(
        f,
        "slow",
        format_args!(
            "{readers} readers with {frames} frames each took {} while slow, the rest in {} s",
            slow.frames_taken_while_slow.unwrap_or_default(),
            slow.drain_s.unwrap_or_default()
        ),
    )?;
    figure(f, "memory", slow.rss_bytes_per_reader, "bytes per slow reader")
}

fn stalled(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let stalled = &report.stalled;
    figure(f, "memory", stalled.rss_bytes_per_connection, "bytes per stalled connection")?;
    for (name, reaped) in [
        ("no ClientHello", &stalled.no_client_hello),
        ("half handshake", &stalled.half_handshake),
        ("no Hello", &stalled.no_hello),
        ("attached, silent", &stalled.silent),
    ] {
        let (Some(opened), Some(closed)) = (reaped.opened, reaped.reaped) else { continue };
        row(
            f,
            "reaped",
            format_args!(
                "{closed} of {opened} ({name}) after {} to {} s",
                reaped.least_s.unwrap_or_default(),
                reaped.most_s.unwrap_or_default()
            ),
        )?;
    }
    Ok(())
}

fn groups(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let (groups, overload) = (&report.groups, &report.overload);
    if let (Some(count), Some(members)) = (groups.groups, groups.members) {
        row(
            f,
            "groups",
            format_args!(
                "{count} of {members}; {} messages, {} posts for each; {} absences",
                groups.messages.unwrap_or_default(),
                groups.posts_per_message.unwrap_or_default(),
                groups.absences.unwrap_or_default()
            ),
        )?;
    }
    if let (Some(peak), Some(offered)) = (overload.peak_per_s, overload.offered_per_s) {
        row(f, "overload", format_args!("peak {peak} frames/s, offered {offered} frames/s"))?;
        figure(f, "goodput", overload.goodput_percent, "% of the peak")?;
    }
    Ok(())
}

fn others(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let others = &report.others;
    latency(f, "calm", &others.calm)?;
    latency(f, "meanwhile", &others.during)?;
    figure(f, "p99", others.p99_ratio, "times that of the calm")
}

fn trend(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let trend = &report.trend;
    figure(f, "relay RSS", trend.server_rss_mib_per_h, "MiB/h growth")?;
    if let (Some(least), Some(most)) =
        (trend.server_descriptors_least, trend.server_descriptors_most)
    {
        row(f, "relay files", format_args!("{least} to {most} open"))?;
    }
    figure(f, "p99 drift", trend.p99_drift_percent, "%")
}

/// Milliseconds, or that it never came to pass.
struct Ms(Option<f64>);

impl Display for Ms {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ms) => write!(f, "{ms} ms"),
            None => f.write_str("NEVER"),
        }
    }
}

fn judgement(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let Verdict { lost, duplicate, reordered, phantom, corrupt, redelivered, .. } = &report.verdict;
    let counts = &report.conservation;
    if let Some(holds) = counts.holds {
        let count = |count: Option<u64>| count.unwrap_or_default();
        row(
            f,
            "relay's count",
            format_args!(
                "{} at start + {} accepted {} {} acknowledged + {} expired + {} discarded + {} queued",
                count(counts.queued_at_start),
                count(counts.accepted),
                if holds { "=" } else { "IS NOT" },
                count(counts.acknowledged),
                count(counts.expired),
                count(counts.discarded),
                count(counts.queued)
            ),
        )?;
    }
    row(
        f,
        "checker",
        format_args!(
            "lost {lost}  duplicate {duplicate}  reordered {reordered}  phantom {phantom}  corrupt \
             {corrupt}  (redelivered {redelivered}: allowed)"
        ),
    )?;
    for example in &report.verdict.examples {
        row(f, "", example)?;
    }
    let verdict = if report.is_clean() { "every promise kept" } else { "PROMISES BROKEN" };
    let early = if report.interrupted { ", ended early by Ctrl-C" } else { "" };
    if report.tester_is_bottleneck {
        let why = report.tester_notes.join("; ");
        row(
            f,
            "WARNING",
            "THE TESTER ITSELF WAS THE BOTTLENECK: times and rates say little of the",
        )?;
        row(f, "", format_args!("relay. Why: {why}."))?;
    }
    row(f, "verdict", format_args!("{verdict}{early}"))
}
