//! People with profiles at a real relay.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // shared by several test binaries

pub mod forge;
pub mod stranger;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::sync::broadcast;
use tokio::time::timeout;
use valise_chat_core::api::{
    Command, Connection, Contact, Conversation, Event, Joined, Link, LinkRequest, Message,
    MessageState, Sent, Settled, Status,
};
use valise_chat_core::engine::{self, Engine, NewProfile, Options};
use valise_chat_core::vault::{Cost, Passphrase};
use valise_proto::RelayAddress;

/// What may take a while on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody with a profile.
pub struct Person {
    pub name: String,
    pub directory: TempDir,
    pub engine: Option<Engine>,
}

pub fn options() -> Options {
    let mut options = Options { cost: Cost::CHEAPEST, ..Options::default() };
    options.relays.allow_private = true;
    options
}

pub fn passphrase() -> Passphrase {
    Passphrase::from("correct horse")
}

impl Person {
    /// A new account at a relay, online.
    pub async fn new(name: &str, relay: &RelayAddress) -> Self {
        let person = Self::offline(name);
        let new = NewProfile {
            name: name.to_owned(),
            relay: relay.clone(),
            join_code: None,
            device_name: format!("{name}'s laptop"),
        };
        engine::create(&person.path(), &passphrase(), new, &options()).await.unwrap();
        person.start().await
    }

    /// A place for a profile.
    pub fn offline(name: &str) -> Self {
        Self { name: name.to_owned(), directory: TempDir::new().unwrap(), engine: None }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("profile")
    }

    /// Starts the engine and waits until it is online.
    pub async fn start(self) -> Self {
        self.start_with(options()).await
    }

    pub async fn start_with(mut self, options: Options) -> Self {
        self.engine = Some(Engine::open(&self.path(), &passphrase(), options).unwrap());
        self.online().await;
        self
    }

    pub async fn stop(mut self) -> Self {
        self.engine.take().unwrap().close().await;
        self
    }

    /// What somebody has who got at the device for a moment.
    pub fn copy(&self) -> Self {
        assert!(self.engine.is_none(), "a profile in use is not copied");
        let copy = Self::offline(&self.name);
        fs::create_dir(copy.path()).unwrap();
        fs::set_permissions(copy.path(), Permissions::from_mode(0o700)).unwrap();
        for file in fs::read_dir(self.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        copy
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub async fn online(&self) {
        self.until("online", async || {
            let status: Status = self.ask(Command::Status {}).await;
            (status.connection == Connection::Online).then_some(())
        })
        .await;
    }

    pub async fn ask<T: DeserializeOwned>(&self, command: Command) -> T {
        let said = format!("{command:?}");
        let answer = timeout(PATIENCE, self.engine().call(command)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{}: no answer to {said}", self.name));
        let value = answer.unwrap_or_else(|no| panic!("{}: {said}: {no}", self.name));
        serde_json::from_value(value).unwrap()
    }

    pub async fn refused(&self, command: Command) -> String {
        timeout(PATIENCE, self.engine().call(command)).await.unwrap().unwrap_err().code
    }

    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.engine().events()
    }

    /// Asks again and again until there is something.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("{}: waited in vain for: {what}", self.name))
    }

    pub async fn invite(&self) -> String {
        self.ask::<Link>(Command::Invite {}).await.link
    }

    pub async fn join(&self, link: &str) -> i64 {
        let join = Command::Join { link: link.to_owned(), allow_relay: true };
        self.ask::<Joined>(join).await.conversation
    }

    pub async fn conversations(&self) -> Vec<Conversation> {
        self.ask(Command::Conversations {}).await
    }

    /// The conversation with this title, once it is there.
    pub async fn conversation(&self, title: &str) -> Conversation {
        self.until(&format!("a conversation with {title}"), async || {
            self.conversations().await.into_iter().find(|found| found.title == title)
        })
        .await
    }

    pub async fn contact(&self, name: &str) -> Contact {
        self.until(&format!("the contact {name}"), async || {
            let contacts: Vec<Contact> = self.ask(Command::Contacts {}).await;
            contacts.into_iter().find(|found| found.name == name || found.petname == name)
        })
        .await
    }

    pub async fn send(&self, conversation: i64, text: &str) -> i64 {
        let send = Command::Send { conversation, text: text.to_owned(), key: None };
        self.ask::<Sent>(send).await.message
    }

    pub async fn messages(&self, conversation: i64) -> Vec<Message> {
        self.ask(Command::Messages { conversation, before: None, limit: 1_000 }).await
    }

    /// The texts of a conversation, once there are so many.
    pub async fn texts(&self, conversation: i64, count: usize) -> Vec<String> {
        self.until(&format!("{count} texts"), async || {
            let messages = self.messages(conversation).await;
            let texts = messages.into_iter().filter(|message| !message.account.is_empty());
            let texts: Vec<_> = texts.map(|message| message.text).collect();
            (texts.len() >= count).then_some(texts)
        })
        .await
    }

    /// Waits until a message is in this state, or a later one.
    pub async fn state(&self, conversation: i64, message: i64, state: MessageState) {
        self.until(&format!("message {message} {state:?}"), async || {
            let messages = self.messages(conversation).await;
            let found = messages.into_iter().find(|found| found.number == message)?;
            (found.state >= state && found.state <= MessageState::Read).then_some(())
        })
        .await;
    }

    pub async fn settle(&self) -> u64 {
        let settle = Command::Settle { timeout_ms: 20_000 };
        self.ask::<Settled>(settle).await.sending
    }
}

/// Two people who know each other: their conversations' numbers.
pub async fn introduce(one: &Person, other: &Person) -> (i64, i64) {
    let link = one.invite().await;
    let theirs = other.join(&link).await;
    let ours = one.conversation(&other.name).await.number;
    (ours, theirs)
}

/// Links a second device of somebody.
pub async fn link(person: &Person, name: &str) -> Person {
    link_with(person, name, None).await
}

/// The same at a relay that asks for codes.
pub async fn link_with(person: &Person, name: &str, join_code: Option<String>) -> Person {
    let link = person.ask::<Link>(Command::LinkDevice { join_code }).await.link;
    let second = Person::offline(&person.name);
    let (sender, words) = mpsc::sync_channel(1);
    let path = second.path();
    let device_name = name.to_owned();
    let linking = tokio::spawn(async move {
        let shown = |words: &[String]| sender.send(words.to_vec()).unwrap();
        engine::create_linked(&path, &passphrase(), &link, &device_name, options(), shown).await
    });
    let request = person
        .until("a device that asks", async || {
            person.ask::<Vec<LinkRequest>>(Command::LinkRequests {}).await.pop()
        })
        .await;
    assert_eq!(request.words, words.recv().unwrap(), "the words on both screens");
    assert_eq!(request.name, name);
    let confirm = Command::ConfirmLink { device: request.device, accept: true };
    person.ask::<Option<()>>(confirm).await;
    timeout(PATIENCE, linking).await.unwrap().unwrap().unwrap();
    second.start().await
}
