//! A client that stays: it reconnects, attaches its mailboxes again, and posts what waits in its
//! [`Outbox`] in order, each frame until its fate is known.

mod actor;
mod aside;
mod ask;
mod attaching;
mod doubts;
mod held;
mod moving;
mod serving;
mod turned_away;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use valise_proto::{FrameId, MailboxId, RealmId, Reason, SignedRealmRecord, Token};

use crate::limits::{OUTBOX_BYTES_READY, UPDATES_WAITING_MAX};
use crate::outbox::{ConversationId, Outbox, PushError, Settled};
use crate::reconnect::Stop;
use crate::until::until;
use crate::{Closed, Connection, Dial, OwnerKeyPair, StreamId};
use actor::Actor;
pub use ask::AskError;
pub use held::{Away, Held};

/// A handle on the client; cheap to clone. When the last clone is dropped, the client ends.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _guard: Arc<Guard>,
}

/// What a client tells its application, in order. It must be read while one waits for anything:
/// a client whose updates nobody takes stops reading from the relay.
pub struct Updates {
    receiver: mpsc::Receiver<Update>,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// There is a connection, and the relay has proven itself.
    Connected,
    /// There is none; the next try comes by itself.
    Disconnected {
        /// What happened, in words.
        why: String,
        /// When the next try comes.
        retry_in: Duration,
    },
    /// A frame. Acknowledge it once its content is committed on this device; until then it comes
    /// again after every reconnect.
    Message {
        /// The mailbox it came to.
        mailbox: MailboxId,
        /// The frame's id.
        frame_id: FrameId,
        /// The frame.
        payload: Bytes,
        /// For [`Client::acknowledge`].
        receipt: Receipt,
    },
    /// A signal.
    Signaled {
        /// The mailbox it came to.
        mailbox: MailboxId,
        /// What was signaled.
        payload: Bytes,
    },
    /// This endpoint of the realm, as its record lists it, is the best for this client; none is. It
    /// is kept for [`Dial::prefer`] of the next start.
    Prefers(Option<String>),
    /// The realm's record of the highest epoch that was seen, which is genuine. It is kept for
    /// [`Dial::realm_record`] of the next start, which may find nobody at the address any more.
    Realm(SignedRealmRecord),
    /// Few one-time items are left in a mailbox's bundle: publish more.
    BundleLow {
        /// Whose it is.
        mailbox: MailboxId,
        /// How many.
        items: u32,
    },
    /// Everything that was stored when the mailbox was attached has come.
    CaughtUp {
        /// The mailbox.
        mailbox: MailboxId,
    },
    /// Messages of a conversation have met their fate at one target.
    Settled(Settled),
    /// The mailbox was attached elsewhere. It is not attached again by itself.
    Replaced {
        /// The mailbox.
        mailbox: MailboxId,
    },
    /// The relay does not let this mailbox be attached; it is not tried again.
    NotServed {
        /// The mailbox.
        mailbox: MailboxId,
        /// Why; `None` for a reason this version does not know.
        reason: Option<Reason>,
    },
    /// The last update: the client does not come back by itself.
    GaveUp(Stop),
}

/// Which delivery, on which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    generation: u64,
    attachment: u32,
    n: u64,
}

/// A message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The outbox did not take it.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The client has ended.
    #[error("the client has ended")]
    Ended,
}

/// What the handles share with the actor.
struct Shared {
    realm: RealmId,
    state: Mutex<State>,
    /// The actor has something to look at.
    work: Notify,
    /// Something was settled, or the link has changed.
    changed: Notify,
    /// Static: closes a connection after so long without a reason for it.
    idle: Option<Duration>,
}

struct State {
    outbox: Outbox,
    served: Vec<Served>,
    link: Link,
    /// Connections that ended and tries that failed.
    failures: u64,
    /// How many hold the connection, or wait for it, and since when nobody does.
    lent: u32,
    /// Of those, the ones that asked for an attachment.
    lent_attached: u32,
    used: Instant,
    wish: Wish,
    /// The second connection, to another place of the realm.
    aside: Option<Connection>,
    /// How many hold it, or wait for it.
    lent_aside: u32,
    /// How often it could not be opened, when it is tried again, and why it failed the last time.
    aside_failures: u64,
    aside_until: Instant,
    aside_why: String,
    /// What was asked over one of these was refused `moved`.
    turned_away: Vec<Connection>,
}

/// Where the client stands with its relay.
enum Link {
    /// No connection: there is no reason for one, or it is being opened.
    Down,
    /// The connection in use, and its number.
    Up { generation: u64, connection: Connection },
    /// No connection before `until`, unless the application wants it.
    Paused { why: String, until: Instant },
    /// The client has ended; why, if not because it was closed.
    Ended(Option<Stop>),
}

/// A mailbox to be attached on every connection.
#[derive(Clone)]
struct Served {
    mailbox: MailboxId,
    owner: Arc<OwnerKeyPair>,
    member_token: Token,
    /// Not attached on the current connection, nor under way.
    is_new: bool,
    /// The number of its attachment on the current connection.
    attachment: Option<u32>,
}

/// What the application wants of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    None,
    /// Give this connection up for a fresh one.
    Fresh,
    /// End.
    Close,
}

/// Ends the client with its last handle.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.wish(Wish::Close);
    }
}

impl Client {
    /// Starts a client. It connects once there is a reason to: a mailbox to serve or a message to
    /// send. Runs in a Tokio runtime.
    pub fn start(dial: Dial) -> (Self, Updates) {
        Self::new(dial, None)
    }

    /// As [`Self::start`], but without a reason to be connected the connection is closed after a
    /// while. For relays where others have their mailboxes.
    pub fn start_on_demand(dial: Dial, idle: Duration) -> (Self, Updates) {
        Self::new(dial, Some(idle))
    }

