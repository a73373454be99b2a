//! What a command line means: every default filled in, everything that cannot work refused before
//! anything is started.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use valise_client::TransportKind;
use valise_proto::limits::{
    FAN_OUT_BYTES_MAX, MAILBOX_BYTES_MAX, MAILBOX_FRAMES_MAX, PAYLOAD_SIZES, TARGETS_MAX,
};
use valise_proto::{AddressError, RelayAddress, Token};

use crate::cli::{Cli, Kind, Scenario, Transport};
use crate::fail_if::{self, Condition, FailIfError, Numbers};

/// Descriptors that are not connections: files and the runtime here, and above all those a relay of
/// the same limits keeps for its store.
const DESCRIPTORS_SPARE: u64 = 1_200;

/// Frames one sender keeps in flight into mailboxes that nobody reads, so that the relay's commits
/// are full.
const OFFLINE_WINDOW: u32 = 64;

/// One sender for so many mailboxes, in the scenario offline.
const OFFLINE_MAILBOXES_PER_SENDER: u32 = 40;

/// A run, decided.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) target: Target,
    /// Clients with a mailbox that takes part; senders of the scenario offline come on top.
    pub(crate) clients: u32,
    pub(crate) conversations: u32,
    pub(crate) kind: Kind,
    pub(crate) pace: Pace,
    pub(crate) payload_bytes: usize,
    pub(crate) duration: Duration,
    pub(crate) kills: u32,
    pub(crate) transport: Transport,
    pub(crate) threads: usize,
    pub(crate) json: Option<PathBuf>,
    pub(crate) conditions: Vec<Condition>,
}

/// Which relay.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// One of our own.
    Spawn,
    /// Somebody's.
    Address {
        address: RelayAddress,
        /// One per client, or none where none is asked for.
        codes: Vec<Token>,
    },
}

/// When frames are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// Open model: so many a second over all senders, whether or not the relay keeps up.
    Rate(f64),
    /// Closed model: so many in flight per sender.
    Window(u32),
}

/// Why a command line makes no run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("--target: {0}")]
    Target(AddressError),
    #[error("--invite-code: {0}")]
    Code(AddressError),
    #[error("--invite-code: cannot read {0}: {1}")]
    CodeFile(String, std::io::Error),
    #[error(
        "--invite-code: {clients} clients need as many codes, since a code works once; got {codes}"
    )]
    Codes { clients: u32, codes: usize },
    #[error("--size: a payload has {PAYLOAD_SIZES:?} bytes")]
    Size,
    #[error("--clients: {0}")]
    Clients(String),
    #[error("--conversations: {0}")]
    Conversations(String),
    #[error("--rate: frames per second are a number above 0")]
    Rate,
    #[error("--window: {0}")]
    Window(String),
    #[error("--duration: a run takes some time, and at most 24 hours")]
    Duration,
    #[error("--{0} means nothing in the scenario {1}")]
    Meaningless(&'static str, &'static str),
    #[error("the scenario kill kills a relay of its own: leave --target away")]
    KillNeedsSpawn,
    #[error("--fail-if: {0}")]
    FailIf(#[from] FailIfError),
}

