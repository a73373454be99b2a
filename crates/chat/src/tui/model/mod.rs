//! What the terminal shows, as a value: inputs change it, and what has to be done outside comes
//! back as effects. Nothing here waits, reads a clock or draws.

mod act;
pub(crate) mod action;
mod answer;
pub(crate) mod composer;
mod event;
mod keys;
pub(crate) mod popup;
mod popup_keys;
pub(crate) mod room;

use std::collections::HashMap;

use ratatui::crossterm::event::KeyEvent;
use ratatui::layout::Size;
use serde_json::Value;
use valise_chat_core::api::{
    Command, Connection, Contact, Conversation, ConversationNumber, Event, Refusal,
};

pub(crate) use answer::Then;

use self::popup::{LinkCard, Popup};
use self::room::{Known, PAGE, Place, Room};
use super::clock::Clock;
use super::view::{layout, rows};

/// A message counts as seen when its conversation has been open so long: going past is not reading.
const DWELL_MS: u64 = 400;
/// How long a word in the status line stays.
const TOAST_MS: u64 = 6_000;

/// Something has happened.
#[derive(Debug)]
pub(crate) enum Input {
    Key(KeyEvent),
    /// Text from the clipboard.
    Paste(String),
    Resize(Size),
    /// Whether the terminal's window has the focus, where the terminal says so.
    Focus(bool),
    Event(Event),
    /// The answer to an effect.
    Answer(Then, Result<Value, Refusal>),
    /// A file was written, or why not.
    Written(Result<String, String>),
    /// Events may have been missed: everything is asked for again.
    Refresh,
    /// Time has passed.
    Tick,
}

/// Something is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    Call(Command, Then),
    /// A new file, for this user's eyes only.
    Write {
        name: String,
        contents: Vec<u8>,
    },
    /// Into the terminal's clipboard.
    Copy(String),
    /// The screen is drawn anew: something else wrote on it.
    Repaint,
    Quit,
}

/// Which side has the keys where only one is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pane {
    List,
    Talk,
}

/// Everything the screen shows.
#[derive(Debug)]
pub(crate) struct Model {
    // Static.
    pub(crate) clock: Clock,
    /// No colour where the user wants none.
    pub(crate) colour: bool,

    // As the engine says.
    pub(crate) name: String,
    pub(crate) relay: String,
    pub(crate) connection: Connection,
    /// When an offline engine tries again.
    pub(crate) retry_at_ms: u64,
    /// The one with the newest message first.
    pub(crate) conversations: Vec<Conversation>,
    pub(crate) contacts: Vec<Contact>,
    /// The list of conversations has come once.
    pub(crate) ready: bool,

    // Of the screen.
    pub(crate) now_ms: u64,
    pub(crate) size: Size,
    pub(crate) pane: Pane,
    pub(crate) open: Option<ConversationNumber>,
    /// To be opened as soon as it is known.
    wanted: Option<ConversationNumber>,
    pub(crate) rooms: HashMap<ConversationNumber, Room>,
    pub(crate) popup: Option<Popup>,
    toast: Option<(String, u64)>,
    focused: bool,
    /// `Ctrl-C` until then means it.
    quit_until_ms: u64,
}

impl Model {
    pub(crate) fn new(clock: Clock, colour: bool, size: Size) -> Self {
        Self {
            clock,
            colour,
            name: String::new(),
            relay: String::new(),
            connection: Connection::Connecting,
            retry_at_ms: 0,
            conversations: Vec::new(),
            contacts: Vec::new(),
            ready: false,
            now_ms: 0,
            size,
            pane: Pane::List,
            open: None,
            wanted: None,
            rooms: HashMap::new(),
            popup: None,
            toast: None,
            focused: true,
            quit_until_ms: 0,
        }
    }

    /// What is asked first.
    pub(crate) fn start(&self) -> Vec<Effect> {
        vec![
            Effect::Call(Command::Status {}, Then::Status),
            Effect::Call(Command::Conversations {}, Then::Conversations),
            Effect::Call(Command::Contacts {}, Then::Contacts),
            Effect::Call(Command::LinkRequests {}, Then::LinkRequests),
        ]
    }

    /// One step.
    pub(crate) fn update(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        self.now_ms = now_ms;
        let mut effects = match input {
            Input::Key(key) => self.key(key),
            Input::Paste(text) => self.paste(&text),
            Input::Resize(size) => {
                // Where only one side is left, it is the one that had the keys.
                if !layout::is_narrow(self.size) && self.open.is_some() {
                    self.pane = Pane::Talk;
                }
                self.size = size;
                Vec::new()
            }
            Input::Focus(focused) => {
                self.focused = focused;
                Vec::new()
            }
            Input::Event(event) => self.event(event),
            Input::Answer(then, answer) => self.answer(then, answer),
            Input::Written(result) => self.written(result),
            Input::Refresh => {
                self.rooms.values_mut().for_each(Room::forget);
                self.start()
            }
            Input::Tick => Vec::new(),
        };
        if self.toast.as_ref().is_some_and(|(_, until)| *until <= now_ms) {
            self.toast = None;
        }
        effects.extend(self.settle());
        effects
    }

