//! One conversation as it lies open: its messages, the place in them, and the draft.

use valise_chat_core::api::{Message, MessageKind, MessageNumber, MessageState};

use super::composer::Composer;

/// Messages asked for at a time.
pub(crate) const PAGE: u32 = 100;
/// More than this is let go when the reader is back at the end.
const KEPT: usize = 500;

/// The first row that is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Place {
    /// The newest message is seen, whatever comes.
    #[default]
    End,
    /// This row of this message is at the top, whatever comes.
    At {
        /// The message.
        message: MessageNumber,
        /// Its row; separators and names above it count.
        part: usize,
    },
}

/// What is known of the messages so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Known {
    /// Nothing was asked.
    #[default]
    Nothing,
    /// The answer is on its way.
    Asked,
    /// There may be older ones.
    Some,
    /// From the first one on.
    All,
}

/// A conversation's messages, place and draft.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room {
    messages: Vec<Message>,
    pub(crate) known: Known,
    pub(crate) place: Place,
    pub(crate) draft: Composer,
    /// The first message that was new when the conversation was opened.
    pub(crate) new_from: Option<MessageNumber>,
    /// What `Read` was last said of.
    pub(crate) read_up_to: MessageNumber,
    /// When it was opened.
    pub(crate) opened_ms: u64,
}

impl Room {
    /// In order.
    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub(crate) fn newest(&self) -> Option<MessageNumber> {
        self.messages.last().map(|message| message.number)
    }

    pub(crate) fn oldest(&self) -> Option<MessageNumber> {
        self.messages.first().map(|message| message.number)
    }

    pub(crate) fn is_loaded(&self) -> bool {
        matches!(self.known, Known::Some | Known::All) || !self.messages.is_empty()
    }

    /// A message that is new, or has changed.
    pub(crate) fn put(&mut self, message: Message) {
        if message.state == MessageState::Gone {
            return self.remove(message.number);
        }
        match self.messages.binary_search_by_key(&message.number, |known| known.number) {
            Ok(at) => self.messages[at] = message,
            Err(at) => self.messages.insert(at, message),
        }
    }

    /// A page of messages has come. Without `before` it is the end.
    pub(crate) fn put_page(&mut self, page: Vec<Message>) {
        self.known = if page.len() < PAGE as usize { Known::All } else { Known::Some };
        for message in page {
            self.put(message);
        }
    }

    /// Nothing is known any more, except the draft and the place.
    pub(crate) fn forget(&mut self) {
        self.messages.clear();
        self.known = Known::Nothing;
        self.place = Place::End;
    }

    pub(crate) fn state(&mut self, number: MessageNumber, state: MessageState) {
        if state == MessageState::Gone {
            return self.remove(number);
        }
        if let Ok(at) = self.messages.binary_search_by_key(&number, |message| message.number) {
            self.messages[at].state = state;
        }
    }

    /// Marks where the last so many messages of others begin.
    pub(crate) fn mark_new(&mut self, unread: u64) {
        let texts = self.messages.iter().rev().filter(|message| counts(message));
        let nth = usize::try_from(unread).unwrap_or(usize::MAX).checked_sub(1);
        self.new_from = nth.and_then(|nth| texts.map(|message| message.number).nth(nth));
    }

    /// At the end again, what is far above is let go; it can be asked for anew.
    pub(crate) fn trim(&mut self) {
        if self.place == Place::End && self.messages.len() > KEPT {
            self.messages.drain(..self.messages.len() - KEPT);
            self.known = Known::Some;
        }
    }

    fn remove(&mut self, number: MessageNumber) {
        let Ok(at) = self.messages.binary_search_by_key(&number, |message| message.number) else {
            return;
        };
        self.messages.remove(at);
        // The place and the mark go to what has moved up.
        let next = self.messages.get(at).map(|message| message.number);
        if matches!(self.place, Place::At { message, .. } if message == number) {
            self.place = next.map_or(Place::End, |message| Place::At { message, part: 0 });
        }
        if self.new_from == Some(number) {
            self.new_from = next;
        }
    }
}

/// Whether a message counts as unread before it was seen.
fn counts(message: &Message) -> bool {
    !message.mine && message.kind == MessageKind::Text
}
