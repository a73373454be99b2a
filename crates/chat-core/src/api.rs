//! What a front end can ask of the engine and what the engine tells it: the terminal, the command
//! line, bots over JSON-RPC and the local web page all speak this, and nothing else.

// Fields that say all in their name have no words of their own: this page is read as a table.
#![allow(missing_docs)]

use serde::{Deserialize, Serialize};

/// A conversation's number in this profile.
pub type ConversationNumber = i64;
/// A message's number in this profile; later messages have larger ones.
pub type MessageNumber = i64;

/// A request. In JSON-RPC the tag is the method and the content the parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "snake_case")]
pub enum Command {
    /// Answers [`Status`].
    Status {},
    /// Answers a list of [`Conversation`], the one with the newest message first.
    Conversations {},
    /// Answers a list of [`Member`].
    Members { conversation: ConversationNumber },
    /// Answers a list of [`Message`] in order: the last `limit` before `before`, or at the end.
    Messages { conversation: ConversationNumber, before: Option<MessageNumber>, limit: u32 },
    /// Answers [`Sent`]. The message is stored when this returns, and is sent when it can be. Sending again with the
    /// same `key` does nothing and answers as before.
    Send { conversation: ConversationNumber, text: String, key: Option<String> },
    /// Everything up to the message was seen. Answers null.
    Read { conversation: ConversationNumber, up_to: MessageNumber },
    /// Answers a list of [`Relay`]: one's own, and those of others.
    Relays {},
    /// Whether a relay of others may be contacted: it sees this machine's network address. What waited
    /// for it goes out. Answers null.
    AllowRelay { relay: String, allow: bool },
    /// Whether the user is asked before a new relay is contacted, as in a new profile; otherwise any is.
    /// Answers null.
    AskRelays { ask: bool },
    /// Makes an invite for one person. Answers [`Link`].
    Invite {},
    /// Follows an invite. Answers [`Joined`]. A relay this profile does not know yet is contacted only with
    /// `allow_relay`, for it will see this machine's address; without it the answer is the error
    /// `new_relay`, which names all that are known. If what the link opens names further ones, they are named
    /// by the same error, and allowed when the link is followed once more with `allow_relay`.
    Join { link: String, allow_relay: bool },
    /// Answers [`Joined`]. Members are account ids.
    GroupCreate { name: String, members: Vec<String> },
    /// Answers null once the change is agreed on.
    GroupAdd { conversation: ConversationNumber, account: String },
    /// Answers null once the change is agreed on.
    GroupRemove { conversation: ConversationNumber, account: String },
    /// Answers null.
    GroupLeave { conversation: ConversationNumber },
    /// Answers null once the change is agreed on.
    GroupRename { conversation: ConversationNumber, name: String },
    /// A member that lost track of the group asks to be added again. Answers null.
    GroupRejoin { conversation: ConversationNumber },
    /// Answers a list of [`Contact`].
    Contacts {},
    /// Gives a contact a name of one's own; an empty one takes it away. Answers null.
    Petname { account: String, name: String },
    /// Answers null. Blocking revokes what the contact could post with.
    Block { account: String, blocked: bool },
    /// Answers null.
    Mute { conversation: ConversationNumber, muted: bool },
    /// Messages sent from now on disappear so many seconds after they were shown; 0: they stay.
    /// Answers null.
    Disappear { conversation: ConversationNumber, seconds: u32 },
    /// The words two people compare. Answers [`Words`].
    Verify { account: String },
    /// They were the same, or were not. Answers null.
    MarkVerified { account: String, verified: bool },
    /// The contact's account has a new root that the old one did not sign, and the user has decided
    /// to talk to it all the same. Answers null.
    AcceptIdentity { account: String },
    /// Answers a list of [`Device`].
    Devices {},
    /// Makes a link for a new device of this account. Where the relay lets in by invite codes only, the
    /// link carries one for the new device's mailbox. Answers [`Link`].
    LinkDevice {
        #[serde(default)]
        join_code: Option<String>,
    },
    /// Answers a list of [`LinkRequest`] that wait for a decision.
    LinkRequests {},
    /// Answers null.
    ConfirmLink { device: String, accept: bool },
    /// Answers null once contacts have been told.
    RemoveDevice { device: String },
    /// One's own name, as others see it. Answers null.
    Rename { name: String },
    /// Everything that brings the account back on a new device, under a passphrase. Answers
    /// [`Exported`].
    Export { passphrase: String },
    /// Waits until everything that can be sent has been, at most so long. Answers [`Settled`].
    Settle { timeout_ms: u64 },
    /// Events follow from now on. Answers null.
    Subscribe {},
    /// Ends the engine in an orderly way. Answers null.
    Shutdown {},
}

