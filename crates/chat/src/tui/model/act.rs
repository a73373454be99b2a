//! What the user has decided to do, on its way to the engine.

use valise_chat_core::api::{Command, ConversationKind, ConversationNumber, Relay};

use super::action::Action;
use super::popup::{Field, FieldFor, Item, Pick, PickFor, Popup, Question, QuestionFor, WordsCard};
use super::{Effect, Model, Then};

/// How long messages may stay.
const STAYS: &[(u32, &str)] = &[
    (0, "they stay"),
    (300, "5 minutes"),
    (3_600, "1 hour"),
    (86_400, "1 day"),
    (604_800, "1 week"),
    (2_419_200, "4 weeks"),
];
const PASSPHRASE_MIN: usize = 8;

impl Model {
    /// Begins an action: with what follows its name at once, or with a question for it.
    pub(super) fn begin(&mut self, action: Action, argument: &str) -> Vec<Effect> {
        self.popup = None;
        if !action.fits(self.opened()) {
            self.say("not here: open the group or the person first that it is about");
            return Vec::new();
        }
        match action {
            Action::Invite => {
                self.say("making an invite…");
                vec![Effect::Call(Command::Invite {}, Then::Invite)]
            }
            Action::Join => self.fill(FieldFor::Join, argument),
            Action::Group => self.fill(FieldFor::Group, argument),
            Action::Name => self.fill(FieldFor::Name, argument),
            Action::Devices => vec![
                Effect::Call(Command::Devices {}, Then::Devices),
                Effect::Call(Command::LinkRequests {}, Then::LinkRequests),
            ],
            Action::Relays => vec![Effect::Call(Command::Relays {}, Then::Relays)],
            Action::Export => self.fill(FieldFor::Passphrase, ""),
            Action::Help => {
                self.popup = Some(Popup::Help { top: 0 });
                Vec::new()
            }
            Action::Quit => vec![Effect::Quit],
            _ => self.begin_inside(action, argument),
        }
    }

    /// The actions of an open conversation.
    fn begin_inside(&mut self, action: Action, argument: &str) -> Vec<Effect> {
        let Some(open) = self.opened() else { return Vec::new() };
        let (number, title, kind) = (open.number, open.title.clone(), open.kind);
        let account = open.account.clone().filter(|_| kind == ConversationKind::Direct);
        match action {
            Action::Mute | Action::Unmute => {
                let muted = action == Action::Mute;
                let command = Command::Mute { conversation: number, muted };
                let said = if muted { "muted" } else { "not muted any more" };
                vec![Effect::Call(command, Then::Say(format!("{title}: {said}")))]
            }
            Action::Rename => self.fill(FieldFor::Rename(number), argument),
            Action::Leave => self.ask(Question::new(
                "Leave this group",
                format!("You will read and write in \"{title}\" no more; the others see that."),
                "leave",
                "stay",
                QuestionFor::Leave(number),
            )),
            Action::Rejoin => {
                let command = Command::GroupRejoin { conversation: number };
                vec![Effect::Call(command, Then::Say("asked to be added again".to_owned()))]
            }
            Action::Disappear => self.pick_stay(number),
            Action::Add => self.pick_contacts(
                "Add whom?",
                "Enter adds the person; type to search.",
                argument,
                PickFor::Add(number),
            ),
            _ => match account {
                Some(account) if action != Action::Members => {
                    self.do_to_person(number, action, account, title, argument)
                }
                _ => {
                    let then =
                        Then::Members { conversation: number, action, narrow: argument.to_owned() };
                    vec![Effect::Call(Command::Members { conversation: number }, then)]
                }
            },
        }
    }

    /// What is done to one person.
    fn do_to_person(
        &mut self,
        conversation: ConversationNumber,
        action: Action,
        account: String,
        name: String,
        argument: &str,
    ) -> Vec<Effect> {
        match action {
            Action::Petname => self.fill(FieldFor::Petname(account), argument),
            Action::Unblock => {
                let said = Then::Say(format!("{name} can post to you again"));
                vec![Effect::Call(Command::Block { account, blocked: false }, said)]
            }
            Action::Block => self.ask(Question::new(
                "Block",
                format!("{name} can post to you no more, and is not told."),
                "block",
                "do not",
                QuestionFor::Block { account },
            )),
            Action::Accept => self.ask(Question::new(
                "A new identity",
                format!(
                    "The account of {name} has a new root key, and the old one did not sign it. \
                     It may be a lost device; it may be somebody else. Ask {name} in person, or \
                     by a way that you know, before you go on. Then compare words: /verify"
                ),
                "I know: go on",
                "not now",
                QuestionFor::Accept { account },
            )),
            Action::Remove => self.ask(Question::new(
                "Remove",
                format!("{name} reads and writes here no more; everybody sees that."),
                "remove",
                "do not",
                QuestionFor::Remove { conversation, account },
            )),
            _ => {
                let command = Command::Verify { account: account.clone() };
                vec![Effect::Call(command, Then::Words { account })]
            }
        }
    }

