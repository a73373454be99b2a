//! The command line. What it means for a run is decided in `plan`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Drives many clients against a Valise relay, checks that nothing accepted is lost, doubled or
/// reordered, and reports latencies and costs.
#[derive(Debug, Clone, Parser)]
#[command(name = "valise-load", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Pairs of clients; one of each pair sends
    OneToOne(Options),
    /// Every client posts to several others at once
    FanOut(Options),
    /// Groups; every member posts to all others of its group, and members go away and come back
    Groups(Options),
    /// Fill mailboxes whose owners are away, then let the owners come and take everything
    Offline(Options),
    /// Many attached clients that say nothing
    Idle(Options),
    /// Kill -9 and restart the spawned relay under load
    Kill(Options),
    /// SIGTERM and restart the spawned relay under load, perhaps with many frames queued
    Restart(Options),
    /// Many clients connect and attach at once
    ConnectStorm(Options),
    /// Many clients lose their connections at once and come back, while others chat
    ReconnectStorm(Options),
    /// Clients with full mailboxes that hardly read, while others chat
    SlowReaders(Options),
    /// Connections that get stuck on the way, while others chat
    Stalled(Options),
    /// Find the most the relay takes, then offer it three times as much
    Overload(Options),
    /// Servers and nodes of a spawned data centre fail under load, again and again
    ClusterFaults(Options),
    /// A spawned supernode's realm moves into a spawned data centre while its clients chat
    Migrate(Options),
    /// Run the scenarios of a file, one after another
    Run(FileOptions),
    /// Combine reports of processes that loaded one relay at the same time
    Merge(MergeOptions),
    /// Write the man pages and shell completions of this program
    #[command(hide = true)]
    Man {
        /// The directory to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// How to do it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Start a relay of this workspace with raised limits in a temporary directory [default]
    #[arg(long, conflicts_with = "target")]
    pub(crate) spawn: bool,

    /// Spawn so many nodes of a data centre, over three NATS servers, instead of a supernode
    /// [default: cluster-faults 2]; migrate: those of the data centre that a supernode moves into
    /// [default: 2]
    #[arg(long, value_name = "N", conflicts_with = "target")]
    pub(crate) nodes: Option<u32>,

    /// The relay to load: valise://host:port/REALM
    #[arg(long, value_name = "URL")]
    pub(crate) target: Option<String>,

    /// A code for one client to join with, or @FILE with one a line; may be repeated
    #[arg(long, value_name = "CODE", requires = "target")]
    pub(crate) invite_code: Vec<String>,

    /// How many clients; in the storms, slow-readers and stalled, those that do it [default:
    /// one-to-one 100, fan-out 20, groups 64, offline 600, idle 1000, kill 200, restart 1000, the
    /// storms 2000, slow-readers 100, stalled 2000, overload 200, cluster-faults 64, migrate 200]
    #[arg(long, value_name = "N")]
    pub(crate) clients: Option<u32>,

    /// The storms, slow-readers, stalled: clients that chat in pairs meanwhile [default:
    /// connect-storm 0, stalled 500, else 100]; migrate: the same in a process of their own, since
    /// one process opens only so many files, with as many frames for each client [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) others: Option<u32>,

    /// The storms: over how long they come [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) within: Option<Duration>,

    /// groups: members of each group [default: 8]
    #[arg(long, value_name = "N")]
    pub(crate) members: Option<u32>,

    /// restart, migrate: frames to queue for absent recipients before, up to 1,000,000 [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) queued: Option<u32>,

    /// Conversations of each sender with each of its recipients; in a fan-out, the recipients of
    /// each post [default: 1, fan-out 5, kill, restart and cluster-faults 4, overload 16]
    #[arg(long, value_name = "K")]
    pub(crate) conversations: Option<u32>,

    /// Stored frames, or signals that reach only who is attached
    #[arg(long, value_enum, default_value_t)]
    pub(crate) kind: Kind,

    /// Open model: frames per second over all senders, latencies from the intended start; migrate: of
    /// --clients, and --others come on top [default: kill 2000, groups, cluster-faults and migrate
    /// 200, restart and whoever chats meanwhile 500]
    #[arg(long, value_name = "R", conflicts_with = "window")]
    pub(crate) rate: Option<f64>,

    /// one-to-one: clients of the client library's own, which follow a realm that moves
    #[arg(long)]
    pub(crate) following: bool,

    /// End in order when standard input does: this run is part of another one
    #[arg(long, hide = true)]
    pub(crate) leashed: bool,

    /// Closed model: frames in flight per sender, at most one per conversation
    /// [default: one per conversation, offline 64]
    #[arg(long, value_name = "W")]
    pub(crate) window: Option<u32>,

    /// Payload size in bytes: 512, 2048, 8192 or 65536
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    pub(crate) size: usize,

    /// How long to load, such as 10s, 500ms or 2m; where others chat, also how long they do before
    /// it begins [default: 10s; kill 1.5s for each kill]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,

    /// How often the relay is killed, in the scenario kill [default: 20]
    #[arg(long, value_name = "N")]
    pub(crate) kills: Option<u32>,

    /// cluster-faults: what fails [default: server-kill]
    #[arg(long, value_enum)]
    pub(crate) fault: Option<Fault>,

    /// cluster-faults: how often [default: 3]
    #[arg(long, value_name = "N")]
    pub(crate) times: Option<u32>,

    /// migrate: what is killed (kill -9) and started again, once at each of the moments of --at; a
    /// node or a server at one of them in each migration, in turn
    #[arg(long, value_enum)]
    pub(crate) crash: Option<Crash>,

    /// migrate: when; several are separated by commas [default: all of them]
    #[arg(long, value_enum, value_delimiter = ',', requires = "crash")]
    pub(crate) at: Vec<Moment>,

    /// migrate: give the first migration up then, and see that the supernode serves on
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) abort_at: Option<AbortAt>,

    /// migrate: after that, migrate all the same
    #[arg(long, requires = "abort_at")]
    pub(crate) again: bool,

    /// migrate: do all of it so often, each time with another realm and data centre [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) repeat: Option<u32>,

    #[command(flatten)]
    pub(crate) output: Output,

    /// How packets travel inside TLS
    #[arg(long, value_enum, default_value_t)]
    pub(crate) transport: Transport,

    /// Threads of the tester [default: half of the cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

