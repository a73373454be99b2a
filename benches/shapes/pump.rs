//! The life of an open connection, the same for the baseline and for the load: one task that reads
//! into a scratch buffer of its thread, and writes whatever waits in its outbox as one batch.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One TLS record and its header fit: more cannot come out of one read.
const SCRATCH_BYTES: usize = 17 * 1024;

/// Reads in a row before the other tasks have their turn.
const READS_PER_TURN: u32 = 8;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

/// What a connection does with the bytes it has read.
pub(crate) trait Receive: Unpin {
    /// Called with every non-empty read; an error ends the connection.
    fn receive(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Bytes that wait for a connection's task. Empty, it holds no memory.
#[derive(Default)]
pub(crate) struct Outbox(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    writer: Option<Waker>,
}

impl Outbox {
    /// Lets `put` append a batch, and wakes the writer once.
    pub(crate) fn push(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let writer = {
            let mut waiting = self.0.lock().expect("nothing panics while it holds the lock");
            put(&mut waiting.bytes);
            waiting.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Swaps the batch with `written`, which is empty. Returns false, and remembers whom to wake,
    /// if there is none.
    fn take(&self, written: &mut Vec<u8>, writer: &Waker) -> bool {
        let mut waiting = self.0.lock().expect("nothing panics while it holds the lock");
        if waiting.bytes.is_empty() {
            waiting.bytes = Vec::new();
            if !waiting.writer.as_ref().is_some_and(|known| known.will_wake(writer)) {
                waiting.writer = Some(writer.clone());
            }
            return false;
        }
        std::mem::swap(&mut waiting.bytes, written);
        true
    }
}

/// The task of one connection. Ends only with an error: the peer's end is one.
pub(crate) struct Pump<S, R> {
    stream: S,
    receiver: R,
    outbox: Arc<Outbox>,
    batch: Vec<u8>,
    written: usize,
    unflushed: bool,
}

impl<S, R> Pump<S, R>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Receive,
{
    /// Takes over an open connection.
    pub(crate) fn new(stream: S, outbox: Arc<Outbox>, receiver: R) -> Self {
        Self { stream, receiver, outbox, batch: Vec::new(), written: 0, unflushed: false }
    }

    /// Writes until nothing waits (ready) or the socket is full.
    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.written < self.batch.len() {
                let rest = &self.batch[self.written..];
                self.written += ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
                self.unflushed = true;
                continue;
            }
            if self.unflushed {
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                self.unflushed = false;
            }
            self.batch.clear();
            self.written = 0;
            if !self.outbox.take(&mut self.batch, cx.waker()) {
                self.batch = Vec::new();
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            Poll::Ready(self.receiver.receive(read.filled()))
        })
    }
}

impl<S, R> Future for Pump<S, R>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Receive,
{
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..READS_PER_TURN {
            if let Poll::Ready(Err(error)) = self.poll_outbox(cx) {
                return Poll::Ready(Err(error));
            }
            if let Err(error) = ready!(self.poll_receive(cx)) {
                return Poll::Ready(Err(error));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
