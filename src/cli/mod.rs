//! The command line: `valise` (the same as `valise serve`) and what works beside a relay.

mod banner;
mod exit;
mod migration;
mod node;

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};
use tempfile::TempDir;
use valise_proto::limits::TOKEN_DAYS_MAX;
use valise_proto::{MailboxId, TokenKind};

pub use self::banner::Banner;
pub use self::exit::Exit;
pub use self::migration::MigrationKeyError;
pub use self::node::NodeError;
use crate::config::{Config, ConfigError, Layer, Surroundings};
use crate::identity::{IdentityError, read_token_keys, rotate_token_key};
use crate::token::TokenKeys;

/// Codes made by one call at most: one page of paper, ten times.
const CODES_MAX: i64 = 1_000;

/// What was asked for on the command line.
#[derive(Debug, Parser)]
#[command(
    name = "valise",
    version,
    about = "A messaging relay that cannot read what it carries",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

/// One of the commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a relay; the same as no command at all
    Serve(Serve),
    /// Make invite codes, which let strangers join once each; works while the relay runs
    InviteCode(InviteCode),
    /// Make a new token key; the relay seals with it once it is told to reload (SIGHUP)
    RotateTokenKey(RotateTokenKey),
    /// Make the file by which one more node serves the realm of this relay in a data centre
    ExportNode(ExportNode),
    /// Make the state directory of a further node from that file
    ImportNode(ImportNode),
    /// Print this relay's own key, as retire-node takes it
    NodeKey(NodeKey),
    /// Sign the realm's record without a node, which accepts nothing from then on
    RetireNode(RetireNode),
    /// Print the pin by which an importer knows this relay, for the move into a data centre
    MigrationKey(MigrationKey),
    /// Read every frame in the store of a stopped relay and compare their number with its totals
    Verify(Verify),
}

/// Where the configuration and the state are.
#[derive(Debug, Args)]
pub struct Place {
    /// Read the configuration from this file
    #[arg(long, value_name = "FILE", env = "VALISE_CONFIG")]
    config: Option<PathBuf>,
    /// Keep keys and frames in this directory [default: $XDG_STATE_HOME/valise]
    #[arg(long, value_name = "DIRECTORY")]
    state_directory: Option<String>,
}

/// Run a relay. Flags win over VALISE_SECTION_KEY variables, and those over the file.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    place: Place,
    /// Listen on this address; may be given more than once [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Serve metrics and health on this address, or "off" [default: 127.0.0.1:7480]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Who may join: open, codes or allow-list
    #[arg(long, value_name = "POLICY")]
    access: Option<String>,
    /// Be a node of the data centre on these NATS servers: nats://host:port, separated by commas
    #[arg(long, value_name = "SERVERS", value_delimiter = ',')]
    cluster: Vec<String>,
    /// Keep everything in a directory that is thrown away at the end
    #[arg(long, conflicts_with = "state_directory")]
    temporary: bool,
    /// Print the whole configuration in force and end
    #[arg(long)]
    pub check: bool,
    /// Go on although the store has lost its last N commits
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    accept_missing_commits: u64,
    /// Log off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
}

/// Make invite codes.
#[derive(Debug, Args)]
pub struct InviteCode {
    #[command(flatten)]
    place: Place,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=CODES_MAX))]
    count: u32,
    /// For how many days they are good
    #[arg(long, value_name = "D", default_value_t = 30,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(TOKEN_DAYS_MAX)))]
    days: u16,
}

/// Make a new token key.
#[derive(Debug, Args)]
pub struct RotateTokenKey {
    #[command(flatten)]
    place: Place,
}

/// Make the file for one more node.
#[derive(Debug, Args)]
pub struct ExportNode {
    #[command(flatten)]
    place: Place,
    /// What clients dial to reach the new node
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: String,
    /// Write the file here; there must be none yet
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// Make a further node's state directory.
#[derive(Debug, Args)]
pub struct ImportNode {
    #[command(flatten)]
    place: Place,
    /// The file of `valise export-node`
    file: PathBuf,
}

/// Print this relay's key.
#[derive(Debug, Args)]
pub struct NodeKey {
    #[command(flatten)]
    place: Place,
}

/// Sign a node out of the realm.
#[derive(Debug, Args)]
pub struct RetireNode {
    #[command(flatten)]
    place: Place,
    /// Its key, as `valise export-node` or `valise node-key` printed it
    key: String,
    /// Its endpoint, which goes from the record too
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<String>,
}

/// Print the pin of the migration's port.
#[derive(Debug, Args)]
pub struct MigrationKey {
    #[command(flatten)]
    place: Place,
}

/// Verify a store.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    place: Place,
}

