//! What is done with the engine's answers.

use data_encoding::BASE64;
use serde::de::DeserializeOwned;
use serde_json::Value;
use valise_chat_core::api::{
    Command, Connection, Contact, Conversation, ConversationNumber, Device, Exported, Joined, Link,
    LinkRequest, Member, Message, MessageNumber, Refusal, Relay, Sent, Status, Words,
};

use super::action::Action;
use super::popup::{Item, LinkCard, Pick, PickFor, Popup, Question, QuestionFor, WordsCard};
use super::{Effect, Model};
use crate::tui::view::layout;

/// What an answer is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Then {
    /// Only a refusal is shown.
    Nothing,
    /// It worked, and this says so.
    Say(String),
    Status,
    Conversations,
    Contacts,
    Messages {
        conversation: ConversationNumber,
        before: Option<MessageNumber>,
    },
    /// The text goes back to the draft if it was refused.
    Sent {
        conversation: ConversationNumber,
        text: String,
    },
    Invite,
    DeviceLink,
    Join {
        link: String,
    },
    Created,
    Members {
        conversation: ConversationNumber,
        action: Action,
        narrow: String,
    },
    Devices,
    Relays,
    LinkRequests,
    Words {
        account: String,
    },
    Marked {
        name: String,
        verified: bool,
    },
    Exported,
}

impl Model {
    pub(super) fn answer(&mut self, then: Then, answer: Result<Value, Refusal>) -> Vec<Effect> {
        match answer {
            Ok(value) => match self.accept(then, value) {
                Ok(effects) => effects,
                Err(error) => {
                    self.say(format!("the engine answers in another version's words: {error}"));
                    Vec::new()
                }
            },
            Err(refusal) => {
                self.refused(then, &refusal);
                Vec::new()
            }
        }
    }

    /// A file was written, or why not.
    pub(super) fn written(&mut self, result: Result<String, String>) -> Vec<Effect> {
        match result {
            Ok(path) => self.say(format!("saved to {path}: keep it and the passphrase apart")),
            Err(why) => self.say(format!("not saved: {why}")),
        }
        Vec::new()
    }

    fn accept(&mut self, then: Then, value: Value) -> Result<Vec<Effect>, serde_json::Error> {
        let mut effects = Vec::new();
        match then {
            Then::Nothing => {}
            Then::Say(text) => self.say(text),
            Then::Status => {
                let status: Status = read(value)?;
                self.name = status.name;
                self.relay = status.relay;
                self.set_connection(status.connection);
            }
            Then::Conversations => {
                self.conversations = read::<Vec<Conversation>>(value)?;
                self.ready = true;
            }
            Then::Contacts => self.contacts = read::<Vec<Contact>>(value)?,
            Then::Messages { conversation, before } => {
                self.page(conversation, before, read::<Vec<Message>>(value)?);
            }
            Then::Sent { conversation, .. } => {
                let sent: Sent = read(value)?;
                effects.extend(self.sent(conversation, sent.message));
            }
            Then::Invite => {
                self.toast = None;
                let link = read::<Link>(value)?.link;
                let hint = "For one person. Send it by a way you trust, or let it be scanned.";
                let last = self.conversations.iter().map(|known| known.number).max();
                self.show_link("Invite", hint, link, Some(last.unwrap_or(0)));
            }
            Then::DeviceLink => {
                let link = read::<Link>(value)?.link;
                let hint = "On the new device: valise-chat init --link LINK. Then confirm it here.";
                self.show_link("A new device", hint, link, None);
            }
            Then::Join { .. } | Then::Created => {
                let joined: Joined = read(value)?;
                self.popup = None;
                self.toast = None;
                effects.push(Effect::Call(Command::Conversations {}, Then::Conversations));
                effects.push(Effect::Call(Command::Contacts {}, Then::Contacts));
                self.wanted = Some(joined.conversation);
            }
            Then::Members { conversation, action, narrow } => {
                let members = read::<Vec<Member>>(value)?;
                self.pick_member(conversation, action, &narrow, members);
            }
            Then::Devices => self.show_devices(read::<Vec<Device>>(value)?),
            Then::Relays => self.show_relays(read::<Vec<Relay>>(value)?),
            Then::LinkRequests => {
                if let Some(request) = read::<Vec<LinkRequest>>(value)?.into_iter().next() {
                    self.ask_link(request);
                }
            }
            Then::Words { account } => {
                let Words { name, words, verified, next } = read(value)?;
                self.popup = Some(Popup::Words(WordsCard { account, name, words, verified, next }));
            }
            Then::Marked { name, verified } => {
                self.say(if verified {
                    format!("{name} is verified")
                } else {
                    format!("not verified: somebody may stand between you and {name}")
                });
                effects.push(Effect::Call(Command::Conversations {}, Then::Conversations));
            }
            Then::Exported => {
                let file = read::<Exported>(value)?.file;
                let contents = BASE64.decode(file.as_bytes()).map_err(serde::de::Error::custom)?;
                let name = format!("valise-{}.export", self.clock.date(self.now_ms));
                effects.push(Effect::Write { name, contents });
            }
        }
        Ok(effects)
    }