impl Plan {
    /// Decides a run. `known` are the numbers a report has; `descriptors` is how many files this
    /// process may open.
    ///
    /// # Errors
    /// [`PlanError`] names the option.
    pub(crate) fn new(cli: &Cli, known: &Numbers, descriptors: u64) -> Result<Self, PlanError> {
        meaningful(cli)?;
        let clients = clients(cli, descriptors)?;
        let conversations = conversations(cli, clients)?;
        let kills = match cli.scenario {
            Scenario::Kill => cli.kills.unwrap_or(20),
            _ => 0,
        };
        let default = match cli.scenario {
            Scenario::Kill => Duration::from_millis(1_500) * kills,
            _ => Duration::from_secs(10),
        };
        let duration = cli.duration.unwrap_or(default);
        if duration.is_zero() || duration > Duration::from_secs(86_400) {
            return Err(PlanError::Duration);
        }
        if !PAYLOAD_SIZES.contains(&cli.size) {
            return Err(PlanError::Size);
        }
        let mut conditions = Vec::new();
        for text in &cli.fail_if {
            conditions.extend(fail_if::parse(text, known)?);
        }
        let plan = Self {
            scenario: cli.scenario,
            target: target(cli, clients)?,
            clients,
            conversations,
            kind: cli.kind,
            pace: pace(cli, conversations)?,
            payload_bytes: cli.size,
            duration,
            kills,
            transport: cli.transport,
            threads: cli.threads.unwrap_or_else(default_threads).max(1),
            json: cli.json.clone(),
            conditions,
        };
        plan.check_window()?;
        Ok(plan)
    }

    /// Clients that are connected at the same time, at most.
    pub(crate) fn connections(&self) -> u32 {
        match self.scenario {
            Scenario::Offline => self.clients + self.offline_senders(),
            _ => self.clients,
        }
    }

    /// Senders of the scenario offline; they come on top of the clients.
    pub(crate) fn offline_senders(&self) -> u32 {
        self.clients.div_ceil(OFFLINE_MAILBOXES_PER_SENDER)
    }

    /// How the client library is to connect.
    pub(crate) fn transport_kind(&self) -> TransportKind {
        match self.transport {
            Transport::Raw => TransportKind::Raw,
            Transport::Websocket => TransportKind::WebSocket,
        }
    }

    /// A post resolves before the next one of its conversation, so a window larger than the
    /// conversations could never be filled.
    fn check_window(&self) -> Result<(), PlanError> {
        let Pace::Window(window) = self.pace else { return Ok(()) };
        let conversations = match self.scenario {
            Scenario::OneToOne | Scenario::Kill => self.conversations,
            Scenario::FanOut => 1,
            Scenario::Offline | Scenario::Idle => return Ok(()),
        };
        if window > conversations {
            return Err(PlanError::Window(format!(
                "only one frame per conversation is in flight, and a sender has {conversations}"
            )));
        }
        Ok(())
    }
}

/// How many frames of this size a mailbox holds.
pub(crate) fn mailbox_frames(payload_bytes: usize) -> u64 {
    (MAILBOX_BYTES_MAX / payload_bytes.max(1) as u64).min(MAILBOX_FRAMES_MAX.into())
}

fn default_threads() -> usize {
    // The other half is for the relay.
    std::thread::available_parallelism().map_or(1, usize::from) / 2
}

fn meaningful(cli: &Cli) -> Result<(), PlanError> {
    if cli.scenario == Scenario::Kill && cli.target.is_some() {
        return Err(PlanError::KillNeedsSpawn);
    }
    let name = match cli.scenario {
        Scenario::OneToOne => "one-to-one",
        Scenario::FanOut => "fan-out",
        Scenario::Offline => "offline",
        Scenario::Idle => "idle",
        Scenario::Kill => "kill",
    };
    let is_idle = cli.scenario == Scenario::Idle;
    let stores = matches!(cli.scenario, Scenario::Idle | Scenario::Offline | Scenario::Kill);
    let refused = [
        ("kills", cli.kills.is_some() && cli.scenario != Scenario::Kill),
        ("kind signal", cli.kind == Kind::Signal && stores),
        ("rate", cli.rate.is_some() && (is_idle || cli.scenario == Scenario::Offline)),
        ("window", cli.window.is_some() && is_idle),
        ("conversations", cli.conversations.is_some() && is_idle),
    ];
    match refused.iter().find(|(_, refused)| *refused) {
        Some((option, _)) => Err(PlanError::Meaningless(option, name)),
        None => Ok(()),
    }
}

