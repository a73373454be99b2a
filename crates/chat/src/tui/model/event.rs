//! What the engine tells by itself.

use valise_chat_core::api::{Conversation, Event, Message};

use super::room::Place;
use super::{Command, Effect, Model, Then};

impl Model {
    pub(super) fn event(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Connection(connection) => self.set_connection(connection),
            Event::Message { message } => return self.message(message),
            Event::MessageState { conversation, message, state } => {
                if let Some(room) = self.rooms.get_mut(&conversation) {
                    room.state(message, state);
                }
                let last = self.conversation_mut(conversation).and_then(|c| c.last.as_mut());
                if let Some(last) = last.filter(|last| last.number == message) {
                    last.state = state;
                }
            }
            Event::Conversation { conversation } => return self.changed(conversation),
            Event::Relay { relay } => self.ask_relay(relay),
            Event::LinkRequest { request } => self.ask_link(request),
            Event::Notice { text } => self.say(text),
        }
        Vec::new()
    }

    fn message(&mut self, message: Message) -> Vec<Effect> {
        let number = message.conversation;
        let Some(at) = self.conversations.iter().position(|known| known.number == number) else {
            return vec![Effect::Call(Command::Conversations {}, Then::Conversations)];
        };
        let newer = self.conversations[at].last.as_ref().is_none_or(|l| l.number <= message.number);
        if newer {
            let mut conversation = self.conversations.remove(at);
            conversation.last = Some(message.clone());
            self.conversations.insert(0, conversation);
        }
        if let Some(room) = self.rooms.get_mut(&number).filter(|room| room.is_loaded()) {
            // One's own words are always looked at; those of others do not move what is read.
            if message.mine && newer {
                room.place = Place::End;
                room.new_from = None;
            }
            room.put(message);
            room.trim();
        }
        Vec::new()
    }

    /// A conversation is new or has changed; one that is new goes to the top.
    fn changed(&mut self, mut conversation: Conversation) -> Vec<Effect> {
        let number = conversation.number;
        let members_changed = match self.conversation_mut(number) {
            Some(known) => {
                // A message may have come in between.
                let newer = known.last.as_ref().map(|last| last.number);
                if newer > conversation.last.as_ref().map(|last| last.number) {
                    conversation.last = known.last.take();
                }
                let changed = known.title != conversation.title;
                *known = conversation;
                changed
            }
            None => {
                self.conversations.insert(0, conversation);
                true
            }
        };
        let contacts = Effect::Call(Command::Contacts {}, Then::Contacts);
        if members_changed { vec![contacts] } else { Vec::new() }
    }

    fn conversation_mut(&mut self, number: i64) -> Option<&mut Conversation> {
        self.conversations.iter_mut().find(|conversation| conversation.number == number)
    }
}
