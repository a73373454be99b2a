//! A realm's way from a supernode of ours into a data centre of ours, driven as an operator does it:
//! three NATS servers, nodes that are made from the supernode's keys, and `valisectl migrate` as
//! processes of their own. The one place that knows how these are called.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use tempfile::TempDir;
use valise_client::testing::{TestRelayError, free_port, operators_tool};
use valise_proto::RelayAddress;

use crate::centre::{Centre, CentreError};
use crate::relay::{Ground, RelayError, SpawnedRelay};

/// The data centre, and the importer beside it.
pub(crate) struct Crossing {
    // In the order in which they go.
    importer: Option<Child>,
    centre: Centre,
    /// What the importer keeps, and its log.
    directory: TempDir,
    // Static after construction.
    tool: PathBuf,
    /// Where the supernode lets the importer in.
    listen: SocketAddr,
    /// The importer's key, as the supernode knows it.
    importer_pin: String,
    /// Between what the realm moves, as the importer's flags say it; none before there are nodes.
    between: Vec<String>,
    /// Where clients are led to.
    endpoints: String,
}

/// Why a realm does not move.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CrossingError {
    #[error(transparent)]
    Process(#[from] TestRelayError),
    #[error(transparent)]
    Centre(#[from] CentreError),
    #[error(transparent)]
    Relay(#[from] Box<RelayError>),
    #[error("files or processes cannot be made: {0}")]
    System(#[from] io::Error),
    #[error("`{command}` failed ({status}):\n{said}")]
    Command { command: String, status: ExitStatus, said: String },
    #[error("the importer has ended by itself ({status}); its log ends:\n{log}")]
    Ended { status: ExitStatus, log: String },
    #[error("after {waited_s} s there is still no {what}; the importer's log ends:\n{log}")]
    Stuck { what: &'static str, waited_s: u64, log: String },
}

impl Crossing {
    /// Starts the NATS servers and makes the importer's key. Blocks until they listen.
    pub(crate) fn prepare() -> Result<Self, CrossingError> {
        let tool = operators_tool()?;
        let directory = tempfile::Builder::new().prefix("valise-importer-").tempdir()?;
        let centre = Centre::start(Ground::default())?;
        let listen = (IpAddr::V4(Ipv4Addr::LOCALHOST), free_port()?).into();
        let mut crossing = Self {
            importer: None,
            centre,
            directory,
            tool,
            listen,
            importer_pin: String::new(),
            between: Vec::new(),
            endpoints: String::new(),
        };
        crossing.importer_pin = said(crossing.command("key"))?;
        Ok(crossing)
    }

    /// The section by which a supernode lets the importer in.
    pub(crate) fn section(&self) -> String {
        let Self { listen, importer_pin, .. } = self;
        format!("\n[migration]\nlisten = \"{listen}\"\nimporter = \"{importer_pin}\"\n")
    }

    /// Makes nodes of the supernode's keys and starts them; the supernode hears of them. Blocks until
    /// all are ready.
    pub(crate) fn add_nodes(
        &mut self,
        supernode: &SpawnedRelay,
        nodes: u32,
    ) -> Result<(), CrossingError> {
        supernode.add_nodes(&mut self.centre, nodes).map_err(Box::new)?;
        let mut key = Command::new(supernode.binary());
        key.arg("migration-key").arg("--state-directory").arg(supernode.state_directory());
        let flags = [
            ("--realm", supernode.address().realm.to_text()),
            ("--supernode", self.listen.to_string()),
            ("--supernode-key", said(key)?),
            ("--cluster", self.centre.nats().urls().join(",")),
        ];
        self.between =
            flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        let endpoint = |node: &RelayAddress| format!("{}:{}", node.host, node.port);
        self.endpoints = self.addresses().iter().map(endpoint).collect::<Vec<_>>().join(",");
        Ok(())
    }

    /// Where the nodes are.
    pub(crate) fn addresses(&self) -> Vec<RelayAddress> {
        self.centre.addresses()
    }

    /// Servers and nodes.
    pub(crate) fn centre(&mut self) -> &mut Centre {
        &mut self.centre
    }

    /// Starts the importer, which goes on with what there is.
    pub(crate) fn start_importer(&mut self) -> Result<(), CrossingError> {
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut start = self.command("start");
        start.args(&self.between).args(["--endpoints", &self.endpoints, "--json"]);
        start.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.importer = Some(start.spawn()?);
        Ok(())
    }

    /// `kill -9`, and wait until it is gone.
    pub(crate) fn kill_importer(&mut self) -> Result<(), CrossingError> {
        if let Some(mut importer) = self.importer.take() {
            importer.kill()?;
            importer.wait()?;
        }
        Ok(())
    }

    /// That it has not ended by itself for a reason that is none.
    pub(crate) fn check_importer(&mut self) -> Result<(), CrossingError> {
        match self.importer.as_mut().map(Child::try_wait).transpose()?.flatten() {
            Some(status) if !status.success() => {
                Err(CrossingError::Ended { status, log: self.log() })
            }
            _ => Ok(()),
        }
    }

    /// Lets the supernode be wiped.
    pub(crate) fn finish(&self) -> Command {
        self.command("finish")
    }

    /// Gives the migration up, and waits until it is.
    pub(crate) fn abort(&self) -> Command {
        let mut abort = self.command("abort");
        abort.args(&self.between);
        abort
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.tool);
        command.args(["migrate", name, "--key"]).arg(self.directory.path().join("importer.pem"));
        command
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("importer.log")
    }

    /// The last lines of the importer's log.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Leaves the importer's state and log where they are.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        self.kill_importer().ok();
    }
}

/// What a command prints, if it succeeds. Blocks.
pub(crate) fn said(mut command: Command) -> Result<String, CrossingError> {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output()?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr).into_owned();
        return Err(CrossingError::Command { command: format!("{command:?}"), status, said });
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}
