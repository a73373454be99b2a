//! The client side of Valise: connect to a relay that proves which realm it serves, join, attach,
//! post, signal, receive, and resume. It knows nothing of end-to-end encryption: payloads are bytes.
//!
//! [`connect`] gives one [`Connection`] to ask things of and an [`Incoming`] to hear from. [`Client`]
//! stands above it: it reconnects, attaches again, and posts what waits in its [`Outbox`], in order.
//! A [`Visit`] is for whoever only has a question.
//!
//! ```no_run
//! use valise_client::proto::TokenKind;
//! use valise_client::{Dial, Event, OwnerKeyPair, connect, random};
//!
//! # async fn example(address: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let dial = Dial::new(address.parse()?); // valise://host:port/REALM
//! let (connection, mut incoming) = connect(&dial).await?;
//! let owner = OwnerKeyPair::generate();
//! let member = connection.join(&owner, None).await?;
//! let attachment = connection.attach(&owner, &member).await?;
//! // Whoever is given the capability can post into this mailbox; here we do it ourselves.
//! let capabilities = connection.issue(attachment, TokenKind::Post, 1, 30, 0).await?;
//! let frame = vec![0; 512].into();
//! connection.post(random::frame_id(), &capabilities, 0, frame).await?;
//! while let Some(event) = incoming.next().await {
//!     if let Event::Deliver(deliver) = event {
//!         connection.ack(attachment, deliver.n)?; // committed here: the relay may forget it
//!         break;
//!     }
//! }
//! connection.close().await;
//! # Ok(())
//! # }
//! ```

mod backoff;
mod client;
mod connection;
mod dial;
mod driver;
mod endpoint;
mod enroll;
mod envelope;
mod event;
mod inbox;
pub mod limits;
mod opening;
mod outbox;
mod owner;
mod places;
pub mod random;
mod reconnect;
mod shared;
mod socks;
mod standing;
pub mod testing;
mod ticket;
mod tls;
mod transport;
mod trial;
mod until;
mod visit;

pub use backoff::Backoff;
pub use client::{AskError, Away, Client, Held, Receipt, SendError, Update, Updates};
pub use connection::{Closed, Connection, RequestError};
pub use dial::{ConnectError, Dial, TransportKind, connect};
pub use endpoint::{is_public_address, is_public_host};
pub use enroll::{Enrolled, enroll};
pub use envelope::{Envelope, EnvelopeError, MESSAGE_BYTES_MAX};
pub use event::{Ending, Event, Incoming};
pub use inbox::{Inbox, Received, StreamId};
pub use opening::{OpeningError, verify};
pub use outbox::{ConversationId, Outbox, Posting, PushError, Settled, Settlement, Side};
pub use owner::OwnerKeyPair;
pub use reconnect::Stop;
pub use socks::{SocksError, SocksProxy};
pub use standing::{BundleItem, Publication, SlotPut};
pub use ticket::{Ticket, TicketError};
pub use tls::config as tls_config;
pub use transport::TransportError;
pub use valise_proto as proto;
pub use visit::{Visit, VisitError};