    fn refused(&mut self, then: Then, refusal: &Refusal) {
        match then {
            Then::Join { link } if refusal.code == "new_relay" => {
                let text = format!(
                    "{}\n\nIts operator will see the address of this machine, and when it is \
                     connected; never what is written.",
                    refusal.message
                );
                self.popup = Some(Popup::Question(Question::new(
                    "A relay that is new to you",
                    text,
                    "connect",
                    "not now",
                    QuestionFor::NewRelay { link },
                )));
                return;
            }
            Then::Sent { conversation, text } => {
                let draft = &mut self.rooms.entry(conversation).or_default().draft;
                if draft.is_empty() {
                    draft.insert(&text);
                }
            }
            Then::Messages { conversation, .. } => {
                // Known::Asked stays: it is asked again with the next refresh, not in a circle.
                let _ = conversation;
            }
            _ => {}
        }
        self.say(refusal.message.clone());
    }

    fn page(
        &mut self,
        conversation: ConversationNumber,
        before: Option<MessageNumber>,
        page: Vec<Message>,
    ) {
        let unread = self.conversation(conversation).map_or(0, |known| known.unread);
        let room = self.rooms.entry(conversation).or_default();
        room.put_page(page);
        if before.is_none() {
            room.mark_new(unread);
        }
    }

    /// A message of one's own is in the store. Usually its event has come; if not, it is asked for.
    fn sent(&mut self, conversation: ConversationNumber, message: MessageNumber) -> Option<Effect> {
        let room = self.rooms.get(&conversation)?;
        let known = room.messages().iter().rev().any(|known| known.number == message);
        let command = Command::Messages { conversation, before: None, limit: super::PAGE };
        (!known).then_some(Effect::Call(command, Then::Messages { conversation, before: None }))
    }

    fn show_link(
        &mut self,
        title: &str,
        hint: &str,
        link: String,
        invites_after: Option<ConversationNumber>,
    ) {
        let (title, hint) = (title.to_owned(), hint.to_owned());
        self.popup = Some(Popup::Link(LinkCard { title, hint, link, invites_after, bare: false }));
    }

    fn show_devices(&mut self, devices: Vec<Device>) {
        let add = Item { label: "Link a new device".to_owned(), ..Item::default() };
        let known = devices.into_iter().map(|device| Item {
            label: device.name,
            detail: match device.this {
                true => "this one".to_owned(),
                false => format!("since {}", self.clock.short(device.since_ms, self.now_ms)),
            },
            // This device is not removed from here: it would lock the door from the outside.
            id: if device.this { "this".to_owned() } else { device.device },
            ticked: false,
        });
        let items = known.chain([add]).collect();
        let hint = "Enter on a device removes it; you are asked first.";
        self.popup = Some(Popup::Pick(Pick::new("Your devices", hint, items, PickFor::Device)));
    }

    fn show_relays(&mut self, relays: Vec<Relay>) {
        let items = relays.into_iter().map(|relay| {
            let state = match (relay.own, relay.allowed) {
                (true, _) => "yours: ".to_owned(),
                (_, true) => "allowed: ".to_owned(),
                _ => "waits for you: ".to_owned(),
            };
            Item {
                label: host(&relay.relay),
                detail: format!("{state}{}", relay.people.join(", "))
                    .trim_end_matches(": ")
                    .to_owned(),
                id: if relay.own { String::new() } else { relay.relay },
                ticked: relay.allowed,
            }
        });
        let hint = "Enter allows a relay, or forbids it; you are asked first.";
        let pick = Pick::new("Relays", hint, items.collect(), PickFor::Relay);
        self.popup = Some(Popup::Pick(pick));
    }

