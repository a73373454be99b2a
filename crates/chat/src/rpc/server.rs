//! The side of the process that holds the engine: it serves any number of front ends of the same
//! user, each line on its own.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use valise_chat_core::api::Command;

use super::message::{self, Request, RpcError};
use super::{LINE_MAX, Lines, SOCKET, socket_path};
use crate::api::{Api, Events, Happening};

/// Front ends at a time.
const FRONT_ENDS_MAX: usize = 64;

/// Lines that a front end may be behind with reading.
const LINES_WAITING_MAX: usize = 64;

/// Calls of one front end at a time.
const CALLS_MAX: usize = 32;

/// How long front ends may take to read their last answers.
const FINISH_MAX: Duration = Duration::from_secs(1);

/// The served socket. Dropping it removes the socket and leaves every front end.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// Of the socket: the path may be another process's by now.
    inode: u64,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves the engine on its profile's socket. Whoever holds the profile's lock may do so, and
    /// nobody else: a socket that is there already is a dead process's.
    ///
    /// # Errors
    /// The system's.
    pub fn start(directory: &Path, api: Api) -> io::Result<Self> {
        let path = directory.join(SOCKET);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let (short, _open) = socket_path(directory)?;
        let listener = UnixListener::bind(short)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&path)?.ino();
        Ok(Self { path, inode, task: tokio::spawn(accept(listener, api)) })
    }

    /// When the engine has ended: waits until the front ends have their answers.
    pub async fn finish(mut self) {
        tokio::time::timeout(FINISH_MAX, &mut self.task).await.ok();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            fs::remove_file(&self.path).ok();
        }
    }
}

async fn accept(listener: UnixListener, api: Api) {
    let places = Arc::new(Semaphore::new(FRONT_ENDS_MAX));
    // Dropped with this task: nobody is served after the server is gone.
    let mut front_ends = JoinSet::new();
    let me = rustix::process::getuid().as_raw();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = api.ended() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors: some front end has to go first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while front_ends.try_join_next().is_some() {}
        if !is_of(&stream, me) {
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let api = api.clone();
        front_ends.spawn(async move {
            let (reader, writer) = stream.into_split();
            serve_stream(reader, writer, api).await;
            drop(place);
        });
    }
    while front_ends.join_next().await.is_some() {}
}

fn is_of(stream: &UnixStream, user: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == user)
}

/// Serves one front end until it ends its side, or the engine ends.
pub async fn serve_stream(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    api: Api,
) {
    let (lines, waiting) = mpsc::channel(LINES_WAITING_MAX);
    let writing = write(writer, waiting);
    let reading = async move {
        answer(reader, lines, &api).await;
    };
    // The writer ends after the last answer, or when nobody reads any more.
    let (mut writing, mut reading) = (pin!(writing), pin!(reading));
    tokio::select! {
        () = &mut writing => {}
        () = &mut reading => writing.await,
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        if writer.write_all(line.as_bytes()).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

async fn answer(reader: impl AsyncRead + Unpin, out: mpsc::Sender<String>, api: &Api) {
    let mut lines = Lines::new(reader, LINE_MAX);
    let mut calls = JoinSet::new();
    let mut events: Option<Events> = None;
    loop {
        // An end first, then what is asked, then what happens.
        tokio::select! {
            biased;
            Some(_) = calls.join_next() => {}
            line = lines.next(), if calls.len() < CALLS_MAX => {
                let Ok(Some(line)) = line else { break };
                match message::request(&line) {
                    Err((id, error)) => {
                        out.send(message::outcome(&id, Err(error))).await.ok();
                    }
                    Ok(request) => {
                        if request.command == (Command::Subscribe {}) && events.is_none() {
                            events = Some(api.events());
                        }
                        start(request, api, &out, &mut calls).await;
                    }
                }
            }
            happening = next(&mut events) => {
                let line = match happening {
                    Happening::Event(event) => message::event(&event),
                    Happening::Missed => message::missed(),
                    Happening::Ended(_) => break,
                };
                if out.send(line).await.is_err() {
                    return;
                }
            }
            _ = api.ended() => break,
        }
    }
    while calls.join_next().await.is_some() {}
}

async fn next(events: &mut Option<Events>) -> Happening {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Starts a call. The engine gets the calls of a front end in their order; answers come as they
/// are ready.
async fn start(
    Request { id, command }: Request,
    api: &Api,
    out: &mpsc::Sender<String>,
    calls: &mut JoinSet<()>,
) {
    let (api, out) = (api.clone(), out.clone());
    let mut call = Box::pin(async move {
        let outcome = api.call(command).await.map_err(RpcError::from);
        if let Some(id) = id {
            out.send(bounded(&id, outcome)).await.ok();
        }
    });
    // Its first poll puts it into the engine's queue; the rest may take long.
    tokio::select! {
        biased;
        () = &mut call => {}
        () = std::future::ready(()) => drop(calls.spawn(call)),
    }
}

fn bounded(id: &Value, outcome: Result<Value, RpcError>) -> String {
    let line = message::outcome(id, outcome);
    if line.len() <= LINE_MAX {
        return line;
    }
    message::outcome(id, Err(RpcError::internal("the answer is too long: ask for less at a time")))
}
