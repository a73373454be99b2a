//! The open conversation: whom it is with, its messages, and the draft.

use ratatui::Frame;
use ratatui::layout::Position;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use valise_chat_core::api::{Conversation, ConversationKind};

use super::layout::{self, Areas};
use super::rows;
use super::rule;
use super::theme::Theme;
use crate::printable::printable;
use crate::tui::model::Model;
use crate::tui::model::room::{Known, Place, Room};
use crate::tui::text;

pub(super) fn draw(model: &Model, areas: &Areas, frame: &mut Frame<'_>) {
    let (Some(open), Some(room)) = (model.opened(), model.room()) else { return };
    if areas.input.is_empty() {
        return;
    }
    let theme = Theme::new(model.colour);
    frame.render_widget(title(theme, open, usize::from(areas.title.width)), areas.title);
    rule(theme, areas.title_rule, frame);
    messages(model, room, areas, frame);
    let closed = layout::closed_rows(model, areas.closed.width);
    let closed = closed.into_iter().map(|row| Line::styled(format!("! {row}"), theme.warn()));
    frame.render_widget(Paragraph::new(closed.collect::<Vec<_>>()), areas.closed);
    input(model, open, room, areas, frame);
}

/// The name, and what is special here.
fn title(theme: Theme, open: &Conversation, columns: usize) -> Line<'static> {
    let mut facts = Vec::new();
    match open.kind {
        ConversationKind::Direct if open.verified => facts.push("verified".to_owned()),
        ConversationKind::Direct => facts.push("not verified".to_owned()),
        ConversationKind::Group => facts.push(match open.members {
            1 => "only you".to_owned(),
            members => format!("{members} people"),
        }),
    }
    if open.muted {
        facts.push("muted".to_owned());
    }
    if open.blocked {
        facts.push("blocked".to_owned());
    }
    if open.disappear_seconds > 0 {
        facts.push(format!("messages stay {}", span(open.disappear_seconds)));
    }
    let name = text::one_line(&printable(&open.title));
    let name = text::fit(&name, columns.saturating_sub(2));
    let facts = format!("  {}", facts.join(" · "));
    let room = columns.saturating_sub(2 + text::width(&name));
    Line::from(vec![
        Span::styled(format!(" {name}"), theme.strong()),
        Span::styled(text::fit(&facts, room), theme.quiet()),
    ])
}

fn span(seconds: u32) -> String {
    let (count, unit) = match seconds {
        604_800.. if seconds.is_multiple_of(604_800) => (seconds / 604_800, "week"),
        86_400.. => (seconds / 86_400, "day"),
        3_600.. => (seconds / 3_600, "hour"),
        60.. => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn messages(model: &Model, room: &Room, areas: &Areas, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let area = areas.messages;
    let rows = rows::rows(model, room, area.width);
    if rows.is_empty() {
        let words = match room.known {
            Known::All => "No messages yet. What you write here only this conversation can read.",
            _ => "…",
        };
        let line = Line::styled(format!("  {words}"), theme.quiet());
        frame
            .render_widget(Paragraph::new(line).wrap(ratatui::widgets::Wrap { trim: false }), area);
        return;
    }
    let top = rows::top(&rows, room.place, area.height);
    let height = usize::from(area.height);
    // Few messages lie at the bottom, where the eye and the input are.
    let mut lines = vec![Line::default(); height.saturating_sub(rows.len())];
    let below = rows.len().saturating_sub(top + height);
    lines.extend(rows.into_iter().skip(top).take(height).map(|row| row.line));
    frame.render_widget(Paragraph::new(lines), area);
    rule(theme, areas.input_rule, frame);
    if room.place != Place::End && below > 0 && areas.input_rule.height > 0 {
        let new = model.opened().map_or(0, |open| open.unread);
        let words = match new {
            0 => " ↓ older messages; Esc: to the newest ".to_owned(),
            new => format!(" ↓ {new} new; Esc: to the newest "),
        };
        let words = text::fit(&words, usize::from(area.width));
        let width = u16::try_from(text::width(&words)).unwrap_or(area.width);
        let mut at = areas.input_rule;
        at.x = at.right().saturating_sub(width + 1).max(at.x);
        at.width = width.min(areas.input_rule.right() - at.x);
        frame.render_widget(Span::styled(words, theme.accent().patch(theme.strong())), at);
    }
}

fn input(model: &Model, open: &Conversation, room: &Room, areas: &Areas, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let area = areas.input;
    if room.messages().is_empty() {
        rule(theme, areas.input_rule, frame);
    }
    let sheet = room.draft.sheet(layout::input_columns(model));
    let height = usize::from(area.height);
    let top = (sheet.cursor.0 + 1).saturating_sub(height);
    let mut lines = Vec::new();
    for (at, row) in sheet.rows.iter().enumerate().skip(top).take(height) {
        let prompt = if at == 0 { "› " } else { "  " };
        lines.push(Line::from(vec![Span::styled(prompt, theme.accent()), Span::raw(row.clone())]));
    }
    if room.draft.is_empty() {
        let name = text::one_line(&printable(&open.title));
        let hint = match &open.closed {
            Some(_) => "nothing can be sent here; / shows what can be done".to_owned(),
            None => format!("Write to {name}"),
        };
        let hint = text::fit(&hint, usize::from(area.width.saturating_sub(3)));
        lines[0].push_span(Span::styled(hint, theme.quiet()));
    }
    frame.render_widget(Paragraph::new(lines), area);
    if model.popup.is_none() {
        let x = area.x + layout::PROMPT + u16::try_from(sheet.cursor.1).unwrap_or(u16::MAX);
        let y = area.y + u16::try_from(sheet.cursor.0 - top).unwrap_or(0);
        frame.set_cursor_position(Position::new(x.min(area.right().saturating_sub(1)), y));
    }
}