    /// A relay may be contacted only when the user says so; it is asked at once unless the user is doing
    /// something else.
    pub(super) fn ask_relay(&mut self, relay: Relay) {
        let people = match relay.people.is_empty() {
            true => "Somebody".to_owned(),
            false => relay.people.join(", "),
        };
        let name = host(&relay.relay);
        if self.popup.is_some() {
            return self.say(format!("{people}: what goes to {name} waits for your word: /relays"));
        }
        let text = format!(
            "{people}: at the relay {name}, which is new to you. What goes there waits.\n\nIts operator \
             would see the address of this machine, and when it is connected; never what is written."
        );
        self.popup = Some(Popup::Question(Question::new(
            "A relay that is new to you",
            text,
            "connect",
            "not now",
            QuestionFor::AllowRelay { relay: relay.relay, allow: true },
        )));
    }

    fn pick_member(
        &mut self,
        conversation: ConversationNumber,
        action: Action,
        narrow: &str,
        members: Vec<Member>,
    ) {
        let everyone = action == Action::Members;
        let items = members.into_iter().filter(|member| everyone || !member.me).map(|member| {
            let devices = match member.devices {
                1 => "1 device".to_owned(),
                count => format!("{count} devices"),
            };
            let verified = match (member.verified, member.other_key) {
                (_, true) => "another key",
                (true, _) => "verified",
                _ => "not verified",
            };
            // With somebody else under a contact's account nothing is to be compared or agreed.
            let is_no_one = member.me || (member.other_key && action != Action::Remove);
            Item {
                label: member.name,
                detail: if member.me { "you".to_owned() } else { format!("{verified}, {devices}") },
                id: if is_no_one { String::new() } else { member.account },
                ticked: false,
            }
        });
        let (title, hint) = match action {
            Action::Verify => ("Verify whom?", "Enter shows the words to compare."),
            Action::Petname => ("Whose name?", "Enter asks for a name of your own."),
            Action::Block => ("Block whom?", "Enter blocks; you are asked first."),
            Action::Unblock => ("Unblock whom?", "Enter lets the person post again."),
            Action::Accept => ("Whose identity is new?", "Enter asks whether you go on."),
            Action::Remove => ("Remove whom?", "Enter removes; you are asked first."),
            _ => ("Members", "Enter compares words with a person."),
        };
        let purpose = PickFor::Person(conversation, action);
        let mut pick = Pick::new(title, hint, items.collect(), purpose);
        pick.query.insert_line(narrow);
        self.popup = Some(Popup::Pick(pick));
    }

    /// A new device waits for a decision; it is asked at once unless the user is doing something else.
    pub(super) fn ask_link(&mut self, request: LinkRequest) {
        if self.popup.as_ref().is_some_and(|popup| !matches!(popup, Popup::Link(_))) {
            return self.say("a new device asks to be linked: open /devices");
        }
        let text = format!(
            "\"{}\" asks to be linked to your account. It would read and write everything as you \
             do.\n\nBoth screens must show the same words:\n\n    {}\n\nIs this your device, and \
             are the words the same?",
            request.name,
            request.words.join("  ")
        );
        self.popup = Some(Popup::Question(Question::new(
            "A new device",
            text,
            "the same: link it",
            "refuse",
            QuestionFor::LinkDevice { request },
        )));
    }

    pub(super) fn set_connection(&mut self, connection: Connection) {
        if let Connection::Offline { retry_in_ms, .. } = &connection {
            self.retry_at_ms = self.now_ms + retry_in_ms;
        }
        self.connection = connection;
    }

    /// Columns of the input, for keys that follow the rows on the screen.
    pub(super) fn input_columns(&self) -> usize {
        layout::input_columns(self)
    }
}

/// Host and port of a relay's address.
fn host(relay: &str) -> String {
    let rest = relay.strip_prefix("valise://").unwrap_or(relay);
    rest.split('/').next().unwrap_or_default().to_owned()
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(value)
}
