//! What lies over the conversation and has the keys: lists to pick from, questions, fields, links,
//! words to compare, help. Each knows what its answer is for; acting on it is the model's.

use valise_chat_core::api::{Conversation, ConversationNumber, LinkRequest};

use super::action::{Action, ENTRIES};
use super::composer::Composer;
use crate::tui::text;

/// The one that lies on top.
#[derive(Debug, Clone)]
pub(crate) enum Popup {
    /// Conversations and commands, by typing.
    Palette(Palette),
    Pick(Pick),
    Field(Field),
    Question(Question),
    Link(LinkCard),
    Words(WordsCard),
    Help {
        /// The first row seen.
        top: usize,
    },
}

/// Finds a conversation or a command by typing some of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Palette {
    pub(crate) query: Composer,
    pub(crate) selected: usize,
    /// Opened by `/`: commands only, and the rest of the line is the command's argument.
    pub(crate) slash: bool,
}

/// A line of the palette.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Conversation(ConversationNumber),
    Action(Action),
}

impl Palette {
    /// What fits the query, best first.
    pub(crate) fn targets(
        &self,
        conversations: &[Conversation],
        open: Option<&Conversation>,
    ) -> Vec<Target> {
        let query = self.query.text().to_lowercase();
        let word = if self.slash { query.split(' ').next().unwrap_or_default() } else { &query };
        let mut found = Vec::new();
        if !self.slash {
            for (at, conversation) in conversations.iter().enumerate() {
                if let Some(rank) = rank(word, &conversation.title.to_lowercase()) {
                    found.push((rank, at, Target::Conversation(conversation.number)));
                }
            }
        }
        for (at, entry) in ENTRIES.iter().enumerate().filter(|(_, entry)| entry.action.fits(open)) {
            let by_name = rank(word, entry.name);
            let by_words = (!self.slash).then(|| rank(word, entry.about).map(|rank| rank + 3));
            if let Some(rank) = by_name.or(by_words.flatten()) {
                found.push((rank, 1_000_000 + at, Target::Action(entry.action)));
            }
        }
        found.sort_by_key(|(rank, at, _)| (*rank, *at));
        found.into_iter().map(|(_, _, target)| target).collect()
    }

    /// What follows the command's name.
    pub(crate) fn argument(&self) -> String {
        let query = self.query.text();
        let rest = if self.slash { query.split_once(' ').map(|(_, rest)| rest) } else { None };
        rest.unwrap_or_default().trim().to_owned()
    }
}

/// How well the query fits: at the beginning, at a word's beginning, anywhere, scattered.
fn rank(query: &str, text: &str) -> Option<u8> {
    let mut letters = text.chars();
    if text.starts_with(query) {
        Some(0)
    } else if text.split(' ').any(|word| word.starts_with(query)) {
        Some(1)
    } else if text.contains(query) {
        Some(2)
    } else if query.len() > 1 && query.chars().all(|c| letters.any(|letter| letter == c)) {
        Some(6)
    } else {
        None
    }
}

/// Something is picked from a list; typing narrows it.
#[derive(Debug, Clone)]
pub(crate) struct Pick {
    pub(crate) title: String,
    /// What to do, in plain words.
    pub(crate) hint: String,
    pub(crate) items: Vec<Item>,
    pub(crate) query: Composer,
    pub(crate) selected: usize,
    pub(crate) purpose: PickFor,
}

/// A line to pick.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Item {
    /// Account, device, or seconds.
    pub(crate) id: String,
    pub(crate) label: String,
    pub(crate) detail: String,
    /// Ticked, where several can be picked.
    pub(crate) ticked: bool,
}

/// What is done with what was picked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PickFor {
    /// Ticked people become a group.
    Group {
        name: String,
    },
    Add(ConversationNumber),
    /// The action is done to this person.
    Person(ConversationNumber, Action),
    Disappear(ConversationNumber),
    Device,
    /// One that is ticked may be contacted.
    Relay,
}

impl Pick {
    pub(crate) fn new(title: &str, hint: &str, items: Vec<Item>, purpose: PickFor) -> Self {
        let (title, hint) = (title.to_owned(), hint.to_owned());
        Self { title, hint, items, query: Composer::default(), selected: 0, purpose }
    }

    /// The items that fit what was typed, by their place in `items`.
    pub(crate) fn fitting(&self) -> Vec<usize> {
        let query = self.query.text().to_lowercase();
        let fits = |item: &Item| rank(&query, &item.label.to_lowercase()).is_some_and(|r| r < 6);
        (0..self.items.len()).filter(|at| fits(&self.items[*at])).collect()
    }

    /// The one under the mark.
    pub(crate) fn current(&self) -> Option<usize> {
        self.fitting().get(self.selected).copied()
    }

    pub(crate) fn takes_several(&self) -> bool {
        matches!(self.purpose, PickFor::Group { .. })
    }
}

/// One line to fill in.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) title: String,
    pub(crate) hint: String,
    pub(crate) input: Composer,
    pub(crate) purpose: FieldFor,
}

/// What the line is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FieldFor {
    Join,
    Group,
    Rename(ConversationNumber),
    Petname(String),
    Name,
    Passphrase,
    /// The same once more, against slips of the finger.
    PassphraseAgain(String),
}

impl Field {
    pub(crate) fn new(title: &str, hint: &str, value: &str, purpose: FieldFor) -> Self {
        let (title, hint) = (title.to_owned(), hint.to_owned());
        let mut input = Composer::default();
        input.insert_line(value);
        Self { title, hint, input, purpose }
    }

    /// What is typed is not shown.
    pub(crate) fn is_secret(&self) -> bool {
        matches!(self.purpose, FieldFor::Passphrase | FieldFor::PassphraseAgain(_))
    }
}

/// Yes or no; `Esc` decides nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Question {
    pub(crate) title: String,
    pub(crate) text: String,
    pub(crate) yes: String,
    pub(crate) no: String,
    pub(crate) purpose: QuestionFor,
}

/// What a yes does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum QuestionFor {
    NewRelay { link: String },
    AllowRelay { relay: String, allow: bool },
    Leave(ConversationNumber),
    Remove { conversation: ConversationNumber, account: String },
    Block { account: String },
    Accept { account: String },
    RemoveDevice { device: String },
    LinkDevice { request: LinkRequest },
}

impl Question {
    pub(crate) fn new(
        title: &str,
        text: String,
        yes: &str,
        no: &str,
        purpose: QuestionFor,
    ) -> Self {
        let (title, yes, no) = (title.to_owned(), yes.to_owned(), no.to_owned());
        Self { title, text, yes, no, purpose }
    }
}

/// A link, as text and as QR code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkCard {
    pub(crate) title: String,
    pub(crate) hint: String,
    pub(crate) link: String,
    /// An invite: a conversation with a larger number than this one is what it led to.
    pub(crate) invites_after: Option<ConversationNumber>,
    /// Only the code is shown: as large as it needs.
    pub(crate) bare: bool,
}

/// The words two people compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WordsCard {
    pub(crate) account: String,
    pub(crate) name: String,
    pub(crate) words: Vec<String>,
    pub(crate) verified: bool,
    pub(crate) next: String,
}

impl Popup {
    /// Text is pasted into a field, as one line; never acted on.
    pub(crate) fn paste(&mut self, text: &str) {
        let line = text::one_line(text);
        match self {
            Self::Palette(palette) => drop(palette.query.insert_line(&line)),
            Self::Pick(pick) => drop(pick.query.insert_line(&line)),
            Self::Field(field) => drop(field.input.insert_line(&line)),
            _ => {}
        }
    }
}
