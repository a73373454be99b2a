//! What a key does where it is pressed: everywhere, in the list, in a conversation.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use valise_chat_core::api::Command;

use super::action::Action;
use super::popup::{FieldFor, Palette, Popup};
use super::room::Place;
use super::{Effect, Model, Pane, Then};
use crate::tui::view::{layout, rows};

/// A second `Ctrl-C` within this time means it.
const QUIT_MS: u64 = 3_000;

impl Model {
    pub(super) fn key(&mut self, key: KeyEvent) -> Vec<Effect> {
        if key.kind == KeyEventKind::Release {
            return Vec::new();
        }
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('q') if ctrl => return vec![Effect::Quit],
            KeyCode::Char('l') if ctrl => return vec![Effect::Repaint],
            KeyCode::Char('c') if ctrl => return self.interrupt(),
            KeyCode::F(1) => return self.begin(Action::Help, ""),
            KeyCode::Char('k') if ctrl => {
                self.popup = match self.popup {
                    Some(Popup::Palette(_)) => None,
                    _ => Some(Popup::Palette(Palette::default())),
                };
                return Vec::new();
            }
            _ => {}
        }
        if self.popup.is_some() {
            return self.popup_key(key);
        }
        match key.code {
            KeyCode::Char('n') if ctrl => self.turn(1),
            KeyCode::Char('p') if ctrl => self.turn(-1),
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(-1),
            _ if self.shows_talk() => return self.talk_key(key),
            _ => return self.list_key(key),
        }
        Vec::new()
    }

    /// Text from the clipboard is text, whatever it holds.
    pub(super) fn paste(&mut self, text: &str) -> Vec<Effect> {
        if let Some(popup) = &mut self.popup {
            popup.paste(text);
            return Vec::new();
        }
        if !self.shows_talk() {
            // Where nothing can be written, it can only be a link.
            self.fill(FieldFor::Join, "");
            if let Some(popup) = &mut self.popup {
                popup.paste(text);
            }
            return Vec::new();
        }
        let put = self.room_mut().is_none_or(|room| room.draft.insert(text));
        if !put {
            self.say("too long for a message; nothing was put in");
        }
        Vec::new()
    }

    /// `Ctrl-C`: closes, or clears, or asks whether to quit.
    fn interrupt(&mut self) -> Vec<Effect> {
        if self.popup.take().is_some() {
            return Vec::new();
        }
        if let Some(room) = self.room_mut().filter(|room| !room.draft.is_empty()) {
            room.draft.clear();
            self.say("cleared; Ctrl-Z brings it back");
            return Vec::new();
        }
        if self.now_ms < self.quit_until_ms {
            return vec![Effect::Quit];
        }
        self.quit_until_ms = self.now_ms + QUIT_MS;
        self.say("Ctrl-C once more to quit");
        Vec::new()
    }

    /// To a conversation further down or up, around the ends.
    fn turn(&mut self, step: isize) {
        let count = self.conversations.len();
        let at = self.conversations.iter().position(|known| Some(known.number) == self.open);
        let next = match at {
            _ if count == 0 => return,
            None => 0,
            Some(at) => at.wrapping_add_signed(step).wrapping_add(count) % count,
        };
        let number = self.conversations[next].number;
        // In a narrow terminal the list is walked before anything is read.
        let pane = self.pane;
        self.show(number);
        self.pane = pane;
    }

    fn list_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        match key.code {
            KeyCode::Down => self.turn(1),
            KeyCode::Up => self.turn(-1),
            KeyCode::Enter | KeyCode::Right if self.open.is_some() => self.pane = Pane::Talk,
            KeyCode::Char('?') => return self.begin(Action::Help, ""),
            KeyCode::Char('/') => self.slash(),
            KeyCode::Char('i') => return self.begin(Action::Invite, ""),
            KeyCode::Char('j') => return self.begin(Action::Join, ""),
            KeyCode::Char('n') => return self.begin(Action::Name, ""),
            KeyCode::Char('g') => return self.begin(Action::Group, ""),
            _ => {}
        }
        Vec::new()
    }

    fn talk_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        let shift = key.modifiers.contains(KeyModifiers::SHIFT);
        let page = i32::from(layout::messages(self).height.max(2)) - 1;
        let empty = self.room().is_none_or(|room| room.draft.is_empty());
        match key.code {
            KeyCode::Enter if alt || shift || ctrl => return self.write("\n"),
            KeyCode::Char('j') if ctrl => return self.write("\n"),
            KeyCode::Enter => return self.send(),
            KeyCode::Esc => self.back(),
            KeyCode::PageUp => self.scroll(-page),
            KeyCode::PageDown => self.scroll(page),
            KeyCode::Up if ctrl || alt => self.scroll(-1),
            KeyCode::Down if ctrl || alt => self.scroll(1),
            KeyCode::End if ctrl || empty => self.jump_to_end(),
            KeyCode::Home if ctrl || empty => self.scroll(i32::MIN / 2),
            KeyCode::Char('?') if empty => return self.begin(Action::Help, ""),
            KeyCode::Char('/') if empty => self.slash(),
            KeyCode::Left if empty && layout::is_narrow(self.size) => self.pane = Pane::List,
            _ => {
                let columns = self.input_columns();
                let taken = self.room_mut().is_some_and(|room| room.draft.key(key, columns));
                match key.code {
                    KeyCode::Up if !taken => self.scroll(-1),
                    KeyCode::Down if !taken => self.scroll(1),
                    _ => {}
                }
            }
        }
        Vec::new()
    }

    fn slash(&mut self) {
        self.popup = Some(Popup::Palette(Palette { slash: true, ..Palette::default() }));
    }

    /// Text into the draft.
    pub(super) fn write(&mut self, text: &str) -> Vec<Effect> {
        if let Some(room) = self.room_mut() {
            room.draft.insert(text);
        }
        Vec::new()
    }

    fn send(&mut self) -> Vec<Effect> {
        let Some(open) = self.opened() else { return Vec::new() };
        let (conversation, closed) = (open.number, open.closed.clone());
        let Some(room) = self.room_mut() else { return Vec::new() };
        let text = room.draft.text();
        if text.trim().is_empty() {
            return Vec::new();
        }
        if let Some(why) = closed {
            self.say(why);
            return Vec::new();
        }
        room.draft.clear();
        room.place = Place::End;
        room.new_from = None;
        let text = text.trim_end().to_owned();
        let command = Command::Send { conversation, text: text.clone(), key: None };
        vec![Effect::Call(command, Then::Sent { conversation, text })]
    }

    /// Step by step out: to the newest message, then to the list.
    fn back(&mut self) {
        if layout::is_narrow(self.size) {
            self.pane = Pane::List;
        } else {
            self.jump_to_end();
        }
    }

    fn jump_to_end(&mut self) {
        if let Some(room) = self.room_mut() {
            room.place = Place::End;
        }
    }

    /// So many rows down; up if negative.
    fn scroll(&mut self, by: i32) {
        let view = layout::messages(self);
        let Some(room) = self.room() else { return };
        let rows = rows::rows(self, room, view.width);
        let top = rows::top(&rows, room.place, view.height);
        let last = rows.len().saturating_sub(usize::from(view.height));
        let by = isize::try_from(by).unwrap_or(0);
        let target = top.saturating_add_signed(by).min(last);
        let place = match rows.get(target) {
            Some(row) if target < last => Place::At { message: row.message, part: row.part },
            _ => Place::End,
        };
        if let Some(room) = self.room_mut() {
            room.place = place;
        }
    }
}