/// Why no invite code or token key was made.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// The configuration does not say where the state is.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The token keys cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The definition of the command line, of which manuals are made.
pub fn definition() -> clap::Command {
    Arguments::command()
}

impl Command {
    /// Reads the command line, the program's name included.
    ///
    /// # Errors
    /// What is wrong with it; or help and version, when they were asked for.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments = Arguments::try_parse_from(arguments)?;
        Ok(arguments.command.unwrap_or(Self::Serve(arguments.serve)))
    }
}

impl Serve {
    /// The directory for `--temporary`, which is gone when this is dropped.
    ///
    /// # Errors
    /// The system's, when it cannot be made.
    pub fn temporary_directory(&self) -> io::Result<Option<TempDir>> {
        let make = || {
            tempfile::Builder::new()
                .prefix("valise-")
                .permissions(std::fs::Permissions::from_mode(0o700))
                .tempdir()
        };
        self.temporary.then(make).transpose()
    }

    /// The checked configuration; `temporary` is the directory for `--temporary`, if there is one.
    /// To be called again for a reload.
    ///
    /// # Errors
    /// [`ConfigError`] says where, what and what to write instead.
    pub fn configuration(
        &self,
        temporary: Option<&Path>,
        surroundings: &Surroundings,
    ) -> Result<Config, ConfigError> {
        let mut layer = self.place.layer();
        if let Some(directory) = temporary {
            layer.relay.state_directory = Some(directory.display().to_string());
        }
        layer.relay.listen = Some(self.listen.clone()).filter(|listen| !listen.is_empty());
        layer.cluster.servers = Some(self.cluster.clone()).filter(|servers| !servers.is_empty());
        layer.relay.access.clone_from(&self.access);
        layer.admin.listen.clone_from(&self.admin);
        layer.log.level.clone_from(&self.log);
        let config = Config::load(self.place.config.as_deref(), layer, surroundings)?;
        Ok(Config { accept_missing_commits: self.accept_missing_commits, ..config })
    }
}

impl Verify {
    /// Where the store to be verified is.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration does not say.
    pub fn state_directory(&self, surroundings: &Surroundings) -> Result<PathBuf, ConfigError> {
        Config::state_directory_of(self.place.config.as_deref(), self.place.layer(), surroundings)
    }
}

impl RotateTokenKey {
    /// Makes the key; says how many there are and what to do next.
    ///
    /// # Errors
    /// [`InviteError`] says what is missing.
    pub fn make(&self, surroundings: &Surroundings) -> Result<String, InviteError> {
        let file = self.place.config.as_deref();
        let directory = Config::state_directory_of(file, self.place.layer(), surroundings)?;
        let keys = rotate_token_key(&directory)?;
        Ok(format!(
            "there are {keys} token keys now; a running relay seals with the new one after\n\
             \x20   kill -HUP $(pidof valise)\n\
             Back up {} now: tokens of the new key are void without it.\n",
            directory.join("token.keys").display()
        ))
    }
}

impl InviteCode {
    /// Makes the codes, one a line. `today` is in days since 1970-01-01.
    ///
    /// # Errors
    /// [`InviteError`] says what is missing.
    pub fn make(&self, surroundings: &Surroundings, today: u16) -> Result<String, InviteError> {
        let file = self.place.config.as_deref();
        let directory = Config::state_directory_of(file, self.place.layer(), surroundings)?;
        let keys = read_token_keys(&directory)?;
        Ok((0..self.count).map(|_| format!("{}\n", self.code(&keys, today))).collect())
    }

    /// A code belongs to no mailbox yet.
    fn code(&self, keys: &TokenKeys, today: u16) -> String {
        let nobody = MailboxId::new([0; MailboxId::LEN]);
        keys.seal(TokenKind::Join, &nobody, today.saturating_add(self.days), 0).to_text()
    }
}

impl Place {
    fn layer(&self) -> Layer {
        let mut layer = Layer::default();
        layer.relay.state_directory.clone_from(&self.state_directory);
        layer
    }
}

#[cfg(test)]
mod tests {
    use valise_proto::Token;

