//! Accepts connections, each with a permit taken before: what cannot be served waits in the
//! kernel's queue instead of costing memory here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::connection;
use crate::limits::LISTEN_BACKLOG;
use crate::metrics::AcceptRefused;
use crate::relay::Relay;

/// One listening socket.
pub struct Listener {
    socket: TcpListener,
    relay: Arc<Relay>,
    permits: Arc<Semaphore>,
}

/// After a failed accept (out of descriptors, most often) others need a moment to end.
const PAUSE: Duration = Duration::from_millis(50);

/// Opens a listening socket.
///
/// # Errors
/// The system's, when the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted relay must not wait for the connections of its predecessor to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

impl Listener {
    /// Will accept on this socket while it has permits.
    pub fn new(socket: TcpListener, relay: Arc<Relay>, permits: Arc<Semaphore>) -> Self {
        Self { socket, relay, permits }
    }

    /// Accepts until the relay shuts down.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        loop {
            // Biased: after the shutdown has begun nothing is accepted any more.
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|begun| *begun) => return,
                () = self.accept_one() => {}
            }
        }
    }

    /// Not cancel-safe for the connection in hand, which a shutdown drops anyway.
    async fn accept_one(&self) {
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
        match self.socket.accept().await {
            Ok((tcp, peer)) => self.begin(tcp, peer, permit),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                self.relay.metrics.accept_refused(AcceptRefused::System);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn begin(&self, tcp: TcpStream, peer: SocketAddr, permit: tokio::sync::OwnedSemaphorePermit) {
        let Ok(prefix) = self.relay.take_connect(peer.ip()) else {
            return self.relay.metrics.accept_refused(AcceptRefused::PrefixRate);
        };
        // Packets are small and flushed on purpose: nothing may wait for an acknowledgement.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "connection lost");
            return;
        }
        let relay = Arc::clone(&self.relay);
        tokio::spawn(async move {
            let ended = connection::serve(Arc::clone(&relay), tcp, prefix).await;
            relay.metrics.connection_ended(ended.name());
            tracing::debug!(reason = ended.name(), "connection ended");
            drop(permit);
        });
    }
}
