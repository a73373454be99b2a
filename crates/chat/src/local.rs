//! The engine in this process: everything this crate wants of `valise_chat_core::engine`.

use serde_json::Value;
use tokio::sync::broadcast;
use valise_chat_core::api::{Command, Event, Refusal};

/// An engine in this process; there is none yet.
#[derive(Clone)]
pub enum Local {}

impl Local {
    /// Carries a command out.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn call(&self, _command: Command) -> Result<Value, Refusal> {
        match *self {}
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        match *self {}
    }

    /// Waits until the engine has ended; why, if not by order.
    pub async fn ended(&self) -> Option<String> {
        match *self {}
    }

    /// Ends the engine, and waits until the profile's lock is free.
    pub async fn close(self) {
        match self {}
    }
}
