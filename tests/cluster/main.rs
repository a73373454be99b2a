//! The data centre: real relays over three real NATS servers. The packet-by-packet tests of a
//! supernode (`tests/wire`) run here against one node, and `differential` plays random scripts of
//! clients in both, so that both give the same transcripts; the rest is about what only several nodes
//! can get wrong.
//!
//! Without a `nats-server` (see `nats.rs`) this says so: the packet tests then run on a supernode once
//! more, and the others do nothing.
#![allow(unreachable_pub, dead_code, clippy::unwrap_used)] // shared with tests/wire, which uses all of it
#![allow(clippy::print_stderr)] // that something was not tested must be seen

#[path = "../wire/attach.rs"]
mod attach;
#[path = "../wire/bundles.rs"]
mod bundles;
#[path = "../wire/deliver.rs"]
mod deliver;
#[path = "../wire/expiry.rs"]
mod expiry;
#[path = "../wire/issue.rs"]
mod issue;
#[path = "../wire/join.rs"]
mod join;
#[path = "../wire/post.rs"]
mod post;
#[path = "../wire/relay.rs"]
mod relay;
#[path = "../wire/revoke.rs"]
mod revoke;
#[path = "../wire/sharing.rs"]
mod sharing;
#[path = "../wire/signal.rs"]
mod signal;
#[path = "../wire/slots.rs"]
mod slots;
#[path = "../wire/standing.rs"]
mod standing;
#[path = "../wire/wire.rs"]
mod wire;

mod bus;
mod differential;
mod faults;
mod import;
mod kept;
mod moving;
mod mutual_tls;
mod nats;
mod nodes;
mod refused;
mod steering;

use std::any::Any;
use std::sync::Arc;

/// What the relays of these tests stand on: more of their configuration, and what must live as long.
pub fn beneath() -> Option<(String, Arc<dyn Any + Send + Sync>)> {
    let nats = nats::shared()?;
    Some((nats.section(), nats))
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
