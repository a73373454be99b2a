//! The client side of Valise: connect to a relay that proves which realm it serves, join, attach,
//! post, signal, receive, and resume. It knows nothing of end-to-end encryption: payloads are bytes.
//!
//! [`connect`] gives one [`Connection`] to ask things of and an [`Incoming`] to hear from. [`Client`]
//! stands above it: it reconnects, attaches again, and posts what waits in its [`Outbox`], in order.

mod backoff;
mod client;
mod connection;
mod dial;
mod driver;
mod enroll;
mod envelope;
mod event;
mod inbox;
pub mod limits;
mod opening;
mod outbox;
mod owner;
pub mod random;
mod reconnect;
mod shared;
mod socks;
pub mod testing;
mod ticket;
mod tls;
mod transport;
mod until;

pub use backoff::Backoff;
pub use client::{Client, Receipt, SendError, Update, Updates};
pub use connection::{Closed, Connection, RequestError};
pub use dial::{ConnectError, Dial, TransportKind, connect};
pub use enroll::{EnrollError, Enrolled, enroll};
pub use envelope::{Envelope, EnvelopeError, MESSAGE_BYTES_MAX};
pub use event::{Ending, Event, Incoming};
pub use inbox::{Inbox, Received, StreamId};
pub use opening::{OpeningError, verify};
pub use outbox::{ConversationId, Outbox, Posting, PushError, Settled, Settlement};
pub use owner::OwnerKeyPair;
pub use reconnect::Stop;
pub use socks::{SocksError, SocksProxy};
pub use ticket::{Ticket, TicketError};
pub use transport::TransportError;
pub use valise_proto as proto;