    fn new(dial: Dial, idle: Option<Duration>) -> (Self, Updates) {
        let shared = Arc::new(Shared {
            realm: dial.address.realm,
            state: Mutex::new(State {
                outbox: Outbox::default(),
                served: Vec::new(),
                link: Link::Down,
                failures: 0,
                lent: 0,
                lent_attached: 0,
                used: Instant::now(),
                wish: Wish::None,
                aside: None,
                lent_aside: 0,
                aside_failures: 0,
                aside_until: Instant::now(),
                aside_why: String::new(),
                turned_away: Vec::new(),
            }),
            work: Notify::new(),
            changed: Notify::new(),
            idle,
        });
        let (sender, receiver) = mpsc::channel(UPDATES_WAITING_MAX);
        tokio::spawn(Actor::new(shared.clone(), dial, sender).run());
        let guard = Arc::new(Guard(shared.clone()));
        (Self { shared, _guard: guard }, Updates { receiver })
    }

    /// Serves the owner's mailbox from now on, on every connection.
    pub fn serve(&self, owner: Arc<OwnerKeyPair>, member_token: Token) -> MailboxId {
        let mailbox = owner.mailbox(&self.shared.realm);
        let mut state = self.shared.state();
        state.served.retain(|served| served.mailbox != mailbox);
        state.served.push(Served { mailbox, owner, member_token, is_new: true, attachment: None });
        drop(state);
        self.shared.work.notify_one();
        mailbox
    }

    /// Opens a conversation, as [`Outbox::open`].
    pub fn open(
        &self,
        conversation: ConversationId,
        stream: StreamId,
        capabilities: Vec<Token>,
        next_counter: u64,
    ) {
        self.shared.state().outbox.open(conversation, stream, capabilities, next_counter);
    }

    /// Forgets a conversation and everything that waits in it.
    pub fn forget(&self, conversation: ConversationId) {
        self.shared.state().outbox.close(conversation);
        self.shared.changed.notify_waiters();
    }

    /// Puts a message into a conversation and returns its counter. Its fate comes as
    /// [`Update::Settled`].
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, conversation: ConversationId, message: Bytes) -> Result<u64, SendError> {
        let mut state = self.shared.state();
        if state.has_ended() {
            return Err(SendError::Ended);
        }
        let counter = state.outbox.push(conversation, message)?;
        drop(state);
        self.shared.work.notify_one();
        Ok(counter)
    }

    /// Reaches attached mailboxes if there is a connection now; never stored, never answered.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn signal(&self, capabilities: &[Token], payload: Bytes) -> Result<(), Closed> {
        match &self.shared.state().link {
            Link::Up { connection, .. } => connection.signal(capabilities, payload),
            _ => Err(Closed::Ended),
        }
    }

    /// Says that a frame, and all before it in its mailbox, are committed on this device. If the
    /// connection it came on is gone, it comes again, and the `Inbox` drops the copy.
    pub fn acknowledge(&self, receipt: Receipt) {
        if let Link::Up { generation, connection } = &self.shared.state().link
            && *generation == receipt.generation
        {
            connection.ack(receipt.attachment, receipt.n).ok();
        }
    }

    /// Gives the connection up for a fresh one at once: for an application that knows that the
    /// network has changed. While it waits for a retry, it tries now.
    pub fn reconnect(&self) {
        self.shared.wish(Wish::Fresh);
    }

    /// (Message, target) pairs whose fate is not known yet.
    pub fn unsettled(&self) -> u64 {
        self.shared.state().outbox.unsettled()
    }

    /// Waits until every message has met its fate, or the client has ended.
    pub async fn settled(&self) {
        until(&self.shared.changed, || {
            let state = self.shared.state();
            state.has_ended() || state.outbox.unsettled() == 0
        })
        .await;
    }

    /// Waits until there is comfortable room in the outbox, or the client has ended.
    pub async fn room(&self) {
        until(&self.shared.changed, || {
            let state = self.shared.state();
            state.has_ended() || state.outbox.waiting_bytes() < OUTBOX_BYTES_READY
        })
        .await;
    }

    /// Ends the client, and waits until it has ended. What is not settled stays unsettled: wait
    /// for [`Self::settled`] first where that matters.
    pub async fn close(&self) {
        self.shared.wish(Wish::Close);
        until(&self.shared.changed, || self.shared.state().has_ended()).await;
    }
}

impl Updates {
    /// The next update; `None` once the client has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Update> {
        self.receiver.recv().await
    }
}

impl State {
    fn has_ended(&self) -> bool {
        matches!(self.link, Link::Ended(_))
    }

    /// Whether there is a reason to be connected.
    fn is_wanted(&self) -> bool {
        !self.served.is_empty() || self.outbox.unsettled() > 0 || self.lent > 0
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish(&self, wish: Wish) {
        let mut state = self.state();
        // Nothing undoes the wish to end.
        if state.wish != Wish::Close {
            state.wish = wish;
        }
        drop(state);
        self.work.notify_one();
    }

    fn set_link(&self, link: Link) {
        self.state().link = link;
        self.changed.notify_waiters();
    }

    fn pause(&self, why: String, wait: Duration) {
        self.state().failures += 1;
        self.set_link(Link::Paused { why, until: Instant::now() + wait });
    }

    fn set_attachment(&self, mailbox: MailboxId, attachment: u32) {
        let mut state = self.state();
        if let Some(served) = state.served.iter_mut().find(|served| served.mailbox == mailbox) {
            served.attachment = Some(attachment);
        }
        drop(state);
        self.changed.notify_waiters();
    }
}
