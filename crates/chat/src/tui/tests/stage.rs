//! A model with people in it, keys for it, and its picture as text.

use std::fmt::Write as _;
use std::path::PathBuf;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Size;
use serde::Serialize;
use valise_chat_core::api::{
    Command, Connection, Contact, Conversation, ConversationKind, Message, MessageKind,
    MessageState, Refusal, Status,
};

use crate::tui::clock::Clock;
use crate::tui::model::{Effect, Input, Model, Then};
use crate::tui::view;

/// Tuesday 24 November 2026, 12:00 UTC.
pub(super) const NOON: u64 = 1_795_521_600_000;
pub(super) const MINUTE: u64 = 60_000;
pub(super) const DAY: u64 = 86_400_000;

/// A model that is played with.
pub(super) struct Stage {
    pub(super) model: Model,
    pub(super) now: u64,
    /// What it has asked for and nobody has taken.
    pub(super) effects: Vec<Effect>,
}

impl Stage {
    /// Nobody is there yet; the engine has answered.
    pub(super) fn empty(width: u16, height: u16) -> Self {
        let mut model = Model::new(Clock::utc(), true, Size::new(width, height));
        model.update(NOON, Input::Tick);
        let mut stage = Self { model, now: NOON, effects: Vec::new() };
        stage.answer(Then::Status, &status());
        stage.answer(Then::Conversations, &Vec::<Conversation>::new());
        stage
    }

    /// Bob, a group and Carol; Bob's conversation is open and loaded.
    pub(super) fn peopled(width: u16, height: u16) -> Self {
        let mut stage = Self::empty(width, height);
        stage.answer(Then::Conversations, &conversations());
        stage.answer(Then::Contacts, &contacts());
        stage.load(1, talk());
        stage
    }

    /// The messages of a conversation have come.
    pub(super) fn load(&mut self, conversation: i64, messages: Vec<Message>) {
        self.answer(Then::Messages { conversation, before: None }, &messages);
        self.effects.clear();
    }

    pub(super) fn input(&mut self, input: Input) {
        let effects = self.model.update(self.now, input);
        self.effects.extend(effects);
    }

    pub(super) fn answer(&mut self, then: Then, value: &impl Serialize) {
        self.input(Input::Answer(then, Ok(serde_json::to_value(value).unwrap())));
    }

    pub(super) fn refuse(&mut self, then: Then, code: &str, message: &str) {
        let refusal = Refusal { code: code.to_owned(), message: message.to_owned() };
        self.input(Input::Answer(then, Err(refusal)));
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.input(Input::Tick);
    }

    pub(super) fn press(&mut self, code: KeyCode) {
        self.press_with(code, KeyModifiers::NONE);
    }

    pub(super) fn press_with(&mut self, code: KeyCode, modifiers: KeyModifiers) {
        self.input(Input::Key(KeyEvent::new(code, modifiers)));
    }

    pub(super) fn ctrl(&mut self, letter: char) {
        self.press_with(KeyCode::Char(letter), KeyModifiers::CONTROL);
    }

    pub(super) fn type_text(&mut self, text: &str) {
        for letter in text.chars() {
            self.press(KeyCode::Char(letter));
        }
    }

    pub(super) fn resize(&mut self, width: u16, height: u16) {
        self.input(Input::Resize(Size::new(width, height)));
    }

    /// The commands asked for since the last call.
    pub(super) fn commands(&mut self) -> Vec<Command> {
        let effects = std::mem::take(&mut self.effects);
        let calls = effects.into_iter().filter_map(|effect| match effect {
            Effect::Call(command, _) => Some(command),
            _ => None,
        });
        calls.collect()
    }

    pub(super) fn draw(&self) -> TestBackend {
        let size = self.model.size;
        let mut terminal = Terminal::new(TestBackend::new(size.width, size.height)).unwrap();
        terminal.draw(|frame| view::draw(&self.model, frame)).unwrap();
        terminal.backend().clone()
    }

    /// What is seen, row by row. A wide character takes two cells and is written once.
    pub(super) fn picture(&self) -> String {
        let backend = self.draw();
        let buffer = backend.buffer();
        let mut picture = String::new();
        for y in 0..buffer.area.height {
            let mut row = String::new();
            let mut skip = 0;
            for x in 0..buffer.area.width {
                let symbol = buffer[(x, y)].symbol();
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                row.push_str(symbol);
                skip = crate::tui::text::width(symbol).saturating_sub(1);
            }
            writeln!(picture, "{}", row.trim_end()).unwrap();
        }
        picture
    }

