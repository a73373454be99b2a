//! A thief between a relay and its NATS servers: passes everything on, and drops pushes of stored
//! frames when told to. What a reconnect, a slow consumer or a lost route does now and then, this
//! does as often as asked.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Of what is stored in streams, as it is pushed.
const PUSHED: &[u8] = b"live.";

/// The largest piece that is passed on at once, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// The proxies, one for each server.
pub(crate) struct Tap {
    urls: Vec<String>,
    counts: Arc<Counts>,
    // Ends them.
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Counts {
    /// One push of so many is dropped; 0: none.
    one_of: AtomicU64,
    seen: AtomicU64,
    dropped: AtomicU64,
}

impl Tap {
    /// Stands in for servers on loopback without TLS: `nats://host:port`.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn start(servers: &[String]) -> io::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let counts = Arc::new(Counts::default());
        let mut urls = Vec::new();
        for server in servers {
            let address = server.strip_prefix("nats://").and_then(|text| text.parse().ok());
            let address: SocketAddr = address.ok_or(io::ErrorKind::InvalidInput)?;
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
            urls.push(format!("nats://{}", listener.local_addr()?));
            runtime.spawn(listen(listener, address, Arc::clone(&counts)));
        }
        Ok(Self { urls, counts, runtime: Some(runtime) })
    }

    /// What the relay is given for its servers.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.urls.clone()
    }

    /// Drops one push of so many from now on; 0: none.
    pub(crate) fn drop_one_of(&self, one_of: u64) {
        self.counts.one_of.store(one_of, Ordering::Relaxed);
    }

    /// How many pushes came by, and how many of them were dropped.
    pub(crate) fn pushes(&self) -> (u64, u64) {
        (self.counts.seen.load(Ordering::Relaxed), self.counts.dropped.load(Ordering::Relaxed))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // It may be dropped where blocking is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Counts {
    fn steals(&self) -> bool {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        let one_of = self.one_of.load(Ordering::Relaxed);
        let steals = one_of > 0 && seen.is_multiple_of(one_of);
        if steals {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        steals
    }
}

async fn listen(listener: TcpListener, server: SocketAddr, counts: Arc<Counts>) {
    while let Ok((relay, _)) = listener.accept().await {
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else { return };
            let ((from_relay, to_relay), (from_server, to_server)) =
                (relay.into_split(), server.into_split());
            // Either side's end is the end of both.
            tokio::select! {
                _ = pass(from_relay, to_server) => {}
                _ = sift(from_server, to_relay, &counts) => {}
            }
        });
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&piece[..length]).await?;
    }
}

/// Passes on what the server says, but for pushes that are to be dropped.
async fn sift(from: OwnedReadHalf, mut to: OwnedWriteHalf, counts: &Counts) -> io::Result<()> {
    let mut from = BufReader::with_capacity(PIECE_BYTES, from);
    let mut message = Vec::new();
    loop {
        message.clear();
        if from.read_until(b'\n', &mut message).await? == 0 {
            return Ok(());
        }
        let (length, pushed) = read_head(&message);
        if let Some(length) = length {
            let start = message.len();
            // The line's end follows the message.
            message.resize(start + length + 2, 0);
            from.read_exact(&mut message[start..]).await?;
        }
        if !(pushed && counts.steals()) {
            to.write_all(&message).await?;
        }
    }
}

/// How many bytes follow a line of the server, where any do; and whether they are a push.
fn read_head(line: &[u8]) -> (Option<usize>, bool) {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let is_message = matches!(words.next(), Some(b"MSG" | b"HMSG"));
    if !is_message {
        return (None, false);
    }
    let pushed = words.next().is_some_and(|subject| subject.starts_with(PUSHED));
    let length = words.next_back().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    (length, pushed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_follows() {
        assert_eq!(read_head(b"PING\r\n"), (None, false));
        assert_eq!(read_head(b"INFO {\"max_payload\":7}\r\n"), (None, false));
        assert_eq!(read_head(b"MSG _INBOX.a 4 12\r\n"), (Some(12), false));
        assert_eq!(read_head(b"HMSG live.9.13.m.f 4 _INBOX.a 20 312\r\n"), (Some(312), true));
        assert_eq!(read_head(b"MSG live.9.13.m.f 4 0\r\n"), (Some(0), true));
    }

    #[test]
    fn as_many_are_stolen_as_asked_for() {
        let counts = Counts::default();
        assert!((0..10).all(|_| !counts.steals()));
        counts.one_of.store(3, Ordering::Relaxed);
        assert_eq!((0..9).filter(|_| counts.steals()).count(), 3);
        assert_eq!(counts.dropped.load(Ordering::Relaxed), 3);
    }
}
