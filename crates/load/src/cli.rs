//! The command line. What it means for a run is decided in `plan`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;

/// Drives many clients against a Valise relay, checks that nothing accepted is lost, doubled or
/// reordered, and reports latencies and costs.
#[derive(Debug, Clone, Parser)]
#[command(name = "valise-load", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to do.
    #[arg(value_enum)]
    pub(crate) scenario: Scenario,

    /// Start a relay of this workspace with raised limits in a temporary directory [default]
    #[arg(long, conflicts_with = "target")]
    pub(crate) spawn: bool,

    /// The relay to load: valise://host:port/REALM
    #[arg(long, value_name = "URL")]
    pub(crate) target: Option<String>,

    /// A code for one client to join with, or @FILE with one a line; may be repeated
    #[arg(long, value_name = "CODE", requires = "target")]
    pub(crate) invite_code: Vec<String>,

    /// How many clients [default: one-to-one 100, fan-out 20, offline 600, idle 1000, kill 200]
    #[arg(long, value_name = "N")]
    pub(crate) clients: Option<u32>,

    /// Conversations of each sender with each of its recipients; in a fan-out, the recipients of
    /// each post [default: 1, fan-out 5, kill 4]
    #[arg(long, value_name = "K")]
    pub(crate) conversations: Option<u32>,

    /// Stored frames, or signals that reach only who is attached
    #[arg(long, value_enum, default_value_t)]
    pub(crate) kind: Kind,

    /// Open model: frames per second over all senders, latencies from the intended start
    /// [default: kill 2000]
    #[arg(long, value_name = "R", conflicts_with = "window")]
    pub(crate) rate: Option<f64>,

    /// Closed model: frames in flight per sender, at most one per conversation
    /// [default: one per conversation, offline 64]
    #[arg(long, value_name = "W")]
    pub(crate) window: Option<u32>,

    /// Payload size in bytes: 512, 2048, 8192 or 65536
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    pub(crate) size: usize,

    /// How long to load, such as 10s, 500ms or 2m [default: 10s; kill 1.5s for each kill]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,

    /// How often the relay is killed, in the scenario kill [default: 20]
    #[arg(long, value_name = "N")]
    pub(crate) kills: Option<u32>,

    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Exit 99 if this holds at the end, such as 'p99>50ms' or 'accepted_per_s<36000'; may be
    /// repeated, and several may be separated by commas
    #[arg(long, value_name = "EXPR")]
    pub(crate) fail_if: Vec<String>,

    /// How packets travel inside TLS
    #[arg(long, value_enum, default_value_t)]
    pub(crate) transport: Transport,

    /// Threads of the tester [default: half of the cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

const EXIT_CODES: &str = "\
Exit codes: 0 all promises kept; 1 a frame lost, doubled, reordered, invented or changed, the \
relay's counts do not add up, or the run failed; 2 wrong usage; 99 a --fail-if held; 130 Ctrl-C.";

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Pairs of clients; one of each pair sends
    #[default]
    OneToOne,
    /// Every client posts to several others at once
    FanOut,
    /// Fill mailboxes whose owners are away, then let the owners come and take everything
    Offline,
    /// Many attached clients that say nothing
    Idle,
    /// Kill -9 and restart the spawned relay under load
    Kill,
}

/// How frames travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Stored until acknowledged
    #[default]
    Post,
    /// Forwarded or forgotten
    Signal,
}

/// How packets travel inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    /// ALPN valise/1
    #[default]
    Raw,
    /// WebSocket over HTTPS
    Websocket,
}

/// `10`, `10s`, `500ms`, `2m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(format!("unknown unit {unit:?}; use ms, s, m or h")),
    };
    let number: f64 =
        number.parse().map_err(|_| "a time is a number and a unit: 10s".to_owned())?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read() {
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("10 parsecs").is_err());
        assert!(parse_duration("s").is_err());
    }
}