    /// Compares the picture with the committed one; VALISE_WRITE_SNAPSHOTS=1 commits it anew.
    pub(super) fn assert_picture(&self, name: &str) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let path = path.join("tests/tui").join(format!("{name}.txt"));
        let picture = self.picture();
        if std::env::var_os("VALISE_WRITE_SNAPSHOTS").is_some_and(|value| value == "1") {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &picture).unwrap();
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(known == picture, "{name} looks different now:\n{picture}\nit was:\n{known}");
    }
}

fn status() -> Status {
    Status {
        name: "Alice".to_owned(),
        account: "alice".to_owned(),
        device: "device".to_owned(),
        relay: "valise://relay.example:7443/realm".to_owned(),
        connection: Connection::Online,
        unread: 0,
        sending: 0,
    }
}

pub(super) fn conversations() -> Vec<Conversation> {
    let mut group = conversation(2, "Book club", 3);
    group.kind = ConversationKind::Group;
    group.account = None;
    group.members = 5;
    group.last = Some(text(2, 40, "Dana", "shall we read Lem next?", NOON - DAY));
    let mut carol = conversation(3, "Carol", 0);
    carol.muted = true;
    carol.last = Some(mine(3, 12, "bye", NOON - 9 * DAY, MessageState::Read));
    let mut bob = conversation(1, "Bob", 0);
    bob.verified = true;
    bob.last = talk().pop();
    vec![bob, group, carol]
}

pub(super) fn conversation(number: i64, title: &str, unread: u64) -> Conversation {
    Conversation {
        number,
        kind: ConversationKind::Direct,
        title: title.to_owned(),
        account: Some(title.to_lowercase()),
        members: 2,
        unread,
        last: None,
        muted: false,
        blocked: false,
        verified: false,
        disappear_seconds: 0,
        closed: None,
        waiting: None,
    }
}

fn contacts() -> Vec<Contact> {
    let contact = |name: &str, petname: &str, verified| Contact {
        account: name.to_lowercase(),
        name: name.to_owned(),
        petname: petname.to_owned(),
        verified,
        blocked: false,
        conversation: None,
        identity_reset: false,
    };
    vec![contact("Bob", "", true), contact("Carol", "", false), contact("Dana", "D.", false)]
}

/// Bob's conversation.
pub(super) fn talk() -> Vec<Message> {
    vec![
        notice(1, 1, "Bob has joined", NOON - DAY - 90 * MINUTE),
        text(1, 2, "Bob", "hi! does this work?", NOON - DAY - 60 * MINUTE),
        mine(1, 3, "it does 🎉", NOON - DAY - 59 * MINUTE, MessageState::Read),
        mine(
            1,
            4,
            "Now to something longer, so that we see how a text is broken into rows where the \
             window ends and not somewhere in a word.",
            NOON - DAY - 58 * MINUTE,
            MessageState::Read,
        ),
        text(1, 5, "Bob", "漢字 and 👨‍👩‍👧 and שלום and e\u{301}", NOON - 50 * MINUTE),
        text(1, 6, "Bob", "two\nlines", NOON - 49 * MINUTE),
        mine(1, 7, "see you at eight", NOON - 5 * MINUTE, MessageState::Delivered),
        mine(1, 8, "bring the book", NOON - 4 * MINUTE, MessageState::Relayed),
        mine(1, 9, "and the cake", NOON - MINUTE, MessageState::Sending),
    ]
}

pub(super) fn text(conversation: i64, number: i64, name: &str, text: &str, at: u64) -> Message {
    Message {
        number,
        conversation,
        kind: MessageKind::Text,
        account: name.to_lowercase(),
        name: name.to_owned(),
        mine: false,
        sent_ms: at,
        text: text.to_owned(),
        state: MessageState::Received,
        disappears_ms: None,
    }
}

pub(super) fn mine(
    conversation: i64,
    number: i64,
    words: &str,
    at: u64,
    state: MessageState,
) -> Message {
    Message { mine: true, state, ..text(conversation, number, "Alice", words, at) }
}

pub(super) fn notice(conversation: i64, number: i64, words: &str, at: u64) -> Message {
    Message { kind: MessageKind::Notice, ..text(conversation, number, "", words, at) }
}
