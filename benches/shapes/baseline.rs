//! The baseline: a bare TLS server that passes length-prefixed frames from connection `id` to
//! connection `id ^ 1`, and the load's side of that protocol. It knows no rights, no mailboxes, no
//! store and no acknowledgements: what it costs is what TLS, sockets and tokio cost.
//!
//! A frame is a 4-byte little-endian length and as many bytes. A connection's first frame is its id
//! in 4 bytes, which the server sends back.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

use crate::pair::{Arrivals, Frame, Sender, Tally};
use crate::plan::{Load, Pace};
use crate::pump::{Outbox, Pump, Receive};
use crate::tls::{self, Dialer};

/// Bytes of a frame's length.
const PREFIX_BYTES: usize = 4;

const HELLO_BYTES: usize = PREFIX_BYTES + 4;
const CONNECTIONS_MAX: usize = 4096;

/// Serves until the process is killed; its first line on standard output is its address.
///
/// # Errors
/// What goes wrong before the first connection.
pub(crate) fn serve() -> io::Result<()> {
    // A multi-threaded runtime with one worker: what the relay runs on one core.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
    runtime.block_on(async {
        let acceptor = TlsAcceptor::from(tls::server_config()?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut stdout = io::stdout();
        writeln!(stdout, "{}", listener.local_addr()?)?;
        stdout.flush()?;
        let accepting = accept(listener, acceptor, Arc::new(Registry::new()));
        tokio::spawn(accepting).await.map_err(io::Error::other)?
    })
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    registry: Arc<Registry>,
) -> io::Result<()> {
    loop {
        let (tcp, _) = listener.accept().await?;
        let (acceptor, registry) = (acceptor.clone(), registry.clone());
        // The large future of the handshake ends and leaves the small one of the connection.
        tokio::spawn(async move {
            let open = Box::pin(open(tcp, acceptor)).await;
            if let Ok((stream, id)) = open {
                let outbox = registry.register(id);
                let forward = Forward { registry, id, partner: None, partial: Vec::new() };
                tokio::spawn(Pump::new(stream, outbox, forward));
            }
        });
    }
}

async fn open(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
) -> io::Result<(tokio_rustls::server::TlsStream<TcpStream>, usize)> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    let hello = read_hello(&mut stream).await?;
    stream.write_all(&hello).await?;
    stream.flush().await?;
    let id = u32::from_le_bytes([hello[4], hello[5], hello[6], hello[7]]) as usize;
    if id >= CONNECTIONS_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((stream, id))
}

async fn read_hello(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; HELLO_BYTES]> {
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello).await?;
    Ok(hello)
}

/// The outboxes of all connections, by id.
struct Registry(Vec<Mutex<Option<Arc<Outbox>>>>);

impl Registry {
    fn new() -> Self {
        Self((0..CONNECTIONS_MAX).map(|_| Mutex::default()).collect())
    }

    fn register(&self, id: usize) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::default());
        *self.0[id].lock().expect("nothing panics while it holds the lock") = Some(outbox.clone());
        outbox
    }

    fn get(&self, id: usize) -> Option<Arc<Outbox>> {
        self.0[id].lock().expect("nothing panics while it holds the lock").clone()
    }
}

/// Passes whole frames on to the partner, as many as one read brought.
struct Forward {
    registry: Arc<Registry>,
    id: usize,
    partner: Option<Arc<Outbox>>,
    partial: Vec<u8>,
}

impl Receive for Forward {
    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.partner.is_none() {
            self.partner = self.registry.get(self.id ^ 1);
        }
        let Some(partner) = &self.partner else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        whole_frames(&mut self.partial, bytes, |frames| {
            partner.push(|batch| batch.extend_from_slice(frames));
        });
        Ok(())
    }
}

/// Hands the whole frames of the stream out together, and keeps the rest in `partial`.
fn whole_frames(partial: &mut Vec<u8>, bytes: &[u8], mut take: impl FnMut(&[u8])) {
    if partial.is_empty() {
        let whole = whole_len(bytes);
        if whole > 0 {
            take(&bytes[..whole]);
        }
        partial.extend_from_slice(&bytes[whole..]);
        return;
    }
    partial.extend_from_slice(bytes);
    let whole = whole_len(partial);
    if whole == 0 {
        return;
    }
    take(&partial[..whole]);
    if whole == partial.len() {
        *partial = Vec::new();
    } else {
        partial.drain(..whole);
    }
}

/// How many of the bytes are whole frames.
fn whole_len(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(frame) = first_frame(&bytes[whole..]) {
        whole += frame.len();
    }
    whole
}

/// The frame the bytes begin with, its length included, if it is whole.
fn first_frame(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<PREFIX_BYTES>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if rest.len() < length { None } else { Some(&bytes[..PREFIX_BYTES + length]) }
}

/// Opens the load's pair of this number: connection `2 n` receives, `2 n + 1` sends.
pub(crate) async fn open_pair(
    dialer: &Dialer,
    address: &str,
    number: usize,
    load: Load,
    tally: &Arc<Tally>,
) -> io::Result<Arc<Sender>> {
    let address = address.parse().map_err(io::Error::other)?;
    let receiving = connect(dialer, address, 2 * number as u32).await?;
    let sending = connect(dialer, address, 2 * number as u32 + 1).await?;

    let (streams, closed_loop) = match load.pace {
        Pace::Closed(streams) => (streams, true),
        Pace::Open(_) => (1, false),
    };
    let outbox = Arc::new(Outbox::default());
    let frames = (0..streams).map(|_| frame(load.payload_bytes)).collect();
    let sender = Sender::new(tally, outbox.clone(), frames, closed_loop);
    tally.spawn(sending, outbox, Silence);
    let arrivals = Arrivals::new(tally, Some(sender.clone()), !closed_loop);
    tally.spawn(receiving, Arc::default(), Receiver { partial: Vec::new(), arrivals });
    Ok(sender)
}

async fn connect(
    dialer: &Dialer,
    address: SocketAddr,
    id: u32,
) -> io::Result<TlsStream<TcpStream>> {
    let mut stream = dialer.dial(address).await?;
    let hello = [4u32.to_le_bytes(), id.to_le_bytes()].concat();
    stream.write_all(&hello).await?;
    stream.flush().await?;
    if read_hello(&mut stream).await?[..] != hello[..] {
        return Err(io::Error::other("the baseline did not repeat the hello"));
    }
    Ok(stream)
}

fn frame(payload_bytes: usize) -> Frame {
    let mut bytes = (payload_bytes as u32).to_le_bytes().to_vec();
    bytes.resize(PREFIX_BYTES + payload_bytes, 0);
    Frame::new(bytes, payload_bytes, None)
}

/// The load's receiving end.
struct Receiver {
    partial: Vec<u8>,
    arrivals: Arrivals,
}

impl Receive for Receiver {
    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        let arrivals = &mut self.arrivals;
        whole_frames(&mut self.partial, bytes, |mut frames| {
            while let Some(frame) = first_frame(frames) {
                arrivals.arrived(&frame[PREFIX_BYTES..]);
                frames = &frames[frame.len()..];
            }
        });
        arrivals.end_of_batch();
        Ok(())
    }
}

/// The load's sending end, to which nobody sends.
struct Silence;

impl Receive for Silence {
    fn receive(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Err(io::Error::other("the baseline sent something to a sender"))
    }
}
