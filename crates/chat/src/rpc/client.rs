//! The front end's side of the socket.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use valise_chat_core::api::{Command, Refusal};

use super::message::{self, Incoming};
use super::{LINE_MAX, Line, Lines, socket_path};
use crate::api::Happening;

/// Calls that may wait to be written.
const CALLS_WAITING_MAX: usize = 64;

/// How long the process that holds the profile may take for its first answer.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(5);

/// Events that a slow front end may be behind.
const EVENTS_BEHIND_MAX: usize = 4_096;

/// An engine in another process. Cheap to clone; the connection ends with the last handle.
#[derive(Debug, Clone)]
pub struct Remote {
    calls: mpsc::Sender<String>,
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<Ended>>,
}

#[derive(Debug)]
struct Shared {
    next_id: AtomicU64,
    /// The calls under way; none once the connection has ended.
    pending: Mutex<Option<Pending>>,
    events: broadcast::Sender<Happening>,
}

type Pending = HashMap<u64, oneshot::Sender<Result<Value, Refusal>>>;

/// Why the connection has ended; none if the engine was ended by order.
#[derive(Debug, Clone)]
struct Ended(Option<String>);

impl Remote {
    /// Connects to the engine that holds a profile, and hears its events.
    ///
    /// # Errors
    /// The system's: not found or refused when no process holds the profile, timed out when it
    /// does not answer.
    pub async fn connect(directory: &Path) -> io::Result<Self> {
        let (path, _open) = socket_path(directory)?;
        let stream = UnixStream::connect(path).await?;
        let me = rustix::process::getuid().as_raw();
        let peer = stream.peer_cred()?;
        if peer.uid() != me {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the profile's socket is served by another user",
            ));
        }
        let (reader, writer) = stream.into_split();
        let remote = Self::start(reader, writer);
        let subscribed = remote.call(Command::Subscribe {});
        match tokio::time::timeout(FIRST_ANSWER_MAX, subscribed).await {
            Ok(answer) => answer.map_err(io::Error::other)?,
            Err(_) => return Err(silent(peer.pid())),
        };
        Ok(remote)
    }

    fn start(
        reader: impl AsyncRead + Unpin + Send + 'static,
        writer: impl AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        let (calls, waiting) = mpsc::channel(CALLS_WAITING_MAX);
        let (events, _) = broadcast::channel(EVENTS_BEHIND_MAX);
        let pending = Mutex::new(Some(HashMap::new()));
        let shared = Arc::new(Shared { next_id: AtomicU64::new(1), pending, events });
        let (ended, has_ended) = watch::channel(None);
        let task = Arc::clone(&shared);
        tokio::spawn(async move {
            // The writer ends with the last handle, the reader with the engine.
            let why = tokio::select! {
                () = write(writer, waiting) => None,
                why = read(reader, &task) => why,
            };
            task.pending().take();
            ended.send(Some(Ended(why))).ok();
        });
        Self { calls, shared, ended: has_ended }
    }

    /// Carries a command out.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn call(&self, command: Command) -> Result<Value, Refusal> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.shared.pending().as_mut().ok_or_else(ended)?.insert(id, reply);
        self.calls.send(message::call(id, &command)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Happening> {
        self.shared.events.subscribe()
    }

    /// Waits until the engine has ended or cannot be reached any more; why, if not by order.
    pub async fn ended(&self) -> Option<String> {
        let mut has_ended = self.ended.clone();
        let ended = has_ended.wait_for(Option::is_some).await.map(|ended| ended.clone());
        ended.ok().flatten().and_then(|Ended(why)| why)
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Option<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The process is stopped, or is stuck.
fn silent(pid: Option<i32>) -> io::Error {
    let which = pid.map(|pid| format!("process {pid}")).unwrap_or_default();
    let text = format!("{which} holds the profile and does not answer; end it, and try again");
    io::Error::new(io::ErrorKind::TimedOut, text.trim_start().to_owned())
}

fn ended() -> Refusal {
    Refusal {
        code: "ended".to_owned(),
        message: "the process that held the profile has ended; start valise-chat again".to_owned(),
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut calls: mpsc::Receiver<String>) {
    while let Some(line) = calls.recv().await {
        if writer.write_all(line.as_bytes()).await.is_err() {
            // The reader says why.
            std::future::pending::<()>().await;
        }
    }
}

/// Reads until the stream ends; what went wrong.
async fn read(reader: impl AsyncRead + Unpin, shared: &Shared) -> Option<String> {
    let mut lines = Lines::new(reader, LINE_MAX);
    loop {
        let line = match lines.next().await {
            Ok(Some(Line::Whole(line))) => line,
            // The engine writes none; if it did, a call would wait for ever.
            Ok(Some(Line::TooLong)) => return Some("the engine wrote too long a line".to_owned()),
            Ok(None) => return None,
            Err(error) => return Some(format!("the engine cannot be reached any more: {error}")),
        };
        match message::incoming(&line) {
            Incoming::Answer(id, outcome) => {
                let reply = shared.pending().as_mut().and_then(|pending| pending.remove(&id));
                if let Some(reply) = reply {
                    reply.send(outcome.map_err(Refusal::from)).ok();
                }
            }
            Incoming::Event(event) => drop(shared.events.send(Happening::Event(event))),
            Incoming::Missed => drop(shared.events.send(Happening::Missed)),
            Incoming::Unknown => {}
        }
    }
}
