//! The conversations at the left.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use valise_chat_core::api::{Conversation, ConversationKind, MessageKind};

use super::rows::sign;
use super::theme::Theme;
use crate::printable::printable;
use crate::tui::model::Model;
use crate::tui::model::room::Place;
use crate::tui::text;

/// Rows of an entry: title and last words.
const ENTRY: usize = 2;

pub(super) fn draw(model: &Model, area: Rect, frame: &mut Frame<'_>) {
    let columns = usize::from(area.width);
    let height = usize::from(area.height);
    // Air between the entries where there is room for it.
    let airy = model.conversations.len() * (ENTRY + 1) <= height;
    let each = ENTRY + usize::from(airy);
    let mut lines = Vec::new();
    for conversation in &model.conversations {
        lines.extend(entry(model, conversation, columns));
        lines.extend(airy.then(Line::default));
    }
    let open = model.conversations.iter().position(|c| Some(c.number) == model.open).unwrap_or(0);
    // The open one is always seen.
    let top = ((open + 1) * each).saturating_sub(height);
    let shown: Vec<_> = lines.into_iter().skip(top).take(height).collect();
    frame.render_widget(Paragraph::new(shown), area);
}

fn entry(model: &Model, conversation: &Conversation, columns: usize) -> [Line<'static>; ENTRY] {
    let theme = Theme::new(model.colour);
    let chosen = Some(conversation.number) == model.open;
    let unread = unread(model, conversation);
    let mark = if chosen { "▌" } else { " " };
    let weight = if chosen || unread > 0 { theme.strong() } else { Style::new() };
    let time = conversation.last.as_ref().map(|last| last.sent_ms);
    let time = time.map(|ms| model.clock.short(ms, model.now_ms)).unwrap_or_default();

    let room = columns.saturating_sub(3 + text::width(&time));
    let kind = if conversation.kind == ConversationKind::Group { "# " } else { "" };
    let title = format!("{kind}{}", text::one_line(&printable(&conversation.title)));
    let mut first = vec![
        Span::styled(mark, theme.accent()),
        Span::styled(text::pad(&title, room), weight),
        Span::styled(format!(" {time}"), theme.quiet()),
    ];
    if chosen && model.pane == crate::tui::model::Pane::List && !model.shows_talk() {
        first[1].style = first[1].style.add_modifier(Modifier::REVERSED);
    }

    let (badge, badge_style) = badge(theme, conversation, unread);
    let room = columns.saturating_sub(3 + text::width(&badge));
    let second = Line::from(vec![
        Span::styled(mark, theme.accent()),
        Span::styled(text::pad(&last_words(model, conversation), room), theme.quiet()),
        Span::raw(" "),
        Span::styled(badge, badge_style),
    ]);
    [Line::from(first), second]
}

/// What the eye should find: how much is new, or why not.
fn badge(theme: Theme, conversation: &Conversation, unread: u64) -> (String, Style) {
    if conversation.closed.is_some() {
        ("closed".to_owned(), theme.warn())
    } else if conversation.blocked {
        ("blocked".to_owned(), theme.warn())
    } else if conversation.muted {
        let count = if unread > 0 { format!(" {unread}") } else { String::new() };
        (format!("muted{count}"), theme.quiet())
    } else if unread > 0 {
        (format!("●{}", if unread > 999 { "999+".to_owned() } else { unread.to_string() }), {
            theme.accent().patch(theme.strong())
        })
    } else {
        (String::new(), Style::new())
    }
}

/// What is being read has nothing new, even before the engine has heard of it.
fn unread(model: &Model, conversation: &Conversation) -> u64 {
    let open = Some(conversation.number) == model.open && model.shows_talk();
    let at_end = model.room().is_some_and(|room| room.place == Place::End);
    if open && at_end && model.popup.is_none() { 0 } else { conversation.unread }
}

fn last_words(model: &Model, conversation: &Conversation) -> String {
    let draft = model.rooms.get(&conversation.number).filter(|room| !room.draft.is_empty());
    if let Some(room) = draft.filter(|_| Some(conversation.number) != model.open) {
        return format!("draft: {}", text::one_line(&printable(&room.draft.text())));
    }
    let Some(last) = &conversation.last else {
        return "no messages yet".to_owned();
    };
    let words = text::one_line(&printable(last.text.get(..400).unwrap_or(&last.text)));
    if last.kind != MessageKind::Text {
        words
    } else if last.mine {
        let (sign, ..) = sign(Theme::new(false), last.state);
        format!("{sign} {words}")
    } else if conversation.kind == ConversationKind::Group {
        format!("{}: {words}", text::one_line(&printable(&last.name)))
    } else {
        words
    }
}