fn clients(cli: &Cli, descriptors: u64) -> Result<u32, PlanError> {
    let clients = cli.clients.unwrap_or(match cli.scenario {
        Scenario::OneToOne => 100,
        Scenario::FanOut => 20,
        Scenario::Offline => 600,
        Scenario::Idle => 1_000,
        Scenario::Kill => 200,
    });
    let most = descriptors.saturating_sub(DESCRIPTORS_SPARE);
    if u64::from(clients) > most {
        return Err(PlanError::Clients(format!(
            "this process may open {descriptors} files, which is enough for {most} clients; \
             raise it with `ulimit -n`"
        )));
    }
    let least = if matches!(cli.scenario, Scenario::Idle | Scenario::Offline) { 1 } else { 2 };
    if clients < least {
        return Err(PlanError::Clients(format!("at least {least}")));
    }
    if cli.scenario == Scenario::OneToOne && clients % 2 == 1 {
        return Err(PlanError::Clients("pairs need an even number".to_owned()));
    }
    Ok(clients)
}

fn conversations(cli: &Cli, clients: u32) -> Result<u32, PlanError> {
    let error = |text: String| Err(PlanError::Conversations(text));
    let conversations = cli.conversations.unwrap_or(match cli.scenario {
        Scenario::FanOut => 5.min(clients - 1),
        Scenario::Kill => 4,
        Scenario::OneToOne | Scenario::Offline | Scenario::Idle => 1,
    });
    if conversations == 0 {
        return error("at least one".to_owned());
    }
    if cli.scenario == Scenario::FanOut {
        if conversations >= clients {
            return error(format!("{clients} clients have {} others each", clients - 1));
        }
        let most = (FAN_OUT_BYTES_MAX / cli.size.max(1)).min(TARGETS_MAX);
        if conversations as usize > most {
            return error(format!("a post of {} bytes has at most {most} targets", cli.size));
        }
    }
    if cli.scenario == Scenario::Offline && u64::from(conversations) > mailbox_frames(cli.size) {
        return error(format!("a mailbox holds {} such frames", mailbox_frames(cli.size)));
    }
    Ok(conversations)
}

fn pace(cli: &Cli, conversations: u32) -> Result<Pace, PlanError> {
    if let Some(rate) = cli.rate {
        return if rate.is_finite() && rate > 0.0 {
            Ok(Pace::Rate(rate))
        } else {
            Err(PlanError::Rate)
        };
    }
    if let Some(window) = cli.window {
        return match window {
            0 => Err(PlanError::Window("at least one".to_owned())),
            _ => Ok(Pace::Window(window)),
        };
    }
    Ok(match cli.scenario {
        Scenario::Kill => Pace::Rate(2_000.0),
        Scenario::Offline => Pace::Window(OFFLINE_WINDOW),
        Scenario::FanOut | Scenario::Idle => Pace::Window(1),
        Scenario::OneToOne => Pace::Window(conversations),
    })
}

