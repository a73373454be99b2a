//! One handle for every front end: it asks the engine in this process, or the one that another
//! process holds and serves on the profile's socket. Nobody needs to know which.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use valise_chat_core::api::{Command, Event, Refusal};
use valise_chat_core::engine::Engine;

use crate::rpc::Remote;

/// The engine, wherever it runs. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    form: Form,
}

#[derive(Clone)]
enum Form {
    Local(Engine),
    Remote(Remote),
}

impl Api {
    /// The engine is in this process.
    pub fn local(engine: Engine) -> Self {
        Self { form: Form::Local(engine) }
    }

    /// The engine is in another process.
    pub fn remote(remote: Remote) -> Self {
        Self { form: Form::Remote(remote) }
    }

    /// Carries a command out. Its answer is described with the command.
    ///
    /// # Errors
    /// [`Refusal`]; its code is `ended` when there is no engine any more.
    pub async fn call(&self, command: Command) -> Result<Value, Refusal> {
        match &self.form {
            Form::Local(engine) => engine.call(command).await,
            Form::Remote(remote) => remote.call(command).await,
        }
    }

    /// [`Api::call`] with the answer's type.
    ///
    /// # Errors
    /// [`Refusal`]; its code is `version` when the answer is of another type.
    pub async fn ask<T: DeserializeOwned>(&self, command: Command) -> Result<T, Refusal> {
        let answer = self.call(command).await?;
        serde_json::from_value(answer).map_err(|error| Refusal {
            code: "version".to_owned(),
            message: format!(
                "the engine's answer is not understood ({error}): end the other valise-chat, which \
                 is of another version, and start it again"
            ),
        })
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> Events {
        let receiver = match &self.form {
            Form::Local(engine) => Happenings::Local(engine.events()),
            Form::Remote(remote) => Happenings::Remote(remote.events()),
        };
        Events { api: self.clone(), receiver }
    }

    /// Waits until the engine has ended or cannot be reached any more. Says what went wrong; none
    /// if it was ended by order.
    pub async fn ended(&self) -> Option<String> {
        match &self.form {
            Form::Local(engine) => engine.ended().await.why,
            Form::Remote(remote) => remote.ended().await,
        }
    }

    /// Lets go of the engine: one in this process ends, one in another process stays.
    pub async fn close(self) {
        if let Form::Local(engine) = self.form {
            engine.close().await;
        }
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.form {
            Form::Local(_) => "Api(local)",
            Form::Remote(_) => "Api(remote)",
        })
    }
}

/// What happens, in order.
#[derive(Debug)]
pub struct Events {
    api: Api,
    receiver: Happenings,
}

#[derive(Debug)]
enum Happenings {
    Local(Receiver<Event>),
    Remote(Receiver<Happening>),
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // nearly all of them are events, and none is kept
pub enum Happening {
    /// The engine says so.
    Event(Event),
    /// This front end was too slow, and some events were lost: ask for everything again.
    Missed,
    /// There is no engine any more, and nothing will happen; why, if it was not by order.
    Ended(Option<String>),
}

impl Events {
    /// The next one. Cancel-safe: what was not returned comes again.
    pub async fn next(&mut self) -> Happening {
        // What has happened is told before the end is.
        tokio::select! {
            biased;
            happening = self.receiver.next() => match happening {
                Some(happening) => happening,
                None => Happening::Ended(self.api.ended().await),
            },
            why = self.api.ended() => Happening::Ended(why),
        }
    }
}

impl Happenings {
    async fn next(&mut self) -> Option<Happening> {
        let received = match self {
            Self::Local(receiver) => receiver.recv().await.map(Happening::Event),
            Self::Remote(receiver) => receiver.recv().await,
        };
        match received {
            Ok(happening) => Some(happening),
            Err(RecvError::Lagged(_)) => Some(Happening::Missed),
            Err(RecvError::Closed) => None,
        }
    }
}