    use super::*;
    use crate::config::{AdminListen, LogLevel};
    use crate::identity::{Identity, StateDirectory};

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Command::parse(std::iter::once("valise").chain(line.split_whitespace()).map(Into::into))
    }

    fn serve(line: &str) -> Serve {
        match parse(line).unwrap() {
            Command::Serve(serve) => serve,
            other => panic!("{other:?}"),
        }
    }

    fn surroundings() -> Surroundings {
        let variables = vec![("HOME".to_owned(), "/operator".to_owned())];
        Surroundings { variables, descriptors: 20_000 }
    }

    #[test]
    fn the_definition_holds_together() {
        definition().debug_assert();
    }

    #[test]
    fn every_command_has_a_man_page() {
        let place = tempfile::tempdir().unwrap();
        valise_pages::write(definition(), place.path()).unwrap();
        for name in ["", "-serve", "-invite-code", "-rotate-token-key", "-migration-key", "-verify"]
        {
            let page = std::fs::read_to_string(place.path().join(format!("man1/valise{name}.1")));
            assert!(page.unwrap().contains(".SH SYNOPSIS"), "{name}");
        }
        let commands = definition().get_subcommands().count();
        let pages = std::fs::read_dir(place.path().join("man1")).unwrap().count();
        assert_eq!(pages, commands + 1);
    }

    #[test]
    fn no_command_is_serve() {
        for line in ["", "serve"] {
            let serve = serve(line);
            assert!(!serve.check && serve.temporary_directory().unwrap().is_none());
            let config = serve.configuration(None, &surroundings()).unwrap();
            assert_eq!(config.state_directory, Path::new("/operator/.local/state/valise"));
        }
    }

    #[test]
    fn every_flag_reaches_the_configuration() {
        let line = "--state-directory /state --listen 127.0.0.1:1 --listen [::1]:2 --admin off \
                    --access codes --accept-missing-commits 3 --log debug --check";
        for line in [line.to_owned(), format!("serve {line}")] {
            let serve = serve(&line);
            assert!(serve.check);
            let config = serve.configuration(None, &surroundings()).unwrap();
            assert_eq!(config.state_directory, Path::new("/state"));
            let listen = ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()];
            assert_eq!(config.listen, listen);
            assert_eq!(config.admin, AdminListen::Off);
            assert!(config.effective_toml().contains("access = \"codes\""));
            assert_eq!(config.accept_missing_commits, 3);
            assert_eq!(config.log, LogLevel::Debug);
        }
    }

    #[test]
    fn a_file_is_read_and_flags_win() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[log]\nlevel = 'warn'\n[admin]\nlisten = 'off'\n").unwrap();
        let serve = serve(&format!("--config {} --log error", file.path().display()));
        let config = serve.configuration(None, &surroundings()).unwrap();
        assert_eq!((config.log, config.admin), (LogLevel::Error, AdminListen::Off));
    }

    #[test]
    fn a_temporary_state_is_private_and_thrown_away() {
        let serve = serve("--temporary");
        let directory = serve.temporary_directory().unwrap().unwrap();
        let path = directory.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let config = serve.configuration(Some(&path), &surroundings()).unwrap();
        assert_eq!(config.state_directory, path);
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "--colour",
            "server",
            "--temporary --state-directory /state",
            "--accept-missing-commits -1",
            "invite-code --count 0",
            "invite-code --count 1001",
            "invite-code --days 0",
            "invite-code --days 401",
            "--check invite-code",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    fn invite(line: &str) -> Result<String, String> {
        let Ok(Command::InviteCode(invite)) = parse(line) else { panic!("{line}") };
        invite.make(&surroundings(), 20_700).map_err(|error| error.to_string())
    }

    #[test]
    fn invite_codes_are_good_while_the_relay_runs() {
        let dir = tempfile::tempdir().unwrap();
        let place = format!("--state-directory {}", dir.path().display());
        let error = invite(&format!("invite-code {place}")).unwrap_err();
        assert!(error.contains("start the relay"), "{error}");

        let directory = StateDirectory::open(dir.path()).unwrap();
        let (identity, _) = Identity::open(&directory, &["a:1".to_owned()], 20_700).unwrap();
        let codes = invite(&format!("invite-code --count 3 --days 7 {place}")).unwrap();
        let mut serials = Vec::new();
        for line in codes.lines() {
            assert_eq!(line.len(), 96);
            let right = identity.tokens().open(&Token::from_text(line).unwrap()).unwrap();
            assert_eq!((right.kind, right.expiry_day), (TokenKind::Join, 20_707));
            assert_eq!(right.mailbox, MailboxId::new([0; 16]));
            serials.push(right.serial);
        }
        serials.sort_unstable();
        serials.dedup();
        assert_eq!(serials.len(), 3);
    }
}
