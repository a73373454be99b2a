//! What a command line means: every default filled in, everything that cannot work refused before
//! anything is started.

mod error;
mod shape;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use valise_client::TransportKind;
use valise_proto::limits::{
    FAN_OUT_BYTES_MAX, MAILBOX_BYTES_MAX, MAILBOX_FRAMES_MAX, PAYLOAD_SIZES, TARGETS_MAX,
};
use valise_proto::{RelayAddress, Token};

use crate::cli::{AbortAt, Crash, Fault, Kind, Moment, Options, Output, Scenario, Transport};
use crate::fail_if::{self, Condition, Numbers};

pub(crate) use error::PlanError;
pub(crate) use shape::Shape;

/// Descriptors that are not connections: files and the runtime here, and above all those a relay of
/// the same limits keeps for its store.
const DESCRIPTORS_SPARE: u64 = 1_200;

/// Frames one sender keeps in flight into mailboxes that nobody reads, so that the relay's commits
/// are full.
pub(crate) const FILL_WINDOW: u32 = 64;

/// One sender for so many mailboxes that are filled.
const MAILBOXES_PER_SENDER: u32 = 40;

/// Nodes that may be spawned: as many endpoints as a realm record has.
pub(crate) const NODES_MAX: u32 = 16;

/// Frames that may be queued before a restart.
const QUEUED_MAX: u32 = 1_000_000;

/// How often a migration may be repeated.
pub(crate) const REPEATED_MAX: u32 = 1_000;

/// A run, decided.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The name in a scenario file, or that of the scenario.
    pub(crate) name: String,
    pub(crate) scenario: Scenario,
    pub(crate) target: Target,
    /// Clients with a mailbox that takes part; those that fill mailboxes or chat meanwhile come on
    /// top.
    pub(crate) clients: u32,
    /// Clients that chat in pairs meanwhile.
    pub(crate) others: u32,
    /// Whether the clients are the library's own.
    pub(crate) following: bool,
    /// Whether the run ends when standard input does.
    pub(crate) leashed: bool,
    /// Connections that a process of this machine may have.
    pub(crate) connections_max: u32,
    pub(crate) conversations: u32,
    /// Of each group.
    pub(crate) members: u32,
    /// Frames queued before a restart.
    pub(crate) queued: u32,
    pub(crate) kind: Kind,
    pub(crate) pace: Pace,
    pub(crate) payload_bytes: usize,
    pub(crate) duration: Duration,
    /// Over how long a storm comes.
    pub(crate) within: Duration,
    pub(crate) kills: u32,
    /// Nodes of a data centre; 0 for a supernode.
    pub(crate) nodes: u32,
    pub(crate) fault: Fault,
    /// How often it happens.
    pub(crate) times: u32,
    /// What is killed while a realm moves.
    pub(crate) crash: Option<Crash>,
    /// When; none where nothing is.
    pub(crate) at: Vec<Moment>,
    /// When a migration is given up.
    pub(crate) abort_at: Option<AbortAt>,
    /// And begun anew after that.
    pub(crate) again: bool,
    /// How many realms move, one after another.
    pub(crate) repeat: u32,
    pub(crate) transport: Transport,
    pub(crate) threads: usize,
    pub(crate) sinks: Sinks,
}

/// Where the figures go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sinks {
    pub(crate) json: Option<PathBuf>,
    pub(crate) csv: Option<PathBuf>,
    pub(crate) hdr: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
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

impl Sinks {
    /// Decides what becomes of the figures. `known` are the numbers a report has.
    ///
    /// # Errors
    /// [`PlanError::FailIf`].
    pub(crate) fn new(output: &Output, known: &Numbers) -> Result<Self, PlanError> {
        let mut conditions = Vec::new();
        for text in &output.fail_if {
            conditions.extend(fail_if::parse(text, known)?);
        }
        let Output { json, csv, hdr, html, .. } = output.clone();
        Ok(Self { json, csv, hdr, html, conditions })
    }
}

