//! The wire from outside: the real relay with its real store, real sockets, real TLS, both
//! transports, packet by packet. `tests/packets/table.toml` says which test shows which cell.
#![allow(unreachable_pub, clippy::unwrap_used)] // nobody imports a test, and a panic is its failure

mod attach;
mod breakable;
mod broken_disk;
mod bundles;
mod deliver;
mod disk;
mod endings;
mod ends;
mod expiry;
mod framing;
mod issue;
mod join;
mod limits;
mod mix;
mod moved;
mod moves;
mod opening;
mod post;
mod relay;
mod revoke;
mod rotation;
mod sharing;
mod shutdown;
mod signal;
mod slots;
mod standing;
mod wire;

/// The relays of these tests stand on their own disks.
fn beneath() -> Option<(String, std::sync::Arc<dyn std::any::Any + Send + Sync>)> {
    None
}

/// Makes one test of each scenario for each transport.
macro_rules! on_both_transports {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn raw() {
                super::$name(crate::wire::Via::Raw).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn websocket() {
                super::$name(crate::wire::Via::WebSocket).await;
            }
        }
    )*};
}
pub(crate) use on_both_transports;
