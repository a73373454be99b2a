//! The messages of a conversation as rows of the screen: days, names, texts, states.

use ratatui::style::Style;
use ratatui::text::{Line, Span};
use valise_chat_core::api::{Message, MessageKind, MessageNumber, MessageState};

use super::theme::Theme;
use crate::printable::printable;
use crate::tui::model::Model;
use crate::tui::model::room::{Place, Room};
use crate::tui::text;

/// Messages of one person further apart begin with the name and the time again.
const PAUSE_MS: u64 = 10 * 60 * 1000;
/// Of a text longer than this only the beginning is laid out.
const SHOWN_MAX: usize = 32 * 1024;
/// Cells at the right for a state.
const SIGNS: usize = 3;

/// A row, and which message it belongs to: a name or a day belongs to the message below it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) message: MessageNumber,
    /// Which of the message's rows it is.
    pub(crate) part: usize,
    pub(crate) line: Line<'static>,
}

/// All rows of a room.
pub(crate) fn rows(model: &Model, room: &Room, columns: u16) -> Vec<Row> {
    let columns = usize::from(columns);
    let theme = Theme::new(model.colour);
    let last_mine = room.messages().iter().rev().find(|m| m.mine && m.kind == MessageKind::Text);
    let last_mine = last_mine.map(|message| message.number);
    let mut rows = Vec::new();
    let mut previous: Option<&Message> = None;
    for message in room.messages() {
        let mut lines = Vec::new();
        let day = model.clock.day(message.sent_ms);
        let new_day = previous.is_none_or(|before| model.clock.day(before.sent_ms) != day);
        if new_day {
            let name = model.clock.day_name(message.sent_ms, model.now_ms);
            lines.extend(previous.map(|_| Line::default()));
            lines.push(centred(&format!("── {name} ──"), columns, theme.quiet()));
        }
        let new = room.new_from == Some(message.number);
        if new {
            let style = theme.accent().patch(theme.strong());
            lines.push(centred("──── new ────", columns, style));
        }
        match message.kind {
            MessageKind::Text => {
                let goes_on = !new_day && !new && previous.is_some_and(|b| follows(b, message));
                if !goes_on {
                    if !new_day && !new {
                        lines.push(Line::default());
                    }
                    lines.push(head(model, theme, message, columns));
                }
                let named = last_mine == Some(message.number);
                body(theme, message, columns, named, &mut lines);
            }
            MessageKind::Notice | MessageKind::Gap => {
                if !new_day && !previous.is_some_and(|before| before.kind == message.kind) {
                    lines.push(Line::default());
                }
                notice(theme, message, columns, &mut lines);
            }
        }
        let number = message.number;
        let numbered = lines.into_iter().enumerate();
        rows.extend(numbered.map(|(part, line)| Row { message: number, part, line }));
        previous = Some(message);
    }
    rows
}

/// The row at the top of a view of so many rows.
pub(crate) fn top(rows: &[Row], place: Place, height: u16) -> usize {
    let last = rows.len().saturating_sub(usize::from(height));
    let Place::At { message, part } = place else { return last };
    let exact = rows.iter().position(|row| row.message == message && row.part == part);
    let near = || rows.iter().position(|row| row.message >= message);
    exact.or_else(near).map_or(last, |at| at.min(last))
}

/// A state as a sign of at most two cells.
pub(crate) fn sign(theme: Theme, state: MessageState) -> (&'static str, &'static str, Style) {
    match state {
        MessageState::Sending => ("…", "sending", theme.quiet()),
        MessageState::Relayed => ("✓", "relayed", theme.quiet()),
        MessageState::Delivered => ("✓✓", "delivered", theme.quiet()),
        MessageState::Read => ("✓✓", "read", theme.read()),
        MessageState::Failed => ("!", "failed", theme.bad()),
        MessageState::Received | MessageState::Gone => ("", "", Style::new()),
    }
}

fn follows(before: &Message, message: &Message) -> bool {
    before.kind == MessageKind::Text
        && before.mine == message.mine
        && before.account == message.account
        && message.sent_ms < before.sent_ms.saturating_add(PAUSE_MS)
}

fn head(model: &Model, theme: Theme, message: &Message, columns: usize) -> Line<'static> {
    let (name, style) = if message.mine {
        ("You".to_owned(), theme.accent().patch(theme.strong()))
    } else {
        (text::one_line(&printable(&message.name)), theme.person(&message.account))
    };
    let time = model.clock.time(message.sent_ms);
    Line::from(vec![
        Span::styled(mark(message), theme.accent()),
        Span::styled(text::fit(&name, columns.saturating_sub(10)), style),
        Span::styled(format!("  {time}"), theme.quiet()),
    ])
}

/// One's own messages have a bar at the left, also where there is no colour.
fn mark(message: &Message) -> &'static str {
    if message.mine { "▎ " } else { "  " }
}

fn body(
    theme: Theme,
    message: &Message,
    columns: usize,
    named: bool,
    lines: &mut Vec<Line<'static>>,
) {
    let room = columns.saturating_sub(2 + SIGNS + 1).max(1);
    let texts = wrapped(&message.text, room);
    let last = texts.len() - 1;
    for (at, text) in texts.into_iter().enumerate() {
        let mut spans = vec![Span::styled(mark(message), theme.accent())];
        let used = 2 + text::width(&text);
        spans.push(Span::raw(text));
        if at == last && message.mine {
            let (sign, word, style) = sign(theme, message.state);
            let named = named || message.state == MessageState::Failed;
            let word_fits = used + text::width(word) + 5 <= columns;
            let shown = if named && word_fits { format!("{word} {sign}") } else { sign.to_owned() };
            let gap = columns.saturating_sub(used + text::width(&shown) + 1);
            spans.push(Span::raw(" ".repeat(gap)));
            spans.push(Span::styled(shown, style));
        }
        lines.push(Line::from(spans));
    }
}

fn notice(theme: Theme, message: &Message, columns: usize, lines: &mut Vec<Line<'static>>) {
    let style = if message.kind == MessageKind::Gap { theme.warn() } else { theme.quiet() };
    let sign = if message.kind == MessageKind::Gap { "⋯ " } else { "" };
    for text in wrapped(&format!("{sign}{}", message.text), columns.saturating_sub(4).max(1)) {
        lines.push(centred(&text, columns, style));
    }
}

/// A foreign text in rows, made harmless; at least one row.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= SHOWN_MAX);
    let shown = printable(&text[..end.unwrap_or(text.len())]);
    let mut rows: Vec<String> = Vec::new();
    for line in shown.split('\n') {
        rows.extend(text::wrap(line, columns).into_iter().map(|r| line[r].trim_end().to_owned()));
    }
    if let Some(end) = end {
        rows.push(text::fit(&format!("… and {} bytes more", text.len() - end), columns));
    }
    rows
}

fn centred(text: &str, columns: usize, style: Style) -> Line<'static> {
    let text = text::fit(text, columns);
    let gap = columns.saturating_sub(text::width(&text)) / 2;
    Line::from(vec![Span::raw(" ".repeat(gap)), Span::styled(text, style)])
}
