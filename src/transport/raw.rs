//! The packet stream itself, under ALPN `valise/1`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use valise_proto::{Deframer, PacketBuffer};

use super::{Transport, TransportError};
use crate::limits::READ_BYTES;
use crate::metrics::ConnectionKind;

thread_local! {
    /// Where every connection of this thread reads to. Only what is left of an incomplete packet is
    /// kept per connection, so idle connections hold no read buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Packets over an encrypted stream, one after the other.
pub struct Raw<S> {
    stream: S,
    deframer: Deframer,
    /// What the TLS layer has taken since the last complete flush.
    waiting: usize,
}

impl<S> Raw<S> {
    /// Takes over the stream.
    pub fn new(stream: S) -> Self {
        Self { stream, deframer: Deframer::default(), waiting: 0 }
    }
}

impl<S: AsyncWrite + Unpin> Raw<S> {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.waiting > 0 {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.waiting = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Transport for Raw<S> {
    const KIND: ConnectionKind = ConnectionKind::Raw;

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), TransportError>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let mut input = buffer.filled();
            if input.is_empty() {
                return Poll::Ready(Err(TransportError::Ended));
            }
            while let Some(packet) = self.deframer.next(&mut input)? {
                packets.push_back(packet);
            }
            Poll::Ready(Ok(()))
        })
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut PacketBuffer,
    ) -> Poll<Result<(), TransportError>> {
        ready!(self.poll_flush(cx))?;
        while !out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, out.unwritten()))?;
            if written == 0 {
                return Poll::Ready(
                    Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into()),
                );
            }
            out.written(written);
            self.waiting += written;
        }
        self.poll_flush(cx)
    }

    fn waiting(&self) -> usize {
        self.waiting
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Pin::new(&mut self.stream).poll_shutdown(cx).map_err(Into::into)
    }
}
