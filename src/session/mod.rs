//! What a client may say and when, as pure decisions: no I/O, no clock, no lock. The connection
//! feeds packets in and carries out the actions that come back.

mod hello;
mod serving;
mod state;

pub use hello::{Greeting, Opened};
pub use serving::{AckInvalid, Serving};
pub use state::{Action, Session};