/// Something happened. In JSON-RPC: a notification whose method is `event`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The connection to one's own relay.
    Connection(Connection),
    /// A new message, of others or of one's own.
    Message { message: Message },
    /// A message's state has changed, or it is gone.
    MessageState { conversation: ConversationNumber, message: MessageNumber, state: MessageState },
    /// A conversation is new or has changed: name, members, settings, unread count.
    Conversation { conversation: Conversation },
    /// A relay waits for the user's word.
    Relay { relay: Relay },
    /// A new device asks to be linked.
    LinkRequest { request: LinkRequest },
    /// Something the user should know, in plain words.
    Notice { text: String },
}

/// The connection to one's own relay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Connection {
    /// Trying.
    Connecting,
    /// Connected, and what had waited has come.
    Online,
    /// Not connected.
    Offline { why: String, retry_in_ms: u64 },
    /// Not connected, and not trying any more.
    Stopped { why: String },
}

/// The profile at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// One's own name.
    pub name: String,
    /// One's own account id.
    pub account: String,
    /// This device's id.
    pub device: String,
    /// `valise://host:port/REALM`.
    pub relay: String,
    pub connection: Connection,
    /// Messages not read, over all conversations that are not muted.
    pub unread: u64,
    /// Messages that are not with the relay yet.
    pub sending: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// With one other person.
    Direct,
    Group,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    pub number: ConversationNumber,
    pub kind: ConversationKind,
    /// The group's name, or the other person's.
    pub title: String,
    /// The other person's account, in a direct conversation.
    pub account: Option<String>,
    /// People, oneself included.
    pub members: u32,
    pub unread: u64,
    pub last: Option<Message>,
    pub muted: bool,
    /// The other person is blocked.
    pub blocked: bool,
    /// Whether the words were compared, in a direct conversation.
    pub verified: bool,
    pub disappear_seconds: u32,
    /// Why nothing can be sent here, in plain words with a next step; none if it can.
    pub closed: Option<String>,
    /// Why messages wait for somebody here, in plain words with a next step; none if they do not. They
    /// can be written all the same.
    #[serde(default)]
    pub waiting: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub number: MessageNumber,
    pub conversation: ConversationNumber,
    pub kind: MessageKind,
    /// The author's account; empty for a notice.
    pub account: String,
    /// The author's name as it is to be shown.
    pub name: String,
    /// By oneself, on this or another device.
    pub mine: bool,
    /// Milliseconds since 1970, by the author's clock.
    pub sent_ms: u64,
    pub text: String,
    pub state: MessageState,
    /// When it disappears, milliseconds since 1970.
    pub disappears_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    Text,
    /// The engine's own words: somebody joined, a name changed.
    Notice,
    /// Messages that will never come: their sender gave them up.
    Gap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// On this device only.
    Sending,
    /// The relay keeps it.
    Relayed,
    /// On a device of everyone.
    Delivered,
    /// Seen by everyone.
    Read,
    /// Given up: it reached nobody, or not everybody.
    Failed,
    /// Of someone else.
    Received,
    /// It has disappeared.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub message: MessageNumber,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    pub conversation: ConversationNumber,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// `valise://host:port/REALM#SECRET`: to be shown as text and as a QR code.
    pub link: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub account: String,
    pub name: String,
    pub devices: u32,
    pub verified: bool,
    pub me: bool,
    /// It uses the account of somebody you know, with another account key than the one you know. Its
    /// name says so, and nothing it says is shown.
    #[serde(default)]
    pub other_key: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contact {
    pub account: String,
    /// As the contact calls itself.
    pub name: String,
    /// As one calls it oneself; empty: by its name.
    pub petname: String,
    pub verified: bool,
    pub blocked: bool,
    /// The direct conversation.
    pub conversation: Option<ConversationNumber>,
    /// The account's root has changed without the old one's signature.
    pub identity_reset: bool,
}

/// Where messages are posted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Relay {
    /// `valise://host:port/REALM`.
    pub relay: String,
    /// It may be contacted.
    pub allowed: bool,
    /// It is the one that one's own mailbox is at.
    pub own: bool,
    /// Who is reached there, or which groups.
    pub people: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub device: String,
    pub name: String,
    pub since_ms: u64,
    pub this: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkRequest {
    pub device: String,
    pub name: String,
    /// Both screens show these; the user compares them.
    pub words: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Words {
    pub name: String,
    pub words: Vec<String>,
    pub verified: bool,
    /// What to do now, in plain words.
    pub next: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exported {
    /// The file's content, base64.
    pub file: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// Messages that still wait.
    pub sending: u64,
}

/// A refusal: what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs: `unknown_conversation`, `new_relay`, ...
    pub code: String,
    /// For people: the cause and the fix.
    pub message: String,
}
