//! A real relay in this process, on port 0, with a state directory of its own.

use std::any::Any;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use valise::app::{Drained, ReloadError, Running, StartError, Verified};
use valise::config::{Config, Layer, Surroundings};
use valise::identity::{StateError, read_token_keys};
use valise::relay::today;
use valise::store::{Store, StoreError};
use valise::token::TokenKeys;
use valise_proto::{MailboxId, RealmId, Token, TokenKind};

/// An establishment deadline that tests sit out, and that a handshake fits into on a machine that
/// stands still for some seconds.
pub const ESTABLISHMENT: Duration = Duration::from_secs(5);

/// A running relay. [`Relay::finish`] ends every test that puts frames into it.
pub struct Relay {
    running: Option<Running>,
    directory: tempfile::TempDir,
    configuration: String,
    /// What it stands on, if that is not its own disk; gone after it.
    beneath: Option<Arc<dyn Any + Send + Sync>>,
}

impl Relay {
    pub async fn start() -> Self {
        Self::configured("").await
    }

    /// With more configuration, in TOML.
    pub async fn configured(more: &str) -> Self {
        Self::configured_in(tempfile::tempdir().unwrap(), more).await
    }

    /// The same, its state in this directory.
    pub async fn configured_in(directory: tempfile::TempDir, more: &str) -> Self {
        Self::at(directory, any(), more).await
    }

    /// The same, at this address.
    pub async fn at(directory: tempfile::TempDir, listen: SocketAddr, more: &str) -> Self {
        let (section, beneath) = crate::beneath().unzip();
        let configuration = format!("{more}\n{}", section.unwrap_or_default());
        let running = Some(run(&configuration, directory.path().join("state"), listen).await);
        Self { running, directory, configuration, beneath }
    }

    /// On servers of the test's own, whose section this is.
    #[allow(dead_code)] // for tests/cluster
    pub async fn on_servers(directory: tempfile::TempDir, section: &str) -> Self {
        let running = Some(run(section, directory.path().join("state"), any()).await);
        Self { running, directory, configuration: section.to_owned(), beneath: None }
    }

    /// Whether it is a node of a data centre.
    #[allow(dead_code)] // for tests that are about one relay's own disk or clock
    pub fn is_node(&self) -> bool {
        self.beneath.is_some()
    }

    /// On a store of the test's own. [`Relay::finish`] knows nothing of it.
    pub async fn on_store(more: &str, store: Arc<dyn Store>) -> Self {
        Self::on_stores(more, move || Ok(Arc::clone(&store))).await
    }

    /// On stores of the test's own: one at first, and one each time it fails.
    pub async fn on_stores(
        more: &str,
        mut open: impl FnMut() -> Result<Arc<dyn Store>, StoreError> + Send + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config(more, directory.path().join("state"), any());
        let running = Some(Running::start_on(&config, move |_, _| open()).await.unwrap());
        Self { running, directory, configuration: more.to_owned(), beneath: None }
    }