    /// A question is answered with yes.
    pub(super) fn agreed(&mut self, purpose: QuestionFor) -> Vec<Effect> {
        let (command, said) = match purpose {
            QuestionFor::NewRelay { link } => {
                self.say("following the link…");
                let command = Command::Join { link: link.clone(), allow_relay: true };
                return vec![Effect::Call(command, Then::Join { link })];
            }
            QuestionFor::AllowRelay { relay, allow } => {
                let said =
                    if allow { "allowed: what waited goes out" } else { "not contacted any more" };
                (Command::AllowRelay { relay, allow }, said)
            }
            QuestionFor::Leave(conversation) => {
                (Command::GroupLeave { conversation }, "you have left")
            }
            QuestionFor::Remove { conversation, account } => {
                (Command::GroupRemove { conversation, account }, "removed")
            }
            QuestionFor::Block { account } => {
                (Command::Block { account, blocked: true }, "blocked")
            }
            QuestionFor::Accept { account } => {
                (Command::AcceptIdentity { account }, "accepted: now compare words with /verify")
            }
            QuestionFor::RemoveDevice { device } => {
                (Command::RemoveDevice { device }, "the device is removed")
            }
            QuestionFor::LinkDevice { request } => {
                let command = Command::ConfirmLink { device: request.device, accept: true };
                (command, "linked: the new device is yours")
            }
        };
        vec![Effect::Call(command, Then::Say(said.to_owned()))]
    }

    /// A question is answered with no.
    pub(super) fn declined(&mut self, purpose: QuestionFor) -> Vec<Effect> {
        let QuestionFor::LinkDevice { request } = purpose else { return Vec::new() };
        let command = Command::ConfirmLink { device: request.device, accept: false };
        vec![Effect::Call(command, Then::Say("refused: the device is not linked".to_owned()))]
    }

    /// A field is filled in.
    pub(super) fn filled(&mut self, purpose: FieldFor, value: String) -> Vec<Effect> {
        let (command, then) = match purpose {
            FieldFor::Join => {
                self.say("following the link…");
                let command = Command::Join { link: value.clone(), allow_relay: false };
                (command, Then::Join { link: value })
            }
            FieldFor::Group => {
                let purpose = PickFor::Group { name: value };
                let hint = "Space ticks, Enter starts the group; people can be added later.";
                return self.pick_contacts("Who is in it?", hint, "", purpose);
            }
            FieldFor::Rename(conversation) => {
                (Command::GroupRename { conversation, name: value }, said("renamed"))
            }
            FieldFor::Petname(account) => {
                (Command::Petname { account, name: value }, said("only you see this name"))
            }
            FieldFor::Name => {
                self.name.clone_from(&value);
                (Command::Rename { name: value }, said("that is your name now"))
            }
            FieldFor::Passphrase if value.chars().count() < PASSPHRASE_MIN => {
                self.say(format!("at least {PASSPHRASE_MIN} characters, better some words"));
                return self.fill(FieldFor::Passphrase, "");
            }
            FieldFor::Passphrase => return self.fill(FieldFor::PassphraseAgain(value), ""),
            FieldFor::PassphraseAgain(first) if first != value => {
                self.say("the two were not the same: once more");
                return self.fill(FieldFor::Passphrase, "");
            }
            FieldFor::PassphraseAgain(_) => {
                self.say("saving…");
                (Command::Export { passphrase: value }, Then::Exported)
            }
        };
        vec![Effect::Call(command, then)]
    }