fn target(cli: &Cli, clients: u32) -> Result<Target, PlanError> {
    let Some(url) = &cli.target else { return Ok(Target::Spawn) };
    let address = url.parse().map_err(PlanError::Target)?;
    let mut codes = Vec::new();
    for code in &cli.invite_code {
        match code.strip_prefix('@') {
            None => codes.push(Token::from_text(code).map_err(PlanError::Code)?),
            Some(file) => {
                let text = fs::read_to_string(file)
                    .map_err(|error| PlanError::CodeFile(file.to_owned(), error))?;
                for line in text.lines().filter(|line| !line.trim().is_empty()) {
                    codes.push(Token::from_text(line).map_err(PlanError::Code)?);
                }
            }
        }
    }
    let extra = if cli.scenario == Scenario::Offline {
        clients.div_ceil(OFFLINE_MAILBOXES_PER_SENDER)
    } else {
        0
    };
    let needed = clients + extra;
    if !codes.is_empty() && codes.len() < needed as usize {
        return Err(PlanError::Codes { clients: needed, codes: codes.len() });
    }
    Ok(Target::Address { address, codes })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::report::Report;

    fn plan(arguments: &str) -> Result<Plan, String> {
        let words = std::iter::once("valise-load").chain(arguments.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let report = serde_json::to_value(Report::default()).unwrap();
        Plan::new(&cli, &fail_if::numbers(&report), 20_000).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_scenarios() {
        let kill = plan("kill --spawn").unwrap();
        assert_eq!((kill.clients, kill.kills, kill.pace), (200, 20, Pace::Rate(2_000.0)));
        assert_eq!(kill.duration, Duration::from_secs(30));
        assert_eq!(plan("kill --kills 4").unwrap().duration, Duration::from_secs(6));
        let pairs = plan("one-to-one --conversations 64").unwrap();
        assert_eq!((pairs.clients, pairs.pace), (100, Pace::Window(64)));
        assert_eq!(pairs.duration, Duration::from_secs(10));
        let offline = plan("offline").unwrap();
        assert_eq!((offline.clients, offline.offline_senders()), (600, 15));
        assert_eq!(plan("fan-out --clients 4").unwrap().conversations, 3);
        assert!(plan("idle --clients 18800").is_ok());
    }

    #[test]
    fn what_cannot_work_is_refused_and_named() {
        for (arguments, expected) in [
            ("idle --clients 19000", "enough for 18800 clients"),
            ("one-to-one --clients 3", "even number"),
            ("one-to-one --clients 0", "at least 2"),
            ("one-to-one --window 2", "a sender has 1"),
            ("one-to-one --window 0", "at least one"),
            ("one-to-one --conversations 0", "at least one"),
            ("one-to-one --size 500", "[512, 2048, 8192, 65536]"),
            ("one-to-one --rate 0", "above 0"),
            ("one-to-one --rate NaN", "above 0"),
            ("one-to-one --rate 5 --window 1", "cannot be used with"),
            ("one-to-one --duration 0s", "--duration"),
            ("one-to-one --kills 1", "--kills means nothing in the scenario one-to-one"),
            ("offline --kind signal", "--kind signal means nothing in the scenario offline"),
            ("offline --conversations 257 --size 65536", "holds 256 such frames"),
            ("idle --rate 5", "--rate means nothing"),
            ("fan-out --clients 5 --conversations 5", "4 others"),
            ("fan-out --clients 99 --conversations 17 --size 65536", "at most 16 targets"),
            ("one-to-one --fail-if p98>1", "no number 'p98'"),
            ("one-to-one --target https://a", "valise://"),
            ("one-to-one --spawn --target x", "cannot be used with"),
            ("one-to-one --invite-code x", "--target"),
        ] {
            let error = plan(arguments).unwrap_err();
            assert!(error.contains(expected), "{arguments}: {error}");
        }
        let realm = valise_proto::RealmId::new([1; 20]).to_text();
        let code = Token::new([1; 60]).to_text();
        let target = format!("--target valise://127.0.0.1:1/{realm}");
        let error = plan(&format!("kill {target}")).unwrap_err();
        assert!(error.contains("leave --target away"), "{error}");
        let error = plan(&format!("idle --clients 2 {target} --invite-code {code}")).unwrap_err();
        assert!(error.contains("2 clients need as many codes"), "{error}");
        assert!(plan(&format!("idle --clients 1 {target} --invite-code {code}")).is_ok());
        let error = plan(&format!("idle {target} --invite-code short")).unwrap_err();
        assert!(error.contains("96 characters"), "{error}");
    }

    #[test]
    fn conditions_use_the_names_of_the_report() {
        let every = "p99>50ms,lost>0,accepted_latency.p99>1s,rss_bytes_per_connection>12KiB,\
                     ready_max>1s,conservation.queued>0,accepted_per_s<36000";
        assert_eq!(plan(&format!("idle --fail-if {every}")).unwrap().conditions.len(), 7);
    }
}