    /// The conversation that is open.
    pub(crate) fn opened(&self) -> Option<&Conversation> {
        self.open.and_then(|number| self.conversation(number))
    }

    pub(crate) fn conversation(&self, number: ConversationNumber) -> Option<&Conversation> {
        self.conversations.iter().find(|conversation| conversation.number == number)
    }

    /// What the open conversation holds.
    pub(crate) fn room(&self) -> Option<&Room> {
        self.open.and_then(|number| self.rooms.get(&number))
    }

    /// Messages not read, over all conversations that are not muted.
    pub(crate) fn unread(&self) -> u64 {
        self.conversations.iter().filter(|known| !known.muted).map(|known| known.unread).sum()
    }

    pub(crate) fn toast(&self) -> Option<&str> {
        self.toast.as_ref().map(|(text, _)| text.as_str())
    }

    /// Whether the messages of the open conversation are on the screen.
    pub(crate) fn shows_talk(&self) -> bool {
        self.open.is_some() && (self.pane == Pane::Talk || !layout::is_narrow(self.size))
    }

    fn room_mut(&mut self) -> Option<&mut Room> {
        self.open.and_then(|number| self.rooms.get_mut(&number))
    }

    fn say(&mut self, text: impl Into<String>) {
        self.toast = Some((text.into(), self.now_ms + TOAST_MS));
    }

    /// Opens a conversation; messages are asked for when `settle` sees that there are none.
    fn show(&mut self, number: ConversationNumber) {
        self.pane = Pane::Talk;
        if self.open == Some(number) {
            return;
        }
        if let Some(room) = self.room_mut() {
            room.new_from = None;
            room.trim();
        }
        self.open = Some(number);
        let unread = self.conversation(number).map_or(0, |conversation| conversation.unread);
        let now_ms = self.now_ms;
        let room = self.rooms.entry(number).or_default();
        room.opened_ms = now_ms;
        room.mark_new(unread);
    }

    /// What follows from what is now on the screen: messages to be asked for, and those that were seen.
    fn settle(&mut self) -> Vec<Effect> {
        self.notice_followed_invite();
        if let Some(wanted) =
            self.wanted.take_if(|w| self.conversations.iter().any(|c| c.number == *w))
        {
            self.show(wanted);
        }
        if self.open.is_none_or(|open| self.conversation(open).is_none()) {
            self.open = None;
            if let Some(first) = self.conversations.first().map(|known| known.number) {
                self.show(first);
            }
            self.pane = Pane::List;
        }
        let mut effects = Vec::new();
        effects.extend(self.ask_for_messages());
        effects.extend(self.mark_read());
        effects
    }

    /// The invite on the screen has done its work: on to the person.
    fn notice_followed_invite(&mut self) {
        let Some(Popup::Link(LinkCard { invites_after: Some(after), .. })) = self.popup else {
            return;
        };
        if let Some(new) = self.conversations.iter().find(|known| known.number > after) {
            let words = format!("{} is here: say hello", new.title);
            self.wanted = Some(new.number);
            self.popup = None;
            self.say(words);
        }
    }

    /// The first page, or older ones when the top is near.
    fn ask_for_messages(&mut self) -> Option<Effect> {
        if !self.shows_talk() {
            return None;
        }
        let number = self.open?;
        let room = self.rooms.get(&number)?;
        let before = match room.known {
            Known::Nothing => None,
            Known::Some if self.top_is_near(room) => Some(room.oldest()?),
            _ => return None,
        };
        self.rooms.get_mut(&number)?.known = Known::Asked;
        let command = Command::Messages { conversation: number, before, limit: PAGE };
        Some(Effect::Call(command, Then::Messages { conversation: number, before }))
    }

    fn top_is_near(&self, room: &Room) -> bool {
        let view = layout::messages(self);
        let rows = rows::rows(self, room, view.width);
        rows::top(&rows, room.place, view.height) < usize::from(view.height)
    }

    fn mark_read(&mut self) -> Option<Effect> {
        if !self.shows_talk() || !self.focused || self.popup.is_some() {
            return None;
        }
        let number = self.open?;
        let unread = self.opened()?.unread;
        let now_ms = self.now_ms;
        let room = self.rooms.get_mut(&number)?;
        let up_to = room.newest()?;
        let foreign = room.messages().iter().any(|m| m.number > room.read_up_to && !m.mine);
        let seen = room.place == Place::End && now_ms >= room.opened_ms + DWELL_MS;
        if !seen || up_to <= room.read_up_to || (unread == 0 && !foreign) {
            return None;
        }
        room.read_up_to = up_to;
        if let Some(known) = self.conversations.iter_mut().find(|c| c.number == number) {
            known.unread = 0;
        }
        Some(Effect::Call(Command::Read { conversation: number, up_to }, Then::Nothing))
    }
}
