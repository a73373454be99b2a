//! The migration's port: lets the one importer in that is pinned, reads its questions, and answers each as
//! soon as it can. Everything is bounded before anybody has said who it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncWrite, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use valise_migration::wire::{Answer, FromImporter, FromSupernode, Question, SILENT_SECONDS};

use super::exporter::Exporter;
use super::message;
use super::passing::{Outgoing, Room};
use crate::limits::{
    IMPORTER_ANSWERS_MAX, IMPORTER_HANDSHAKES_MAX, IMPORTER_HELLO_SECONDS,
    IMPORTER_MESSAGE_BYTES_MAX, IMPORTER_QUESTIONS_MAX, IMPORTER_STALL_SECONDS, IMPORTERS_MAX,
    PASSING_MAX,
};

type Encrypted = TlsStream<TcpStream>;

/// Accepts importers.
pub struct Port {
    socket: TcpListener,
    tls: TlsAcceptor,
    exporter: Arc<Exporter>,
    handshakes: Arc<Semaphore>,
    importers: Arc<Semaphore>,
}

/// After a failed accept others need a moment to end.
const PAUSE: Duration = Duration::from_millis(50);
const HELLO: Duration = Duration::from_secs(IMPORTER_HELLO_SECONDS);
const SILENT: Duration = Duration::from_secs(SILENT_SECONDS);
const STALL: Duration = Duration::from_secs(IMPORTER_STALL_SECONDS);

impl Port {
    /// Binds.
    ///
    /// # Errors
    /// The system's, when the address cannot be bound.
    pub async fn bind(
        address: SocketAddr,
        tls: ServerConfig,
        exporter: Exporter,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: TcpListener::bind(address).await?,
            tls: TlsAcceptor::from(Arc::new(tls)),
            exporter: Arc::new(exporter),
            handshakes: Arc::new(Semaphore::new(IMPORTER_HANDSHAKES_MAX)),
            importers: Arc::new(Semaphore::new(IMPORTERS_MAX)),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts and serves, for as long as it is polled.
    pub async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            let permit = acquire(&self.handshakes).await;
            while connections.try_join_next().is_some() {}
            match self.socket.accept().await {
                Ok((tcp, from)) => {
                    let (tls, exporter) = (self.tls.clone(), Arc::clone(&self.exporter));
                    let importers = Arc::clone(&self.importers);
                    connections.spawn(async move {
                        if let Err(error) = serve(tls, tcp, exporter, importers, permit).await {
                            tracing::warn!(%error, %from, "an importer's connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an importer");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn serve(
    tls: TlsAcceptor,
    tcp: TcpStream,
    exporter: Arc<Exporter>,
    importers: Arc<Semaphore>,
    handshake: OwnedSemaphorePermit,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let greeted = timeout(HELLO, greet(tls, tcp, &exporter)).await;
    let (stream, is_for_here) = greeted.map_err(|_| late("to say who it is"))??;
    drop(handshake);
    if !is_for_here {
        return Err(io::Error::other("it speaks another version, or comes for another realm"));
    }
    let Ok(_importer) = importers.try_acquire_owned() else {
        return Err(io::Error::other("there are too many importers with this key"));
    };
    let _counted = exporter.metrics.migration().importer();
    tracing::info!("an importer is connected");
    let (reading, writing) = split(stream);
    let (to, from) = mpsc::channel(PASSING_MAX + IMPORTER_QUESTIONS_MAX);
    // Whichever ends first ends the connection, and with it everything that was asked.
    tokio::select! {
        ended = write(writing, from) => ended,
        ended = read(reading, exporter, to) => ended,
    }
}

/// The handshake, and the first question with its answer. Whether it is for this supernode: the answer says to
/// the importer what differs.
async fn greet(
    tls: TlsAcceptor,
    tcp: TcpStream,
    exporter: &Exporter,
) -> io::Result<(Encrypted, bool)> {
    let mut stream = tls.accept(tcp).await?;
    let first = message::read(&mut stream, IMPORTER_MESSAGE_BYTES_MAX).await?;
    let Some(FromImporter::Ask(number, question)) = first else {
        return Err(io::Error::other("it asked nothing"));
    };
    let welcome = FromSupernode::Answer(number, Answer::Welcome(exporter.welcome().await));
    message::write(&mut stream, &welcome).await?;
    Ok((stream, exporter.is_for_here(&question)))
}

/// Writes what is sent, in order. It is never full: each message holds its room until it is written.
async fn write(
    mut stream: WriteHalf<Encrypted>,
    mut from: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    while let Some(Outgoing { message, room }) = from.recv().await {
        write_one(&mut stream, &message).await?;
        drop(room);
    }
    Ok(())
}

async fn write_one(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &FromSupernode,
) -> io::Result<()> {
    let written = timeout(STALL, message::write(stream, message)).await;
    written.map_err(|_| late("to take what it is sent"))?
}

/// Reads questions and outcomes until the importer ends.
async fn read(
    mut stream: ReadHalf<Encrypted>,
    exporter: Arc<Exporter>,
    to: mpsc::Sender<Outgoing>,
) -> io::Result<()> {
    let importer = exporter.passing.connected(to.clone());
    let questions = Arc::new(Semaphore::new(IMPORTER_QUESTIONS_MAX));
    let answers = Arc::new(Semaphore::new(IMPORTER_ANSWERS_MAX));
    let mut answering = JoinSet::new();
    loop {
        let next = message::read(&mut stream, IMPORTER_MESSAGE_BYTES_MAX);
        match timeout(SILENT, next).await.map_err(|_| late("to ask anything"))?? {
            None => return Ok(()),
            Some(FromImporter::Passed(post, outcome)) => importer.passed(post, outcome),
            Some(FromImporter::Ask(number, question)) => {
                let question_permit = acquire(&questions).await;
                while answering.try_join_next().is_some() {}
                let (exporter, to) = (Arc::clone(&exporter), to.clone());
                let answers = Arc::clone(&answers);
                answering.spawn(async move {
                    // Short answers do not wait behind long ones: shards are sealed by them.
                    let is_long = matches!(question, Question::Fetch(..) | Question::Reports);
                    let answer_permit = if is_long { Some(acquire(&answers).await) } else { None };
                    let Some(answer) = exporter.answer(question).await else { return };
                    let message = FromSupernode::Answer(number, answer);
                    let room = Room::of([Some(question_permit), answer_permit]);
                    // Nobody listens any more where the connection has ended.
                    drop(to.try_send(Outgoing { message, room }));
                });
            }
        }
    }
}

async fn acquire(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed")
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the importer took too long {what}"))
}