    /// Something was picked.
    pub(super) fn picked(&mut self, pick: Pick) -> Vec<Effect> {
        if let PickFor::Group { name } = pick.purpose {
            let ticked = pick.items.into_iter().filter(|item| item.ticked);
            let members = ticked.map(|item| item.id).collect();
            return vec![Effect::Call(Command::GroupCreate { name, members }, Then::Created)];
        }
        let Some(item) = pick.current().map(|at| pick.items[at].clone()) else {
            self.popup = Some(Popup::Pick(pick));
            return Vec::new();
        };
        match pick.purpose {
            PickFor::Add(conversation) => {
                let then = Then::Say(format!("{} is added", item.label));
                vec![Effect::Call(Command::GroupAdd { conversation, account: item.id }, then)]
            }
            PickFor::Person(..) if item.id.is_empty() => Vec::new(),
            PickFor::Person(conversation, action) => {
                self.do_to_person(conversation, action, item.id, item.label, "")
            }
            PickFor::Disappear(conversation) => {
                let seconds = item.id.parse().unwrap_or(0);
                let then = Then::Say(format!("new messages: {}", item.label));
                vec![Effect::Call(Command::Disappear { conversation, seconds }, then)]
            }
            PickFor::Device if item.id.is_empty() => {
                vec![Effect::Call(Command::LinkDevice { join_code: None }, Then::DeviceLink)]
            }
            PickFor::Device if item.id == "this" => {
                self.say("this is the device you sit at: remove it from another one");
                Vec::new()
            }
            PickFor::Relay if item.id.is_empty() => Vec::new(),
            PickFor::Relay if item.ticked => self.ask(Question::new(
                "A relay of others",
                format!("{} is not contacted any more. What is for it waits.", item.label),
                "forbid",
                "keep",
                QuestionFor::AllowRelay { relay: item.id, allow: false },
            )),
            PickFor::Relay => {
                let people = item.detail.split_once(": ").map(|(_, people)| people.to_owned());
                let people = people.into_iter().collect();
                self.ask_relay(Relay { relay: item.id, allowed: false, own: false, people });
                Vec::new()
            }
            PickFor::Device => self.ask(Question::new(
                "Remove a device",
                format!("\"{}\" will read and write no more for this account.", item.label),
                "remove",
                "keep",
                QuestionFor::RemoveDevice { device: item.id },
            )),
            PickFor::Group { .. } => Vec::new(),
        }
    }

    /// The words were compared.
    pub(super) fn compared(&mut self, card: WordsCard, verified: bool) -> Vec<Effect> {
        let command = Command::MarkVerified { account: card.account, verified };
        vec![Effect::Call(command, Then::Marked { name: card.name, verified })]
    }

    /// Asks for a line of text. What follows the command's name is the answer already.
    pub(super) fn fill(&mut self, purpose: FieldFor, given: &str) -> Vec<Effect> {
        if !given.is_empty() {
            return self.filled(purpose, given.to_owned());
        }
        let (title, hint, value) = match &purpose {
            FieldFor::Join => ("Join", "Paste the link: valise://…", ""),
            FieldFor::Group => ("A new group", "Its name, as everybody in it sees it.", ""),
            FieldFor::Rename(_) => ("Rename the group", "Everybody in it sees this name.", ""),
            FieldFor::Petname(_) => {
                ("A name of your own", "Only you see it; empty: the person's own name again.", "")
            }
            FieldFor::Name => ("Your name", "As others see it.", self.name.as_str()),
            FieldFor::Passphrase => (
                "Save the account",
                "A passphrase for the file: some words that nobody guesses. Without it the file \
                 is worth nothing.",
                "",
            ),
            FieldFor::PassphraseAgain(_) => ("Save the account", "The same passphrase again.", ""),
        };
        self.popup = Some(Popup::Field(Field::new(title, hint, value, purpose)));
        Vec::new()
    }

    fn ask(&mut self, question: Question) -> Vec<Effect> {
        self.popup = Some(Popup::Question(question));
        Vec::new()
    }

    fn pick_stay(&mut self, conversation: ConversationNumber) -> Vec<Effect> {
        let items = STAYS.iter().map(|(seconds, label)| Item {
            id: seconds.to_string(),
            label: (*label).to_owned(),
            ..Item::default()
        });
        let hint = "From now on messages go so long after they were seen, on all sides.";
        let purpose = PickFor::Disappear(conversation);
        self.popup = Some(Popup::Pick(Pick::new("Disappear", hint, items.collect(), purpose)));
        Vec::new()
    }

    fn pick_contacts(
        &mut self,
        title: &str,
        hint: &str,
        narrow: &str,
        purpose: PickFor,
    ) -> Vec<Effect> {
        let items = self.contacts.iter().filter(|contact| !contact.blocked).map(|contact| Item {
            id: contact.account.clone(),
            label: match contact.petname.as_str() {
                "" => contact.name.clone(),
                petname => petname.to_owned(),
            },
            detail: if contact.verified { "verified" } else { "" }.to_owned(),
            ticked: false,
        });
        let mut pick = Pick::new(title, hint, items.collect(), purpose);
        pick.query.insert_line(narrow);
        self.popup = Some(Popup::Pick(pick));
        Vec::new()
    }
}

fn said(text: &str) -> Then {
    Then::Say(text.to_owned())
}
