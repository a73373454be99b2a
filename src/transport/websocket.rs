//! The same packets in binary WebSocket messages (RFC 6455), one or more whole ones in each.
//! Extensions are never negotiated: compressing ciphertext gains nothing and leaks lengths.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_websockets::{Limits, Message, ServerBuilder, WebSocketStream};
use valise_proto::limits::WEBSOCKET_MESSAGE_BYTES_MAX;
use valise_proto::{Deframer, FramingError, PacketBuffer};

use super::{Transport, TransportError};
use crate::metrics::ConnectionKind;

/// A control frame of the relay before its payload (RFC 6455, section 5.2: unmasked, up to 125 bytes).
const PONG_HEAD_BYTES: usize = 2;

/// Packets over a WebSocket, after the upgrade.
pub struct WebSocket<S> {
    stream: WebSocketStream<S>,
    /// Bytes of messages, and of pongs, since the last complete flush.
    waiting: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Takes over a stream that has been upgraded.
    pub fn new(stream: S) -> Self {
        let limits = Limits::default().max_payload_len(Some(WEBSOCKET_MESSAGE_BYTES_MAX));
        Self { stream: ServerBuilder::new().limits(limits).serve(stream), waiting: 0 }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.waiting > 0 {
            ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(blame)?;
            self.waiting = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Transport for WebSocket<S> {
    const KIND: ConnectionKind = ConnectionKind::WebSocket;

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), TransportError>> {
        let message = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Poll::Ready(Err(blame(error))),
            None => return Poll::Ready(Err(TransportError::Ended)),
        };
        if message.is_text() {
            return Poll::Ready(Err(TransportError::WebSocket));
        }
        if message.is_ping() {
            // Its pong is queued in the stream: whoever pings and does not read must not fill it.
            self.waiting += PONG_HEAD_BYTES + message.as_payload().len();
        }
        if message.is_binary() {
            let payload = message.into_payload();
            let mut input = &payload[..];
            let mut deframer = Deframer::default();
            while let Some(packet) = deframer.next(&mut input)? {
                packets.push_back(packet);
            }
            if !deframer.is_between_packets() {
                return Poll::Ready(Err(FramingError::Truncated.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut PacketBuffer,
    ) -> Poll<Result<(), TransportError>> {
        ready!(self.poll_flush(cx))?;
        if !out.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_ready(cx)).map_err(blame)?;
            self.waiting = out.len();
            let message = Message::binary(out.take());
            Pin::new(&mut self.stream).start_send(message).map_err(blame)?;
        }
        self.poll_flush(cx)
    }

    fn waiting(&self) -> usize {
        self.waiting
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Pin::new(&mut self.stream).poll_close(cx).map_err(blame)
    }
}

fn blame(error: tokio_websockets::Error) -> TransportError {
    match error {
        tokio_websockets::Error::Io(error) => TransportError::Io(error),
        tokio_websockets::Error::AlreadyClosed => TransportError::Ended,
        tokio_websockets::Error::PayloadTooLong { len, .. } => {
            FramingError::TooLarge { declared: len as u64 }.into()
        }
        _ => TransportError::WebSocket,
    }
}
