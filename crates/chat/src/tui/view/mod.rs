//! Draws the model. A function of the model alone, so that a test sees what a user sees.

pub(crate) mod help;
pub(crate) mod layout;
mod link;
mod list;
mod popup;
pub(crate) mod rows;
mod status;
mod talk;
mod theme;
mod welcome;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Span;
use ratatui::widgets::Paragraph;

use self::theme::Theme;
use super::model::Model;

/// The whole screen.
pub(crate) fn draw(model: &Model, frame: &mut Frame<'_>) {
    // The terminal may have changed its size since the model heard of it.
    if frame.area().as_size() != model.size {
        return;
    }
    let theme = Theme::new(model.colour);
    let areas = layout::areas(model);
    if model.conversations.is_empty() {
        welcome::draw(model, areas.messages, frame);
    } else {
        list::draw(model, areas.list, frame);
        for y in areas.divider.top()..areas.divider.bottom() {
            let cell = Rect { y, height: 1, ..areas.divider };
            frame.render_widget(Span::styled("│", theme.quiet()), cell);
        }
        talk::draw(model, &areas, frame);
    }
    status::draw(model, areas.status, frame);
    popup::draw(model, frame);
}

/// A line across.
fn rule(theme: Theme, area: Rect, frame: &mut Frame<'_>) {
    let line = "─".repeat(usize::from(area.width));
    frame.render_widget(Paragraph::new(Span::styled(line, theme.quiet())), area);
}
