//! The whole life of one connection, top to bottom: handshake, transport, session, end.

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

/// Serves a connection to its end and says how it ended.
pub async fn serve(relay: Arc<Relay>, tcp: TcpStream, prefix: Prefix) -> Ended {
    let accepted = Instant::now();
    let deadline = (accepted + relay.settings().patience.establishment).into();

    // Boxed, so that the handshake's memory is gone once it is done.
    let handshake = Box::pin(handshake(&relay, tcp));
    let (stream, channel) = match timeout_at(deadline, handshake).await {
        Ok(Some(encrypted)) => encrypted,
        Ok(None) => return Ended::Tls,
        Err(_) => return Ended::Closed(CloseReason::EstablishmentTimeout),
    };

    if stream.get_ref().1.alpn_protocol() == Some(ALPN) {
        return run(relay, prefix, Raw::new(stream), greeting(channel, true), accepted).await;
    }
    match timeout_at(deadline, Box::pin(https::serve(&relay, stream))).await {
        Ok(Answer::Upgraded(stream)) => {
            let transport = WebSocket::new(*stream);
            run(relay, prefix, transport, greeting(channel, false), accepted).await
        }
        Ok(Answer::Page) => Ended::Http,
        Ok(Answer::Broken) => Ended::Transport,
        Err(_) => Ended::Closed(CloseReason::EstablishmentTimeout),
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
async fn run<T: Transport>(
    relay: Arc<Relay>,
    prefix: Prefix,
    transport: T,
    greeting: Greeting,
    accepted: Instant,
) -> Ended {
    let link = Link::new(Arc::clone(&relay), prefix, transport, greeting, accepted);
    let _counted = relay.metrics.connection(T::KIND);
    let _registered = relay.connections.register(link.doorbell());
    link.await
}
