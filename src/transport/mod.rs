//! Packets in, packets out, over an encrypted stream. Nothing above knows which transport it has.

mod raw;
mod websocket;

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;
use valise_proto::{FramingError, PacketBuffer};

pub use raw::Raw;
pub use websocket::WebSocket;

use crate::metrics::ConnectionKind;

/// Why a transport ended.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer closed it.
    #[error("the peer closed the connection")]
    Ended,
    /// The peer broke the framing.
    #[error("the peer broke the framing: {0}")]
    Framing(#[from] FramingError),
    /// The peer broke the WebSocket protocol, or sent text.
    #[error("the peer broke the WebSocket protocol")]
    WebSocket,
    /// The stream failed.
    #[error("the stream failed: {0}")]
    Io(#[from] std::io::Error),
}

/// A connection that carries packets. Implementations
///
/// 1. MUST hand out whole packets, without their length prefix, in the order they were sent;
/// 2. MUST refuse a declared length above the limit before buffering it;
/// 3. MUST hold no buffer between packets: an idle connection costs its state only;
/// 4. MUST have handed everything to the kernel when `poll_send` is ready;
/// 5. MUST NOT lose packets that came in when `poll_receive` returns an error: they are in `packets`;
/// 6. MUST NOT take more out of `out` while what they took before is not with the kernel.
pub trait Transport: Send + Unpin {
    /// Which one it is.
    const KIND: ConnectionKind;

    /// Reads once and appends the packets that are complete now, none perhaps.
    ///
    /// # Errors
    /// [`TransportError`] when nothing more can come.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), TransportError>>;

    /// Writes and flushes what is in the buffer; pending while the peer does not take it.
    ///
    /// # Errors
    /// [`TransportError`] when the stream failed.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut PacketBuffer,
    ) -> Poll<Result<(), TransportError>>;

    /// Bytes that were taken out of `out`, or answer the transport's own pings, and are not with the
    /// kernel: all of them, until a flush is complete.
    fn waiting(&self) -> usize;

    /// Tells the peer that nothing more comes (TLS close_notify, WebSocket close).
    ///
    /// # Errors
    /// [`TransportError`] when the stream failed.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>>;
}