/// What becomes of the figures.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Output {
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write one row a second as CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,

    /// Write an HdrHistogram interval log (V2)
    #[arg(long, value_name = "FILE")]
    pub(crate) hdr: Option<PathBuf>,

    /// Write the report with plots as one HTML page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// Exit 99 if this holds at the end, such as 'p99>50ms' or 'accepted_per_s<36000'; may be
    /// repeated, and several may be separated by commas
    #[arg(long, value_name = "EXPR")]
    pub(crate) fail_if: Vec<String>,
}

/// Runs of a file.
#[derive(Debug, Clone, Args)]
pub(crate) struct FileOptions {
    /// A TOML file: [[run]] tables with `name`, `scenario`, and the same keys as the flags
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Write all reports as one JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write all reports as one HTML page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Reports to combine.
#[derive(Debug, Clone, Args)]
pub(crate) struct MergeOptions {
    /// Reports of one run each, written with --json
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) output: Output,
}

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Pairs of clients; one of each pair sends
    #[default]
    OneToOne,
    /// Every client posts to several others at once
    FanOut,
    /// Groups; every member posts to all others of its group
    Groups,
    /// Fill mailboxes whose owners are away, then let the owners come and take everything
    Offline,
    /// Many attached clients that say nothing
    Idle,
    /// Kill -9 and restart the spawned relay under load
    Kill,
    /// SIGTERM and restart the spawned relay under load
    Restart,
    /// Many clients connect and attach at once
    ConnectStorm,
    /// Many clients lose their connections at once and come back
    ReconnectStorm,
    /// Clients with full mailboxes that hardly read
    SlowReaders,
    /// Connections that get stuck on the way
    Stalled,
    /// Three times what the relay takes
    Overload,
    /// Servers and nodes of a data centre fail under load
    ClusterFaults,
    /// A supernode's realm moves into a data centre
    Migrate,
}