impl Plan {
    /// Decides a run. `known` are the numbers a report has; `descriptors` is how many files this
    /// process may open.
    ///
    /// # Errors
    /// [`PlanError`] names the option.
    pub(crate) fn new(
        scenario: Scenario,
        options: &Options,
        known: &Numbers,
        descriptors: u64,
    ) -> Result<Self, PlanError> {
        let shape = Shape::of(scenario);
        if let Some(option) = shape.meaningless(options) {
            return Err(match option {
                "target" => PlanError::NeedsSpawn(shape.name),
                _ => PlanError::Meaningless(option, shape.name),
            });
        }
        let clients = options.clients.unwrap_or(shape.clients);
        let kills = match scenario {
            Scenario::Kill => options.kills.unwrap_or(20),
            _ => 0,
        };
        let default = match scenario {
            Scenario::Kill => Duration::from_millis(1_500) * kills,
            _ => Duration::from_secs(10),
        };
        let conversations = options.conversations.unwrap_or(match scenario {
            Scenario::FanOut => shape.conversations.min(clients.saturating_sub(1)),
            _ => shape.conversations,
        });
        let plan = Self {
            name: shape.name.to_owned(),
            scenario,
            target: Target::Spawn,
            clients,
            others: options.others.unwrap_or(shape.others),
            following: options.following,
            leashed: options.leashed,
            connections_max: u32::try_from(descriptors.saturating_sub(DESCRIPTORS_SPARE))
                .unwrap_or(u32::MAX),
            conversations,
            members: options.members.unwrap_or(8),
            queued: options.queued.unwrap_or(0),
            kind: options.kind,
            pace: pace(options, &shape, scenario, conversations)?,
            payload_bytes: options.size,
            duration: options.duration.unwrap_or(default),
            within: options.within.unwrap_or(Duration::from_secs(2)),
            kills,
            nodes: options.nodes.unwrap_or(shape.nodes),
            fault: options.fault.unwrap_or_default(),
            times: options.times.unwrap_or(3),
            crash: options.crash,
            at: moments(options),
            abort_at: options.abort_at,
            again: options.again,
            repeat: options.repeat.unwrap_or(1),
            transport: options.transport,
            threads: options.threads.unwrap_or_else(default_threads).max(1),
            sinks: Sinks::new(&options.output, known)?,
        };
        plan.check(&shape)?;
        let target = target(options, plan.accounts())?;
        Ok(Self { target, ..plan })
    }

    /// Clients of this run, those that fill mailboxes included.
    fn accounts(&self) -> u32 {
        self.clients + self.others + self.filling()
    }

    /// Connections that a relay of this run has at the same time, at most.
    pub(crate) fn connections(&self) -> u32 {
        let all = self.each().saturating_mul(self.clients + self.others) + self.filling();
        all.min(self.connections_max)
    }

    /// Connections that the process with the most of them has: this one, that of a migration's others,
    /// or the relay's.
    fn needed(&self) -> u64 {
        let [clients, others, filling] = [self.clients, self.others, self.filling()].map(u64::from);
        let each = u64::from(self.each());
        let relay = clients + others + filling;
        match self.scenario {
            Scenario::Migrate => relay.max(each * clients + filling).max(each * others),
            _ => relay.max(each * clients + others + filling),
        }
    }

    /// Where some mailboxes are served here and some there, a client has two connections.
    fn each(&self) -> u32 {
        if self.following || self.scenario == Scenario::Migrate { 2 } else { 1 }
    }

    /// Mailboxes that are filled before and whoever fills them.
    fn filling(&self) -> u32 {
        match self.scenario {
            Scenario::Offline | Scenario::SlowReaders => senders_for(self.clients),
            Scenario::Restart | Scenario::Migrate => {
                let (mailboxes, _) = self.queue();
                mailboxes + senders_for(mailboxes)
            }
            _ => 0,
        }
    }

    /// The mailboxes that hold the frames queued before a restart, and how many each holds.
    pub(crate) fn queue(&self) -> (u32, u64) {
        let each = mailbox_frames(self.payload_bytes);
        let mailboxes = u64::from(self.queued).div_ceil(each).max(1);
        match self.queued {
            0 => (0, 0),
            queued => (
                u32::try_from(mailboxes).expect("there are fewer mailboxes than frames"),
                u64::from(queued) / mailboxes,
            ),
        }
    }

    /// How the client library is to connect.
    pub(crate) fn transport_kind(&self) -> TransportKind {
        match self.transport {
            Transport::Raw => TransportKind::Raw,
            Transport::Websocket => TransportKind::WebSocket,
        }
    }

    fn check(&self, shape: &Shape) -> Result<(), PlanError> {
        let day = Duration::from_secs(86_400);
        if self.duration.is_zero() || self.duration > day {
            return Err(PlanError::Duration);
        }
        if self.within.is_zero() || self.within > day {
            return Err(PlanError::Within);
        }
        if !PAYLOAD_SIZES.contains(&self.payload_bytes) {
            return Err(PlanError::Size);
        }
        if self.queued > QUEUED_MAX {
            return Err(PlanError::Queued);
        }
        if !(1..=REPEATED_MAX).contains(&self.repeat) {
            return Err(PlanError::Repeat);
        }
        if self.nodes < shape.nodes || self.nodes > NODES_MAX {
            return Err(PlanError::Nodes(shape.nodes));
        }
        self.check_clients(shape)?;
        self.check_conversations()?;
        self.check_window()
    }

