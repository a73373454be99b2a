//! The whole life of one connection, top to bottom: handshake, transport, session, end.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::rand;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use valise_proto::{ALPN, Channel, CloseReason, Nonce};

use crate::https::{self, Answer};
use crate::link::Link;
use crate::metrics::ConnectionKind;
use crate::prefix::Prefix;
use crate::relay::{Ended, Relay};
use crate::session::Greeting;
use crate::tls::{self, Encrypted};
use crate::transport::{Raw, Transport, WebSocket};

/// Serves a connection to its end and says how it ended. The opening and the link are boxed: a
/// connection that idles for days must not carry the memory that its opening needed.
pub async fn serve(relay: Arc<Relay>, tcp: TcpStream, prefix: Prefix) -> Ended {
    let accepted = Instant::now();
    let deadline = accepted + relay.settings().patience.establishment;
    let opening = Box::pin(open(relay, tcp, prefix, accepted));
    match timeout_at(deadline.into(), opening).await {
        Ok(Ok(link)) => link.await,
        Ok(Err(ended)) => ended,
        Err(_) => Ended::Closed(CloseReason::EstablishmentTimeout),
    }
}

/// A running link.
type Running = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// From the handshake to the transport; the link then greets the client.
async fn open(
    relay: Arc<Relay>,
    tcp: TcpStream,
    prefix: Prefix,
    accepted: Instant,
) -> Result<Running, Ended> {
    let (stream, channel) = handshake(&relay, tcp).await.ok_or(Ended::Tls)?;
    if stream.get_ref().1.alpn_protocol() == Some(ALPN) {
        return Ok(run(relay, prefix, Raw::new(stream), greeting(channel, true), accepted));
    }
    match https::serve(&relay, stream).await {
        Answer::Upgraded(stream) => {
            let transport = WebSocket::new(*stream);
            Ok(run(relay, prefix, transport, greeting(channel, false), accepted))
        }
        Answer::Page => Err(Ended::Http),
        Answer::Broken => Err(Ended::Transport),
    }
}

/// TLS, as one of a bounded number of handshakes; `None` when the peer does not manage it.
async fn handshake(relay: &Relay, tcp: TcpStream) -> Option<(Encrypted, Channel)> {
    let _one_of_few = relay.handshakes.acquire().await.expect("the semaphore is never closed");
    let began = Instant::now();
    let _handshaking = relay.metrics.connection(ConnectionKind::Handshaking);
    let (stream, channel) = match relay.tls.accept(tcp).await {
        Ok(encrypted) => encrypted,
        Err(error) => {
            tracing::debug!(%error, "handshake failed");
            return None;
        }
    };
    relay.metrics.handshake(tls::group_name(&stream), began.elapsed());
    Some((stream, channel))
}

/// A fresh nonce for this connection.
fn greeting(channel: Channel, channel_required: bool) -> Greeting {
    let mut nonce = [0; Nonce::LEN];
    rand::fill(&mut nonce).expect("the system's random source never fails");
    Greeting { nonce: Nonce::new(nonce), channel, channel_required }
}

/// The long part.
fn run<T: Transport + 'static>(
    relay: Arc<Relay>,
    prefix: Prefix,
    transport: T,
    greeting: Greeting,
    accepted: Instant,
) -> Running {
    let link = Box::pin(Link::new(Arc::clone(&relay), prefix, transport, greeting, accepted));
    Box::pin(async move {
        let _counted = relay.metrics.connection(T::KIND);
        let _registered = relay.connections.register(link.doorbell());
        link.await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every idle connection holds beside its boxed link.
    #[test]
    fn an_idle_connection_is_small() {
        fn size<F>(_: impl FnOnce(Arc<Relay>, TcpStream, Prefix) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(serve);
        assert!(bytes <= 512, "{bytes} bytes");
    }
}
