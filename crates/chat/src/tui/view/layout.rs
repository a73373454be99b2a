//! Which part of the screen is whose. The model asks too: how far a page scrolls depends on it.

use ratatui::layout::{Rect, Size};

use crate::tui::model::room::Room;
use crate::tui::model::{Model, Pane};
use crate::tui::text;

/// Below so many columns one side is seen at a time.
const WIDE: u16 = 60;
/// Rows of the input at most.
const INPUT_MAX: usize = 8;
/// Rows of the reason why nothing can be sent, at most.
const CLOSED_MAX: usize = 3;
/// `› ` before the input.
pub(crate) const PROMPT: u16 = 2;

/// The parts; one that is not seen is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Areas {
    pub(crate) list: Rect,
    /// The line between the list and the conversation.
    pub(crate) divider: Rect,
    pub(crate) title: Rect,
    pub(crate) title_rule: Rect,
    pub(crate) messages: Rect,
    pub(crate) closed: Rect,
    pub(crate) input_rule: Rect,
    pub(crate) input: Rect,
    pub(crate) status: Rect,
}

pub(crate) fn is_narrow(size: Size) -> bool {
    size.width < WIDE
}

pub(crate) fn areas(model: &Model) -> Areas {
    let Size { width, height } = model.size;
    let status_height = u16::from(height > 2);
    let body = Rect::new(0, 0, width, height - status_height);
    let status = Rect::new(0, body.height, width, status_height);
    let mut areas = Areas { status, ..Areas::default() };
    if model.conversations.is_empty() {
        areas.messages = body;
        return areas;
    }
    let talk = if !is_narrow(model.size) {
        let list_width = (width * 3 / 10).clamp(22, 34);
        areas.list = Rect { width: list_width, ..body };
        areas.divider = Rect { x: list_width, width: 1, ..body };
        Rect { x: list_width + 1, width: width - list_width - 1, ..body }
    } else if model.pane == Pane::List {
        areas.list = body;
        return areas;
    } else {
        body
    };
    divide(model, talk, &mut areas);
    areas
}

/// The part for messages.
pub(crate) fn messages(model: &Model) -> Rect {
    areas(model).messages
}

/// Columns for the text of the input.
pub(crate) fn input_columns(model: &Model) -> usize {
    usize::from(areas(model).input.width.saturating_sub(PROMPT + 1)).max(1)
}

/// Why nothing can be sent, or what is sent waits, in rows.
pub(crate) fn closed_rows(model: &Model, width: u16) -> Vec<String> {
    let why = model.opened().and_then(|open| open.closed.as_deref().or(open.waiting.as_deref()));
    let Some(why) = why else {
        return Vec::new();
    };
    let why = text::one_line(&crate::printable::printable(why));
    let rows = text::wrap(&why, usize::from(width.saturating_sub(3)));
    rows.into_iter().take(CLOSED_MAX).map(|range| why[range].to_owned()).collect()
}

/// From the bottom up: what is written comes before what decorates.
fn divide(model: &Model, talk: Rect, areas: &mut Areas) {
    let columns = usize::from(talk.width.saturating_sub(PROMPT + 1)).max(1);
    let wanted = model.room().map_or(1, |room: &Room| room.draft.sheet(columns).rows.len());
    let most = usize::from(talk.height / 3).clamp(1, INPUT_MAX);
    let input = u16::try_from(wanted.clamp(1, most)).unwrap_or(1).min(talk.height);
    let mut left = talk.height - input;
    let mut take = |rows: u16, needs: u16| {
        let given = if left >= needs { rows.min(left) } else { 0 };
        left -= given;
        given
    };
    let closed = u16::try_from(closed_rows(model, talk.width).len()).unwrap_or(0);
    let closed = take(closed, closed + 1);
    let title = take(1, 4);
    let input_rule = take(1, 5);
    let title_rule = take(1, 8);
    let mut y = talk.y;
    let mut part = |height: u16| {
        let area = Rect { y, height, ..talk };
        y += height;
        area
    };
    areas.title = part(title);
    areas.title_rule = part(title_rule);
    areas.messages = part(left);
    areas.closed = part(closed);
    areas.input_rule = part(input_rule);
    areas.input = part(input);
}
