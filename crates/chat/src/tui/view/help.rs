//! Keys, commands and signs: everything on one page that scrolls.

use ratatui::Frame;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use valise_chat_core::api::MessageState;

use super::popup;
use super::rows::sign;
use super::theme::Theme;
use crate::tui::model::Model;
use crate::tui::model::action::ENTRIES;
use crate::tui::text;

const KEYS: &[(&str, &str)] = &[
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", "a new line"),
    ("Tab, Ctrl-N", "next conversation"),
    ("Shift-Tab, Ctrl-P", "conversation before"),
    ("Ctrl-K", "find a conversation or a command"),
    ("/", "a command; // writes a slash"),
    ("Up, Down, PgUp, PgDn", "older and newer messages"),
    ("Home, End", "oldest and newest, when nothing is written"),
    ("Esc", "back: to the newest message, to the list"),
    ("Ctrl-W, Ctrl-U", "delete a word, the line's beginning"),
    ("Ctrl-Z, Ctrl-Y", "undo, redo"),
    ("Ctrl-C", "close or clear; twice: quit"),
    ("Ctrl-L", "draw the screen again"),
    ("F1, or ? on an empty line", "this page"),
    ("Ctrl-Q", "quit"),
];

const STATES: &[(MessageState, &str)] = &[
    (MessageState::Sending, "on this device only; goes out when it can"),
    (MessageState::Relayed, "the relay keeps it for them"),
    (MessageState::Delivered, "on a device of everyone"),
    (MessageState::Read, "seen by everyone (underlined)"),
    (MessageState::Failed, "given up: it did not reach everyone"),
];

const SIGNS: &[(&str, &str)] = &[
    ("▎", "your own messages"),
    ("●3", "three messages are new"),
    ("#", "a group"),
    ("● ◌ ○ ✕", "online, connecting, offline, stopped"),
];

pub(super) fn draw(model: &Model, top: usize, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let page = popup::boxed("Help", (74, u16::MAX), theme, frame);
    let lines = lines(theme, usize::from(page.width));
    let height = usize::from(page.height);
    let top = top.min(lines.len().saturating_sub(height));
    let shown = lines.into_iter().skip(top).take(height).collect::<Vec<_>>();
    frame.render_widget(Paragraph::new(shown), page);
}

/// The lowest place to scroll to.
pub(crate) fn last_top(model: &Model) -> usize {
    let height = usize::from(model.size.height.saturating_sub(popup::FRAME_ROWS));
    let columns = usize::from(popup::inner_width(model.size.width, 74));
    lines(Theme::new(false), columns).len().saturating_sub(height)
}

fn lines(theme: Theme, columns: usize) -> Vec<Line<'static>> {
    let heading = |words: &'static str| Line::styled(words, theme.accent().patch(theme.strong()));
    let mut lines = vec![heading("Keys")];
    for (keys, about) in KEYS {
        lines.extend(pair(Span::styled(*keys, theme.strong()), about, 27, columns));
    }
    lines.push(Line::default());
    lines.push(heading("Your messages"));
    for (state, about) in STATES {
        let (sign, word, style) = sign(theme, *state);
        let mut described = pair(Span::styled(sign, style), about, 15, columns);
        described[0].spans.insert(1, Span::raw(format!("  {word}")));
        if let Some(gap) = described[0].spans.get_mut(2) {
            gap.content = " ".repeat(15 - 2 - text::width(sign) - text::width(word)).into();
        }
        lines.extend(described);
    }
    lines.push(Line::default());
    lines.push(heading("Signs"));
    for (sign, about) in SIGNS {
        lines.extend(pair(Span::raw(*sign), about, 15, columns));
    }
    lines.push(Line::default());
    lines.push(heading("Commands"));
    for entry in ENTRIES {
        let name = format!("/{} {}", entry.name, entry.argument);
        lines.extend(pair(Span::styled(name, theme.strong()), entry.about, 17, columns));
    }
    lines
}

/// A term and its meaning beside it, or below it where there is no room.
fn pair(term: Span<'static>, about: &str, indent: usize, columns: usize) -> Vec<Line<'static>> {
    let beside = columns > indent + 24;
    let indent = if beside { indent } else { 2 };
    let room = columns.saturating_sub(indent).max(8);
    let mut texts = text::wrap(about, room).into_iter().map(|range| about[range].to_owned());
    let gap = indent.saturating_sub(text::width(&term.content)).max(1);
    let mut lines = Vec::new();
    if beside {
        let first = texts.next().unwrap_or_default();
        lines.push(Line::from(vec![term, Span::raw(" ".repeat(gap)), Span::raw(first)]));
    } else {
        lines.push(Line::from(vec![term, Span::raw("")]));
    }
    lines.extend(texts.map(|text| Line::raw(format!("{}{text}", " ".repeat(indent)))));
    lines
}
