//! Packets over TLS, raw or in WebSocket messages. Nothing above this file knows which.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_websockets::{Message, WebSocketStream};
use valise_proto::limits::WEBSOCKET_MESSAGE_BYTES_MAX;
use valise_proto::{Deframer, FramingError, PacketBuffer, PacketError};

use crate::limits::SCRATCH_BYTES;

/// The stream of packets broke.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The relay sent something that is no packet.
    #[error("the relay sent a malformed packet: {0}")]
    Packet(#[from] PacketError),
    /// The relay sent something that is no sequence of packets.
    #[error("the relay's stream of packets is broken: {0}")]
    Framing(#[from] FramingError),
    /// The relay broke the WebSocket protocol.
    #[error("the WebSocket failed: {0}")]
    WebSocket(tokio_websockets::Error),
    /// The network, or TLS.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// Some bytes; perhaps whole packets, which were handed over.
    Some,
    /// The relay's end.
    End,
}

/// Takes each packet, in order.
pub(crate) type OnPacket<'a> = &'a mut dyn FnMut(Bytes) -> Result<(), PacketError>;

/// One connection's way to send and receive packets.
pub(crate) enum Transport {
    /// ALPN `valise/1`: packets, one after the other.
    Raw(Box<RawTransport>),
    /// `GET /v1/relay`: whole packets in binary messages.
    WebSocket(Box<WebSocketTransport>),
}

pub(crate) struct RawTransport {
    tls: TlsStream<TcpStream>,
    deframer: Deframer,
}

pub(crate) struct WebSocketTransport {
    stream: WebSocketStream<TlsStream<TcpStream>>,
    /// What did not fit into the last message.
    rest: Bytes,
}

impl Transport {
    pub(crate) fn raw(tls: TlsStream<TcpStream>) -> Self {
        Self::Raw(Box::new(RawTransport { tls, deframer: Deframer::default() }))
    }

    pub(crate) fn web_socket(stream: WebSocketStream<TlsStream<TcpStream>>) -> Self {
        Self::WebSocket(Box::new(WebSocketTransport { stream, rest: Bytes::new() }))
    }

    /// Reads once and hands over every packet that is complete.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        on_packet: OnPacket<'_>,
    ) -> Poll<Result<Read, TransportError>> {
        match self {
            Self::Raw(raw) => raw.poll_read(cx, on_packet),
            Self::WebSocket(web_socket) => web_socket.poll_read(cx, on_packet),
        }
    }

    /// Writes and flushes the whole batch. Until it is ready it must be called again with the same
    /// batch.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut PacketBuffer,
    ) -> Poll<Result<(), TransportError>> {
        match self {
            Self::Raw(raw) => raw.poll_write(cx, batch).map_err(TransportError::Io),
            Self::WebSocket(web_socket) => {
                web_socket.poll_write(cx, batch).map_err(TransportError::WebSocket)
            }
        }
    }

    /// Says that nothing more will be written.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Raw(raw) => Pin::new(&mut raw.tls).poll_shutdown(cx).map(drop),
            Self::WebSocket(web_socket) => {
                ready!(Pin::new(&mut web_socket.stream).poll_close(cx)).ok();
                Pin::new(web_socket.stream.get_mut()).poll_shutdown(cx).map(drop)
            }
        }
    }
}

thread_local! {
    /// One per thread, so that an idle connection holds no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

impl RawTransport {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        on_packet: OnPacket<'_>,
    ) -> Poll<Result<Read, TransportError>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            if let Err(error) = ready!(Pin::new(&mut self.tls).poll_read(cx, &mut buffer)) {
                // Many peers leave without TLS's close_notify; a cut packet tells the difference.
                let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
                return Poll::Ready(if is_end { Ok(Read::End) } else { Err(error.into()) });
            }
            let mut input = buffer.filled();
            if input.is_empty() {
                return Poll::Ready(Ok(Read::End));
            }
            while let Some(packet) = self.deframer.next(&mut input)? {
                on_packet(packet)?;
            }
            Poll::Ready(Ok(Read::Some))
        })
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut PacketBuffer,
    ) -> Poll<io::Result<()>> {
        while !batch.is_empty() {
            match ready!(Pin::new(&mut self.tls).poll_write(cx, batch.unwritten()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => batch.written(count),
            }
        }
        Pin::new(&mut self.tls).poll_flush(cx)
    }
}

impl WebSocketTransport {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        on_packet: OnPacket<'_>,
    ) -> Poll<Result<Read, TransportError>> {
        let message = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            None => return Poll::Ready(Ok(Read::End)),
            Some(Err(tokio_websockets::Error::Io(error)))
                if error.kind() == io::ErrorKind::UnexpectedEof =>
            {
                return Poll::Ready(Ok(Read::End));
            }
            Some(Err(error)) => return Poll::Ready(Err(TransportError::WebSocket(error))),
            Some(Ok(message)) => message,
        };
        if message.is_binary() {
            let payload = Bytes::from(message.into_payload());
            let mut input = &payload[..];
            let mut deframer = Deframer::default();
            while let Some(packet) = deframer.next(&mut input)? {
                on_packet(packet)?;
            }
            if !deframer.is_between_packets() {
                return Poll::Ready(Err(FramingError::Truncated.into()));
            }
        }
        Poll::Ready(Ok(Read::Some))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut PacketBuffer,
    ) -> Poll<Result<(), tokio_websockets::Error>> {
        if self.rest.is_empty() && !batch.is_empty() {
            self.rest = batch.take();
        }
        while !self.rest.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_ready(cx))?;
            let len = whole_packets(&self.rest, WEBSOCKET_MESSAGE_BYTES_MAX);
            let message = Message::binary(self.rest.split_to(len));
            Pin::new(&mut self.stream).start_send(message)?;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

/// How many bytes of these packets make whole packets of at most `limit` bytes together.
fn whole_packets(packets: &[u8], limit: usize) -> usize {
    if packets.len() <= limit {
        return packets.len();
    }
    let mut end = 0;
    while let Some(packet) = packet_len(&packets[end..]).filter(|len| end + len <= limit) {
        end += packet;
    }
    end
}

/// The length of the first packet with its prefix. The packets are our own, hence well formed.
fn packet_len(packets: &[u8]) -> Option<usize> {
    let prefix = packets.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let len =
        packets[..prefix].iter().rev().fold(0, |len, byte| len << 7 | usize::from(byte & 0x7f));
    Some(prefix + len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use valise_proto::ClientPacket;

    #[test]
    fn a_batch_is_cut_between_packets() {
        let mut batch = PacketBuffer::default();
        let mut ends = vec![0];
        for request in [1, 300, 70_000, 2, 3] {
            ClientPacket::<Bytes>::Ping { request }.encode(&mut batch);
            ends.push(batch.len());
        }
        let packets = batch.take();
        assert_eq!(whole_packets(&packets, packets.len()), packets.len());
        for limit in ends[1]..packets.len() {
            let cut = whole_packets(&packets, limit);
            assert!(cut <= limit && cut > 0 && ends.contains(&cut), "limit {limit}: {cut}");
        }
    }
}
