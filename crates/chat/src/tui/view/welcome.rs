//! The first screen: never a blank one, always with a next step.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::theme::Theme;
use crate::printable::printable;
use crate::tui::model::Model;
use crate::tui::text;

pub(super) fn draw(model: &Model, area: Rect, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let width = area.width.saturating_sub(4).min(62);
    let key = |key: &'static str, words: &'static str| {
        // What does not fit goes on below its own beginning.
        let rows = text::wrap(words, usize::from(width.saturating_sub(6)).max(1)).into_iter();
        rows.enumerate().map(move |(at, range)| {
            let key = if at == 0 { key } else { " " };
            Line::from(vec![
                Span::raw("  "),
                Span::styled(key, theme.accent().patch(theme.strong())),
                Span::raw(format!("   {}", &words[range])),
            ])
        })
    };
    let mut lines: Vec<Line<'_>> = Vec::new();
    if !model.ready {
        lines.push(Line::styled("Opening your conversations…", theme.quiet()));
    } else {
        let name = text::one_line(&printable(&model.name));
        let greeting = match name.as_str() {
            "" => "Welcome to Valise.".to_owned(),
            name => format!("Welcome to Valise, {name}."),
        };
        lines.push(Line::styled(greeting, theme.strong()));
        lines.push(Line::raw("Nobody is here yet. The next step:"));
        lines.extend((area.height > 10).then(Line::default));
        lines.extend(key("i", "invite somebody: a link and a QR code"));
        lines.extend(key("j", "join: follow a link you were given"));
        lines.extend((area.height > 10).then(Line::default));
        lines.extend(key("n", "your name, as others will see it"));
        lines.extend(key("?", "all keys, and what the signs mean"));
        lines.push(Line::default());
        let promise = "Only you and those you write to can read what you write. The relay that \
                       carries it cannot.";
        lines.push(Line::styled(promise, theme.quiet()));
    }
    let height = u16::try_from(lines.len() + 1).unwrap_or(u16::MAX).min(area.height);
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 3;
    let place = Rect { x, y, width, height };
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), place);
}
