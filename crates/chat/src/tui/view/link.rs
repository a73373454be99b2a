//! A link as text and as QR code: a page without a frame, so that the link can be marked with the
//! mouse and copied whole.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};

use super::popup::paragraph;
use super::theme::Theme;
use crate::printable::printable;
use crate::qr::half_blocks;
use crate::tui::model::Model;
use crate::tui::model::popup::LinkCard;
use crate::tui::text;

pub(super) fn draw(model: &Model, card: &LinkCard, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let screen = frame.area();
    let area = Rect { height: screen.height.saturating_sub(1), ..screen };
    frame.render_widget(Clear, area);
    let code = half_blocks(&card.link).unwrap_or_default();
    let mut lines = Vec::new();
    if card.bare {
        match fitted(code, area.width, area.height) {
            Some(code) => lines.extend(drawn(theme, code, area.width)),
            None => lines.extend(said(
                theme,
                "The terminal is too small for the code: make it larger, or its letters smaller.",
                area.width,
            )),
        }
        return frame.render_widget(Paragraph::new(lines), area);
    }
    lines.push(Line::styled(format!(" {}", card.title), theme.strong()));
    lines.extend(said(theme, &card.hint, area.width));
    lines.push(Line::default());
    // Cut at the edge, as a terminal does it, and nothing between the pieces.
    let link: Vec<_> = printable(&card.link).chars().collect();
    let pieces = link.chunks(usize::from(area.width.max(1)));
    lines
        .extend(pieces.map(|piece| Line::styled(piece.iter().collect::<String>(), theme.accent())));
    let left = usize::from(area.height).saturating_sub(lines.len() + 2);
    match fitted(code, area.width, u16::try_from(left).unwrap_or(u16::MAX)) {
        Some(code) => {
            lines.extend(said(theme, "c copies the link", area.width));
            lines.push(Line::default());
            lines.extend(drawn(theme, code, area.width));
        }
        None => {
            lines.push(Line::default());
            let keys = "c copies the link   q shows the QR code alone";
            lines.extend(said(theme, keys, area.width));
        }
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// The code, if it fits; of the light zone around it half may go.
fn fitted(mut code: Vec<String>, width: u16, height: u16) -> Option<Vec<String>> {
    let wide = code.iter().map(|row| text::width(row)).max()?;
    if code.len() > usize::from(height) && code.len() > 2 {
        code.remove(0);
        code.pop();
    }
    (code.len() <= usize::from(height) && wide <= usize::from(width)).then_some(code)
}

fn drawn(theme: Theme, code: Vec<String>, width: u16) -> impl Iterator<Item = Line<'static>> {
    let wide = code.iter().map(|row| text::width(row)).max().unwrap_or(0);
    let gap = " ".repeat(usize::from(width).saturating_sub(wide) / 2);
    let line = move |row| Line::from(vec![Span::raw(gap.clone()), Span::styled(row, theme.code())]);
    code.into_iter().map(line)
}

fn said(theme: Theme, words: &str, width: u16) -> impl Iterator<Item = Line<'static>> {
    let rows = paragraph(words, width.saturating_sub(2)).into_iter();
    rows.map(move |row| Line::styled(format!(" {row}"), theme.quiet()))
}
