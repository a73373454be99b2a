//! The command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use valise::cli::Exit;
use valise::config::{Config, Layer, Surroundings};
use valise::migration::Pin;
use valise::store::jetstream::BusOptions;
use valise_client::proto::{RealmId, RelayAddress};

use crate::ask::Place;
use crate::exit::{EXIT_CODES, Failure};
use crate::finding::Kind;
use crate::judge::Expected;
use crate::limits::{
    CANARY_TURN_SECONDS, COPIED_TOGETHER, HELD_SECONDS, HELD_TURN_SECONDS, LED_PER_SECOND,
    ROUND_SECONDS,
};
use crate::state;

/// The operators' tools of Valise
#[derive(Debug, Parser)]
#[command(name = "valisectl", version, about, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look once at something, and say what is wrong with it and what to do
    #[command(subcommand)]
    Check(Check),
    /// Look at something again and again, keep alarms, and serve metrics and health
    #[command(subcommand)]
    Watch(Watch),
    /// Move the realm of a supernode into a data centre while its users keep chatting
    #[command(subcommand)]
    Migrate(Box<Migrate>),
    /// List the alarms that a watch keeps
    Alarms(Alarms),
    /// Acknowledge an alarm: it is cleared as soon as it is seen no more
    Acknowledge(Acknowledge),
    /// Print what a shell needs to complete the commands
    Completions {
        /// Which shell
        shell: valise_pages::Shell,
    },
    /// Write the man pages and shell completions of this program
    #[command(hide = true)]
    Man {
        /// The directory to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Check {
    /// The servers and streams of a data centre, and who is on them
    Cluster(CheckCluster),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Watch {
    /// The servers and streams of a data centre, and who is on them; with canaries also its relays
    Cluster(Box<WatchCluster>),
}

/// Where the servers are, and by what an operator is known to them.
#[derive(Debug, Args)]
pub(crate) struct Servers {
    /// Take servers and CA from this configuration of a relay
    #[arg(long, value_name = "FILE", env = "VALISE_CONFIG")]
    config: Option<PathBuf>,
    /// The NATS servers, all of them: nats://host:port, separated by commas
    #[arg(long, value_name = "SERVERS", value_delimiter = ',')]
    cluster: Vec<String>,
    /// The operator's certificate, in PEM; its DNS name is valise-operator
    #[arg(long, value_name = "FILE", requires = "operator_key")]
    operator_certificate: Option<String>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "operator_certificate")]
    operator_key: Option<String>,
    /// Who signs the servers' certificates
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// How many nodes of relays there are; more are told
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Make the importer's key, if there is none yet, and print its pin for the supernode (migration.importer)
    Key {
        /// The file of the key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Print the importer's user for the servers' configuration: it may write this realm's mailboxes and no
    /// other's
    User {
        /// The realm
        #[arg(long, value_name = "REALM", value_parser = realm)]
        realm: RealmId,
    },
    /// Look whether the realm can move, and say what would happen and for how long; nothing is changed
    Plan {
        #[command(flatten)]
        between: Between,
        #[command(flatten)]
        led: Led,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy, cut over, and pass posts on until told to finish; goes on where another one has ended
    Start {
        #[command(flatten)]
        between: Between,
        #[command(flatten)]
        led: Led,
        /// Shards that are copied at a time
        #[arg(long, value_name = "N", default_value_t = COPIED_TOGETHER,
              value_parser = clap::value_parser!(u8).range(1..=64))]
        parallel: u8,
        /// Wipe the supernode when nobody uses it any more, and end
        #[arg(long)]
        finish: bool,
        /// Print JSON, an object a line
        #[arg(long)]
        json: bool,
        /// Log off, error, warn, info, debug or trace
        #[arg(long, value_name = "LEVEL", default_value = "warn")]
        log: String,
    },
    /// Say how far it is
    Status {
        #[command(flatten)]
        between: Between,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let the importer that runs seal and copy nothing; what has moved stays so, and posts are passed on
    Pause {
        /// The file of its key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Let it go on
    Resume {
        /// The file of its key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Let it wipe the supernode when nobody uses it any more
    Finish {
        /// The file of its key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Give the migration up, while no shard is the data centre's: what was imported is removed
    Abort {
        #[command(flatten)]
        between: Between,
        /// Print JSON, an object a line
        #[arg(long)]
        json: bool,
    },
}

/// The two between which a realm moves, and by what the importer is known to them.
#[derive(Debug, Args)]
pub(crate) struct Between {
    /// The realm
    #[arg(long, value_name = "REALM", value_parser = realm)]
    pub(crate) realm: RealmId,
    /// The supernode's port for importers (migration.listen): host:port
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) supernode: String,
    /// The pin of the supernode's key, 64 hex digits, as it prints it
    #[arg(long, value_name = "PIN")]
    pub(crate) supernode_key: Pin,
    /// The file of the importer's own key
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Take servers and CA from this configuration of a relay
    #[arg(long, value_name = "FILE", env = "VALISE_CONFIG")]
    config: Option<PathBuf>,
    /// The NATS servers: nats://host:port, separated by commas
    #[arg(long, value_name = "SERVERS", value_delimiter = ',')]
    cluster: Vec<String>,
    /// The importer's certificate for NATS, in PEM; its DNS name is valise-importer
    #[arg(long, value_name = "FILE", requires = "certificate_key")]
    certificate: Option<String>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    certificate_key: Option<String>,
    /// Who signs the servers' certificates
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
}

/// Where clients are led to, and how fast.
#[derive(Debug, Args)]
pub(crate) struct Led {
    /// Where clients reach the data centre's nodes, as the realm's record lists it: host:port, separated by
    /// commas
    #[arg(long, value_name = "ENDPOINTS", value_delimiter = ',', required = true)]
    pub(crate) endpoints: Vec<String>,
    /// Clients that are told to move, a second
    #[arg(long, value_name = "N", default_value_t = LED_PER_SECOND,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) per_second: u32,
}

#[derive(Debug, Args)]
pub(crate) struct CheckCluster {
    #[command(flatten)]
    pub(crate) servers: Servers,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WatchCluster {
    #[command(flatten)]
    pub(crate) servers: Servers,
    #[command(flatten)]
    pub(crate) state: State,
    /// Serve metrics and health on this address, or "off" [default: 127.0.0.1:7481]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Seconds between two rounds
    #[arg(long, value_name = "SECONDS", default_value_t = ROUND_SECONDS,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) every: u64,
    /// Send canaries through a relay: a mailbox of each partition, small frames that have to come back
    #[arg(long, requires_all = ["relay", "relay_state"])]
    pub(crate) canaries: bool,
    /// Where the relay is: valise://host:port/REALM
    #[arg(long, value_name = "ADDRESS", requires = "canaries")]
    pub(crate) relay: Option<RelayAddress>,
    /// The state directory of a node of this realm; its shard.key says which partition a mailbox is in
    #[arg(long, value_name = "DIRECTORY", requires = "canaries")]
    pub(crate) relay_state: Option<PathBuf>,
    /// Invite codes for the canaries, 512 of them, one a line
    #[arg(long, value_name = "FILE", requires = "canaries")]
    pub(crate) codes: Option<PathBuf>,
    /// Seconds in which each partition has its canary once
    #[arg(long, value_name = "SECONDS", default_value_t = CANARY_TURN_SECONDS,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) canary_turn: u64,
    /// Seconds in which each partition's held canaries are counted once
    #[arg(long, value_name = "SECONDS", default_value_t = HELD_TURN_SECONDS,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) held_turn: u64,
    /// Seconds for which they are held
    #[arg(long, value_name = "SECONDS", default_value_t = HELD_SECONDS,
          value_parser = clap::value_parser!(u64).range(1..=172_800))]
    pub(crate) held_for: u64,
    /// Log off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log: String,
}

/// Where a watch keeps its alarms and its canaries' keys.
#[derive(Debug, Args)]
pub(crate) struct State {
    /// Keep alarms and canaries' keys in this directory [default: $XDG_STATE_HOME/valisectl]
    #[arg(long = "state", visible_alias = "state-directory", value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Alarms {
    #[command(flatten)]
    pub(crate) state: State,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Acknowledge {
    #[command(flatten)]
    pub(crate) state: State,
    /// The alarm's kind, as `valisectl alarms` prints it
    #[arg(value_parser = kind)]
    pub(crate) kind: Kind,
    /// What it is about, as it stands there
    pub(crate) subject: String,
}

fn kind(name: &str) -> Result<Kind, String> {
    let found = Kind::ALL.iter().find(|kind| kind.name() == name);
    found.copied().ok_or_else(|| "there is no such kind of alarm".to_owned())
}

impl State {
    pub(crate) fn directory(&self) -> Result<PathBuf, Failure> {
        self.directory.clone().or_else(state::default_directory).ok_or_else(|| {
            let said = "neither HOME nor XDG_STATE_HOME is set; say where with --state";
            Failure::new(said, Exit::Configuration)
        })
    }
}

impl Servers {
    /// Judged by the rules that a relay's own configuration is judged by.
    pub(crate) fn place(&self, surroundings: &Surroundings) -> Result<Place, Failure> {
        let mut flags = Layer::default();
        flags.cluster.servers = Some(self.cluster.clone());
        flags.cluster.ca.clone_from(&self.ca);
        flags.cluster.certificate.clone_from(&self.operator_certificate);
        flags.cluster.key.clone_from(&self.operator_key);
        Ok(Place { bus: bus(self.config.as_deref(), flags, surroundings)? })
    }

    pub(crate) fn expected(&self) -> Expected {
        Expected { nodes: self.nodes }
    }
}

impl Between {
    /// Judged by the rules that a relay's own configuration is judged by.
    pub(crate) fn bus(&self, surroundings: &Surroundings) -> Result<BusOptions, Failure> {
        let mut flags = Layer::default();
        flags.cluster.servers = Some(self.cluster.clone());
        flags.cluster.ca.clone_from(&self.ca);
        flags.cluster.certificate.clone_from(&self.certificate);
        flags.cluster.key.clone_from(&self.certificate_key);
        bus(self.config.as_deref(), flags, surroundings)
    }
}

/// Where the servers are.
fn bus(
    config: Option<&Path>,
    mut flags: Layer,
    surroundings: &Surroundings,
) -> Result<BusOptions, Failure> {
    // Nothing of the relay's own is read or kept, wherever that would be.
    flags.relay.state_directory = Some(".".to_owned());
    flags.cluster.servers = flags.cluster.servers.filter(|servers| !servers.is_empty());
    let config = Config::load(config, flags, surroundings)?;
    let Some(cluster) = config.cluster else {
        let said = "no servers are named: --cluster nats://host:port,..., or a --config with \
                    cluster.servers";
        return Err(Failure::new(said, Exit::Usage));
    };
    Ok(cluster.bus)
}

fn realm(text: &str) -> Result<RealmId, String> {
    RealmId::from_text(text).map_err(|_| "that is no realm".to_owned())
}

impl WatchCluster {
    /// Where to listen, and whether the next free port will do; none for nowhere.
    pub(crate) fn listen(&self) -> Result<Option<(SocketAddr, bool)>, Failure> {
        match self.listen.as_deref() {
            None => Ok(Some((SocketAddr::from(([127, 0, 0, 1], 7481)), true))),
            Some("off") => Ok(None),
            Some(text) => match text.parse() {
                Ok(address) => Ok(Some((address, false))),
                Err(_) => {
                    let said = format!("`{text}` is no address: 127.0.0.1:7481, or off");
                    Err(Failure::new(said, Exit::Usage))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["valisectl"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "",
            "check",
            "check dns",
            "check cluster --operator-key k",
            "watch cluster --canaries",
            "watch cluster --relay valise://127.0.0.1:1/x",
            "watch cluster --every 0",
            "acknowledge nonsense x",
            "acknowledge consumer",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    fn place(line: &str) -> Result<Place, Failure> {
        let Command::Check(Check::Cluster(check)) = parse(line).expect(line).command else {
            panic!("{line}")
        };
        let surroundings = Surroundings { variables: Vec::new(), descriptors: 4_096 };
        check.servers.place(&surroundings)
    }

    #[test]
    fn servers_elsewhere_need_a_certificate() {
        let local = place("check cluster --cluster nats://127.0.0.1:1,nats://127.0.0.1:2");
        assert_eq!(local.expect("it is well").bus.servers.len(), 2);
        let elsewhere = place("check cluster --cluster nats://10.0.0.1:4222").expect_err("no TLS");
        assert_eq!(elsewhere.code, 78, "{}", elsewhere.said);
        assert_eq!(place("check cluster").expect_err("no server").code, 64);
    }
}
