//! The same packets in binary WebSocket messages (RFC 6455), one or more whole ones in each.
//! Extensions are never negotiated: compressing ciphertext gains nothing and leaks lengths.

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

/// Packets over a WebSocket, after the upgrade.
pub struct WebSocket<S> {
    stream: WebSocketStream<S>,
    unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Takes over a stream that has been upgraded.
    pub fn new(stream: S) -> Self {
        let limits = Limits::default().max_payload_len(Some(WEBSOCKET_MESSAGE_BYTES_MAX));
        Self { stream: ServerBuilder::new().limits(limits).serve(stream), unflushed: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Transport for WebSocket<S> {
    const KIND: ConnectionKind = ConnectionKind::WebSocket;

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Bytes>,
    ) -> Poll<Result<(), TransportError>> {
        let message = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Poll::Ready(Err(blame(error))),
            None => return Poll::Ready(Err(TransportError::Ended)),
        };
        if message.is_text() {
            return Poll::Ready(Err(TransportError::WebSocket));
        }
        if message.is_binary() {
            let payload = message.into_payload();
            let mut input = &payload[..];
            let mut deframer = Deframer::default();
            while let Some(packet) = deframer.next(&mut input)? {
                packets.push(packet);
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
        if !out.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_ready(cx)).map_err(blame)?;
            let message = Message::binary(out.take());
            Pin::new(&mut self.stream).start_send(message).map_err(blame)?;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(blame)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
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