    /// Another configuration, from the next start on.
    pub fn configure(&mut self, more: &str) {
        self.configuration = more.to_owned();
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub fn realm(&self) -> RealmId {
        self.running().address().realm
    }

    pub fn socket(&self) -> SocketAddr {
        self.running().addresses()[0]
    }

    pub fn state_directory(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn keys(&self) -> TokenKeys {
        read_token_keys(&self.state_directory()).unwrap()
    }

    /// A token as the relay would seal it, its last day so many days from today.
    pub fn token(&self, kind: TokenKind, mailbox: &MailboxId, days: i32) -> Token {
        let day = u16::try_from(i32::from(today()) + days).unwrap();
        self.keys().seal(kind, mailbox, day, 0)
    }

    /// A metric's value; labels are given as they stand in the text.
    pub fn metric(&self, series: &str) -> f64 {
        value(&self.running().scrape(), series)
    }

    /// Waits until a metric says so.
    pub async fn until(&self, series: &str, enough: impl Fn(f64) -> bool) {
        let give_up = Instant::now() + Duration::from_secs(30);
        while !enough(self.metric(series)) {
            assert!(Instant::now() < give_up, "{series} stays at {}", self.metric(series));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until so many frames are queued. A node that had to ask its bus twice to store one
    /// does not count it: it cannot tell it from one that was posted twice.
    pub async fn until_queued(&self, expected: usize) {
        let expected = expected as f64;
        let asked_twice = || self.metric("valise_bus_publications_repeated_total");
        let enough = |queued| queued <= expected && queued >= expected - asked_twice();
        self.until("valise_frames_queued", enough).await;
    }

    /// Waits until so many connections have ended for this reason.
    pub async fn until_closed(&self, reason: &str, times: f64) {
        let series = format!("valise_connections_closed_total{{reason=\"{reason}\"}}");
        self.until(&series, |count| count >= times).await;
    }

    /// Stops it as SIGTERM would, and starts it again on the same port and state.
    pub async fn restart(&mut self) {
        self.restart_after(|_| ()).await;
    }

    /// The same, after something was done to its state directory.
    pub async fn restart_after(&mut self, change: impl FnOnce(&Path)) {
        let socket = self.socket();
        self.running.take().unwrap().shut_down().await;
        change(&self.state_directory());
        self.running = Some(run(&self.configuration, self.state_directory(), socket).await);
    }

    /// Reloads it, as SIGHUP would.
    pub fn reload(&self) -> Result<(), ReloadError> {
        let config = config(&self.configuration, self.state_directory(), self.socket());
        self.running().reload(&config)
    }

    /// Stops it, and says how that went.
    pub async fn drain(mut self) -> Drained {
        self.running.take().unwrap().shut_down().await
    }

    /// Stops it. Its metrics afterwards.
    pub async fn stop(mut self) -> String {
        let running = self.running.take().unwrap();
        let metrics = running.metrics();
        running.shut_down().await;
        metrics.encode()
    }

    /// Stops it; what is in its store then.
    #[allow(dead_code)] // for tests/full_disk.rs, which shares this file
    pub async fn stop_and_verify(mut self) -> Verified {
        self.running.take().unwrap().shut_down().await;
        verify(&self.state_directory()).await
    }

    /// Stops it and checks that no frame was lost or made: what the metrics say, what the totals
    /// say and what is really in the store must agree.
    pub async fn finish(mut self) {
        let running = self.running.take().unwrap();
        let metrics = running.metrics();
        // Only after the last connection has ended is nothing under way any more.
        running.shut_down().await;
        let text = metrics.encode();
        let of = |name: &str| value(&text, &format!("valise_frames_{name}"));
        let came = of("accepted_total") + of("queued_at_start");
        let left = of("acknowledged_total") + of("expired_total") + of("queued");
        assert!((came - left).abs() < f64::EPSILON, "{came} came, {left} left or stayed");
        if self.beneath.is_some() {
            return; // what stays is with the others
        }
        let verified = verify(&self.state_directory()).await;
        assert_eq!(verified.counted, verified.totals.queued());
        let stayed = of("queued");
        assert!((verified.counted as f64 - stayed).abs() < f64::EPSILON, "{verified:?}, {stayed}");
    }
}

/// What a scrape says of a series.
pub fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no series {series}")).parse().unwrap()
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn run(configuration: &str, state: PathBuf, listen: SocketAddr) -> Running {
    let config = config(configuration, state, listen);
    let give_up = Instant::now() + IN_USE_MAX;
    loop {
        match Running::start(&config).await {
            Err(error) if is_in_use(&error) && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            running => return running.unwrap(),
        }
    }
}

async fn verify(state: &Path) -> Verified {
    let give_up = Instant::now() + IN_USE_MAX;
    loop {
        match valise::app::verify(state) {
            Err(error) if is_in_use(&error) && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            verified => return verified.unwrap(),
        }
    }
}

/// A child process that another test starts holds copies of locks and sockets, also of those that
/// are let go of meanwhile, until its exec.
pub const IN_USE_MAX: Duration = Duration::from_secs(10);

fn is_in_use(error: &StartError) -> bool {
    match error {
        StartError::State(StateError::InUse(_)) | StartError::Store(StoreError::Locked(_)) => true,
        StartError::Bind { source, .. } => source.kind() == std::io::ErrorKind::AddrInUse,
        _ => false,
    }
}

fn config(configuration: &str, state: PathBuf, listen: SocketAddr) -> Config {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), configuration).unwrap();
    let mut flags = Layer::default();
    flags.relay.listen = Some(vec![listen.to_string()]);
    flags.relay.state_directory = Some(state.display().to_string());
    if !configuration.contains("[admin]") {
        flags.admin.listen = Some("off".to_owned());
    }
    let surroundings = Surroundings { variables: Vec::new(), descriptors: 4_096 };
    Config::load(Some(file.path()), flags, &surroundings).unwrap()
}
