//! The last row: the connection, and what can be done now.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use valise_chat_core::api::Connection;

use super::layout;
use super::theme::Theme;
use crate::printable::printable;
use crate::tui::model::{Model, Pane};
use crate::tui::text;

pub(super) fn draw(model: &Model, area: Rect, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let columns = usize::from(area.width);
    let (state, style) = connection(model, theme);
    let state = text::fit(&format!(" {state}"), columns);
    let room = columns.saturating_sub(text::width(&state) + 3);
    // A word to the user is more urgent than a hint, and than the reason of a long outage.
    let toast = model.toast().map(|toast| text::one_line(&printable(toast)));
    let line = match toast {
        Some(toast) if text::width(&toast) > room => {
            Line::styled(text::fit(&format!(" {toast}"), columns), theme.strong())
        }
        Some(toast) => Line::from(vec![
            Span::styled(state, style),
            Span::raw("   "),
            Span::styled(toast, theme.strong()),
        ]),
        None => {
            let hint = hints(model).iter().find(|hint| text::width(hint) < room).copied();
            let hint = hint.unwrap_or_default();
            let gap = columns.saturating_sub(text::width(&state) + text::width(hint) + 1);
            Line::from(vec![
                Span::styled(state, style),
                Span::raw(" ".repeat(gap)),
                Span::styled(hint, theme.quiet()),
            ])
        }
    };
    frame.render_widget(Paragraph::new(line), area);
}

/// The state in words, and a sign that differs without colour.
fn connection(model: &Model, theme: Theme) -> (String, Style) {
    match &model.connection {
        Connection::Online => ("● online".to_owned(), theme.good()),
        Connection::Connecting => ("◌ connecting…".to_owned(), theme.warn()),
        Connection::Offline { why, .. } => {
            let seconds = model.retry_at_ms.saturating_sub(model.now_ms).div_ceil(1000);
            let next = match seconds {
                0 => "trying again…".to_owned(),
                1..=99 => format!("next try in {seconds} s"),
                _ => format!("next try in {} min", seconds.div_ceil(60)),
            };
            let why = text::one_line(&printable(why));
            if model.size.width < 40 {
                return (
                    format!("○ offline, {}", next.trim_start_matches("next try in ")),
                    theme.warn(),
                );
            }
            let room = usize::from(model.size.width).saturating_sub(next.len() + 14);
            (format!("○ offline, {next}: {}", text::fit(&why, room)), theme.warn())
        }
        Connection::Stopped { why } => {
            (format!("✕ stopped: {}", text::one_line(&printable(why))), theme.bad())
        }
    }
}

/// From the longest to the shortest; the first that fits is shown.
fn hints(model: &Model) -> &'static [&'static str] {
    if model.popup.is_some() {
        &["Esc closes"]
    } else if model.conversations.is_empty() {
        &["i invite   j join   ? help   Ctrl-Q quit", "? help"]
    } else if !model.shows_talk() {
        &["↑↓ choose   Enter opens   i invite   ? help", "Enter opens   ? help", "? help"]
    } else if layout::is_narrow(model.size) && model.pane == Pane::Talk {
        &["Enter sends   Esc list   / commands", "Esc list   ? help", "? help"]
    } else {
        &[
            "Enter sends   Tab next   / commands   Ctrl-K find   ? help",
            "Enter sends   / commands   ? help",
            "? help",
        ]
    }
}