impl Command {
    /// The scenario it asks for, if it is about one.
    pub(crate) fn scenario(&self) -> Option<(Scenario, &Options)> {
        Some(match self {
            Self::OneToOne(options) => (Scenario::OneToOne, options),
            Self::FanOut(options) => (Scenario::FanOut, options),
            Self::Groups(options) => (Scenario::Groups, options),
            Self::Offline(options) => (Scenario::Offline, options),
            Self::Idle(options) => (Scenario::Idle, options),
            Self::Kill(options) => (Scenario::Kill, options),
            Self::Restart(options) => (Scenario::Restart, options),
            Self::ConnectStorm(options) => (Scenario::ConnectStorm, options),
            Self::ReconnectStorm(options) => (Scenario::ReconnectStorm, options),
            Self::SlowReaders(options) => (Scenario::SlowReaders, options),
            Self::Stalled(options) => (Scenario::Stalled, options),
            Self::Overload(options) => (Scenario::Overload, options),
            Self::ClusterFaults(options) => (Scenario::ClusterFaults, options),
            Self::Migrate(options) => (Scenario::Migrate, options),
            Self::Run(_) | Self::Merge(_) | Self::Man { .. } => return None,
        })
    }
}

const EXIT_CODES: &str = "\
Exit codes: 0 all promises kept; 1 a frame lost, doubled, reordered, invented or changed, the \
relay's counts do not add up, or the run failed; 2 wrong usage; 99 a --fail-if held; 130 Ctrl-C.";

/// What fails in a data centre.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// A NATS server, by kill -9; it comes back after up to 12 s
    #[default]
    ServerKill,
    /// A NATS server does nothing for up to 12 s, and its connections stay open
    ServerHang,
    /// A NATS server hands over and ends, and comes back
    ServerDrain,
    /// The network between NATS servers, for up to 12 s: two of them, one way, one from the others,
    /// one from everyone with a relay that knows no other. Needs root and iproute2
    Partition,
    /// Everyone is cut off and attaches again at another node, while one server is always behind
    StaleReplicas,
    /// One push in ten to the last node is lost, for 5 s
    LostPushes,
    /// A node, by kill -9; it comes back after up to 3 s
    NodeKill,
    /// A node does nothing for 20 s, and everyone leaves it meanwhile
    NodeHang,
    /// All nodes, one after the other, by SIGTERM
    RollingRestart,
}

/// What is killed while a realm moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Crash {
    /// The supernode
    Supernode,
    /// The importer
    Importer,
    /// A node of the data centre, another one each time; it comes back after up to 3 s
    Node,
    /// A NATS server, another one each time; it comes back after up to 12 s
    Server,
}

/// When, in the course of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Moment {
    /// The importer has been started, and no shard has a log yet
    Begin,
    /// Shards have logs, which are being copied
    Copy,
    /// A shard is sealed: as soon as that is seen
    Seal,
    /// Some shards are the data centre's, a random number of them
    Activate,
    /// All shards are the data centre's, and the supernode passes posts on
    Forward,
    /// The supernode is being wiped
    Finish,
}

/// When a migration is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AbortAt {
    /// Before any shard has a log
    Begin,
    /// As soon as shards have logs
    Copy,
    /// At a random moment before the first seal
    Random,
}

/// How frames travel.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Stored until acknowledged
    #[default]
    Post,
    /// Forwarded or forgotten
    Signal,
}

/// How packets travel inside TLS.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize, JsonSchema,
)]
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