    fn check_clients(&self, shape: &Shape) -> Result<(), PlanError> {
        let error = |text: String| Err(PlanError::Clients(text));
        let needed = self.needed();
        let most = self.connections_max;
        if needed > most.into() {
            return error(format!(
                "the files that a process may open here are enough for {most} connections, and {needed} \
                 are needed; raise it with `ulimit -n`"
            ));
        }
        if self.following && self.kind == Kind::Signal {
            return Err(PlanError::Meaningless("kind signal", "one-to-one with --following"));
        }
        if self.clients < shape.least {
            return error(format!("at least {}", shape.least));
        }
        if self.scenario == Scenario::OneToOne && self.clients % 2 == 1 {
            return error("pairs need an even number".to_owned());
        }
        if self.scenario == Scenario::Groups && !self.clients.is_multiple_of(self.members.max(1)) {
            return error(format!("not a multiple of the {} members of a group", self.members));
        }
        let chatting = self.others > 0 || shape.needs_others();
        if chatting && (self.others < 2 || self.others % 2 == 1) {
            return Err(PlanError::Others);
        }
        Ok(())
    }

    fn check_conversations(&self) -> Result<(), PlanError> {
        let error = |text: String| Err(PlanError::Conversations(text));
        let most = (FAN_OUT_BYTES_MAX / self.payload_bytes).min(TARGETS_MAX);
        let Self { scenario, clients, conversations, members, payload_bytes, .. } = *self;
        if conversations == 0 {
            return error("at least one".to_owned());
        }
        if scenario == Scenario::FanOut {
            if conversations >= clients {
                return error(format!("{clients} clients have {} others each", clients - 1));
            }
            if conversations as usize > most {
                return error(format!(
                    "a post of {payload_bytes} bytes has at most {most} targets"
                ));
            }
        }
        if scenario == Scenario::Groups && !(2..=most + 1).contains(&(members as usize)) {
            return Err(PlanError::Members(most + 1));
        }
        let held = mailbox_frames(payload_bytes);
        if scenario == Scenario::Offline && u64::from(conversations) > held {
            return error(format!("a mailbox holds {held} such frames"));
        }
        Ok(())
    }

    /// A post resolves before the next one of its conversation, so a window larger than the
    /// conversations could never be filled.
    fn check_window(&self) -> Result<(), PlanError> {
        let Pace::Window(window) = self.pace else { return Ok(()) };
        let conversations = match self.scenario {
            Scenario::OneToOne | Scenario::Kill | Scenario::Restart => self.conversations,
            Scenario::FanOut => 1,
            _ => return Ok(()),
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

/// How many senders fill so many mailboxes.
pub(crate) fn senders_for(mailboxes: u32) -> u32 {
    mailboxes.div_ceil(MAILBOXES_PER_SENDER)
}

/// In the order in which they come.
fn moments(options: &Options) -> Vec<Moment> {
    let all = Moment::value_variants().iter().copied();
    all.filter(|moment| {
        options.crash.is_some() && (options.at.is_empty() || options.at.contains(moment))
    })
    .collect()
}

fn default_threads() -> usize {
    // The other half is for the relay.
    std::thread::available_parallelism().map_or(1, usize::from) / 2
}

fn pace(
    options: &Options,
    shape: &Shape,
    scenario: Scenario,
    conversations: u32,
) -> Result<Pace, PlanError> {
    if let Some(window) = options.window {
        return match window {
            0 => Err(PlanError::Window("at least one".to_owned())),
            _ => Ok(Pace::Window(window)),
        };
    }
    match options.rate.or(shape.rate) {
        Some(rate) if rate.is_finite() && rate > 0.0 => Ok(Pace::Rate(rate)),
        Some(_) => Err(PlanError::Rate),
        None => Ok(match scenario {
            Scenario::Offline => Pace::Window(FILL_WINDOW),
            Scenario::OneToOne | Scenario::Overload => Pace::Window(conversations),
            _ => Pace::Window(1),
        }),
    }
}

fn target(options: &Options, needed: u32) -> Result<Target, PlanError> {
    let Some(url) = &options.target else { return Ok(Target::Spawn) };
    let address = url.parse().map_err(PlanError::Target)?;
    let mut codes = Vec::new();
    for code in &options.invite_code {
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
    if !codes.is_empty() && codes.len() < needed as usize {
        return Err(PlanError::Codes { clients: needed, codes: codes.len() });
    }
    Ok(Target::Address { address, codes })
}
