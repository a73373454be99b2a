//! Keys for what lies on top. A popup is taken out, and put back if it stays.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::action::ENTRIES;
use super::composer::Composer;
use super::popup::{Field, LinkCard, Palette, Pick, Popup, Question, Target, WordsCard};
use super::{Effect, Model};
use crate::tui::view::help;

impl Model {
    pub(super) fn popup_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let Some(popup) = self.popup.take() else { return Vec::new() };
        if key.code == KeyCode::Esc {
            return Vec::new();
        }
        match popup {
            Popup::Palette(palette) => self.palette_key(palette, key),
            Popup::Pick(pick) => self.pick_key(pick, key),
            Popup::Field(field) => self.field_key(field, key),
            Popup::Question(question) => self.question_key(question, key),
            Popup::Words(card) => self.words_key(card, key),
            Popup::Link(card) => self.link_key(card, key),
            Popup::Help { top } => match key.code {
                KeyCode::Down => self.stay_help(top + 1),
                KeyCode::Up => self.stay_help(top.saturating_sub(1)),
                KeyCode::PageDown | KeyCode::Char(' ') => self.stay_help(top + 10),
                KeyCode::PageUp => self.stay_help(top.saturating_sub(10)),
                KeyCode::Home => self.stay_help(0),
                _ => Vec::new(),
            },
        }
    }

    fn stay(&mut self, popup: Popup) -> Vec<Effect> {
        self.popup = Some(popup);
        Vec::new()
    }

    fn stay_help(&mut self, top: usize) -> Vec<Effect> {
        let top = top.min(help::last_top(self));
        self.stay(Popup::Help { top })
    }

    fn palette_key(&mut self, mut palette: Palette, key: KeyEvent) -> Vec<Effect> {
        let targets = palette.targets(&self.conversations, self.opened());
        let empty = palette.query.is_empty();
        match key.code {
            KeyCode::Enter => match targets.get(palette.selected) {
                Some(Target::Conversation(number)) => {
                    self.show(*number);
                    return Vec::new();
                }
                Some(Target::Action(action)) => return self.begin(*action, &palette.argument()),
                // A command that is for elsewhere says so.
                None => {
                    let word = palette.query.text();
                    let word = word.split(' ').next().unwrap_or_default();
                    if let Some(entry) = ENTRIES.iter().find(|entry| entry.name == word) {
                        return self.begin(entry.action, "");
                    }
                }
            },
            // The rest of the command's name.
            KeyCode::Tab if palette.slash => {
                if let Some(Target::Action(action)) = targets.get(palette.selected)
                    && let Some(entry) = ENTRIES.iter().find(|entry| entry.action == *action)
                {
                    palette.query = Composer::with(&format!("{} ", entry.name));
                    palette.selected = 0;
                }
            }
            // A message may begin with a slash: it is typed twice.
            KeyCode::Char('/') if palette.slash && empty && self.shows_talk() => {
                return self.write("/");
            }
            KeyCode::Backspace if empty => return Vec::new(),
            _ => match walk(key, palette.selected, targets.len()) {
                Some(selected) => palette.selected = selected,
                None => {
                    if palette.query.key(key, usize::MAX) {
                        palette.selected = 0;
                    }
                }
            },
        }
        self.stay(Popup::Palette(palette))
    }

    fn pick_key(&mut self, mut pick: Pick, key: KeyEvent) -> Vec<Effect> {
        match key.code {
            KeyCode::Enter => return self.picked(pick),
            KeyCode::Char(' ') if pick.takes_several() => {
                if let Some(at) = pick.current() {
                    pick.items[at].ticked = !pick.items[at].ticked;
                }
            }
            _ => match walk(key, pick.selected, pick.fitting().len()) {
                Some(selected) => pick.selected = selected,
                None => {
                    if pick.query.key(key, usize::MAX) {
                        pick.selected = 0;
                    }
                }
            },
        }
        self.stay(Popup::Pick(pick))
    }

    fn field_key(&mut self, mut field: Field, key: KeyEvent) -> Vec<Effect> {
        let may_be_empty = matches!(field.purpose, super::popup::FieldFor::Petname(_));
        match key.code {
            KeyCode::Enter => {
                let value = field.input.text();
                let value = if field.is_secret() { value } else { value.trim().to_owned() };
                if !value.is_empty() || may_be_empty {
                    return self.filled(field.purpose, value);
                }
            }
            _ => drop(field.input.key(key, usize::MAX)),
        }
        self.stay(Popup::Field(field))
    }

    /// Enter alone decides nothing here: what is asked is not undone by a slip.
    fn question_key(&mut self, question: Question, key: KeyEvent) -> Vec<Effect> {
        match key.code {
            KeyCode::Char('y' | 'Y') => self.agreed(question.purpose),
            KeyCode::Char('n' | 'N') => self.declined(question.purpose),
            _ => self.stay(Popup::Question(question)),
        }
    }

    fn link_key(&mut self, mut card: LinkCard, key: KeyEvent) -> Vec<Effect> {
        let mut effects = Vec::new();
        match key.code {
            KeyCode::Enter => return effects,
            KeyCode::Char('c') => {
                effects.push(Effect::Copy(card.link.clone()));
                self.say("copied, if your terminal allows it");
            }
            KeyCode::Char('q') => card.bare = !card.bare,
            _ => {}
        }
        self.popup = Some(Popup::Link(card));
        effects
    }

    fn words_key(&mut self, card: WordsCard, key: KeyEvent) -> Vec<Effect> {
        match key.code {
            KeyCode::Char('s' | 'S') => self.compared(card, true),
            KeyCode::Char('d' | 'D') => self.compared(card, false),
            _ => self.stay(Popup::Words(card)),
        }
    }
}

/// Where the mark goes in a list, if the key moves it.
fn walk(key: KeyEvent, selected: usize, count: usize) -> Option<usize> {
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    let count = count.max(1);
    match key.code {
        KeyCode::Down | KeyCode::Tab => Some((selected + 1) % count),
        KeyCode::Up | KeyCode::BackTab => Some((selected + count - 1) % count),
        KeyCode::Char('n') if ctrl => Some((selected + 1) % count),
        KeyCode::Char('p') if ctrl => Some((selected + count - 1) % count),
        KeyCode::PageDown => Some((selected + 8).min(count - 1)),
        KeyCode::PageUp => Some(selected.saturating_sub(8)),
        _ => None,
    }
}
