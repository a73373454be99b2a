//! A session bus, and a keyring on it: the programs that a Linux desktop has, in a directory of
//! their own.

use std::fs;
use std::io::{self, Write};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What may take a while on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Set where these programs have to be there, as in the gate.
const REQUIRED: &str = "VALISE_KEYRING_REQUIRED";

/// The bus starts nothing by itself: what is on it is what a test puts there.
const CONFIGURATION: &str = r#"<busconfig>
  <type>session</type>
  <listen>unix:dir=DIRECTORY</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>"#;

/// A bus of one session.
pub struct Bus {
    home: TempDir,
    process: Option<Child>,
    address: String,
}

impl Bus {
    /// There is none.
    pub fn absent() -> Self {
        let home = TempDir::new().unwrap();
        let address = format!("unix:path={}", home.path().join("nothing").display());
        Self { home, process: None, address }
    }

    /// Starts one; none, where its program is not installed.
    pub fn start() -> Option<Self> {
        let home = TempDir::new().unwrap();
        let file = home.path().join("bus.conf");
        let directory = home.path().display().to_string();
        fs::write(&file, CONFIGURATION.replace("DIRECTORY", &directory)).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.arg("--config-file").arg(file).args(["--nofork", "--print-address=1"]);
        let mut process = spawned(command.stdout(Stdio::piped()).stderr(Stdio::null()))?;
        let mut address = String::new();
        let stdout = process.stdout.take().unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut address).unwrap();
        Some(Self { home, process: Some(process), address: address.trim().to_owned() })
    }

    /// Puts a command into this session.
    pub fn address(&self, command: &mut Command) {
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address);
    }

    /// How many secrets of ours the keyring has.
    pub fn secrets(&self) -> usize {
        let asked = self.call(&[
            "--dest=org.freedesktop.secrets",
            "/org/freedesktop/secrets",
            "org.freedesktop.Secret.Service.SearchItems",
            "dict:string:string:application,valise-chat",
        ]);
        asked.unwrap().matches("object path").count()
    }

    fn call(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("dbus-send");
        self.address(command.args(["--session", "--print-reply"]).args(arguments));
        let output = command.output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn has_keyring(&self) -> bool {
        let owner = self.call(&[
            "--dest=org.freedesktop.DBus",
            "/",
            "org.freedesktop.DBus.NameHasOwner",
            "string:org.freedesktop.secrets",
        ]);
        owner.unwrap().contains("true")
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            end(process);
        }
    }
}

/// GNOME Keyring; dropped, the user has logged out. What is in it lasts as long as its bus.
pub struct Keyring<'a> {
    bus: &'a Bus,
    process: Child,
}

impl<'a> Keyring<'a> {
    /// As after a login: opened with its password.
    pub fn unlocked(bus: &'a Bus) -> Option<Self> {
        Self::start(bus, Some("the login's"))
    }

    /// As after a login without a password.
    pub fn locked(bus: &'a Bus) -> Option<Self> {
        Self::start(bus, None)
    }

    fn start(bus: &'a Bus, password: Option<&str>) -> Option<Self> {
        let mut command = Command::new("gnome-keyring-daemon");
        command.args(["--foreground", "--components=secrets"]);
        if password.is_some() {
            command.arg("--unlock");
        }
        let home = bus.home.path();
        for (variable, place) in
            [("HOME", ""), ("XDG_DATA_HOME", "data"), ("XDG_RUNTIME_DIR", "run")]
        {
            let place = home.join(place);
            fs::create_dir_all(&place).unwrap();
            command.env(variable, place);
        }
        command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        bus.address(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = spawned(&mut command)?;
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(password.unwrap_or_default().as_bytes()).unwrap();
        drop(stdin);
        let keyring = Self { bus, process };
        keyring.until(true);
        Some(keyring)
    }

    fn until(&self, is_there: bool) {
        let begun = Instant::now();
        while self.bus.has_keyring() != is_there {
            assert!(begun.elapsed() < PATIENCE, "the keyring does not come or go");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Keyring<'_> {
    fn drop(&mut self) {
        end(&mut self.process);
        self.until(false);
    }
}

fn end(process: &mut Child) {
    process.kill().ok();
    process.wait().ok();
}

/// Starts a program of the system. Where it is not installed, that is said past the test's own
/// output, which nobody sees of a test that passes.
fn spawned(command: &mut Command) -> Option<Child> {
    let program = command.get_program().display().to_string();
    match command.spawn() {
        Ok(child) => Some(child),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            assert!(std::env::var_os(REQUIRED).is_none(), "{program} is not installed");
            writeln!(io::stderr(), "{program} is not installed: the keyring is NOT tested").ok();
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}
