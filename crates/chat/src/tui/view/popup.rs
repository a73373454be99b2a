//! What lies over the conversation.

use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Padding, Paragraph};

use super::theme::Theme;
use super::{help, link};
use crate::printable::printable;
use crate::tui::model::Model;
use crate::tui::model::action::ENTRIES;
use crate::tui::model::composer::Composer;
use crate::tui::model::popup::{Field, Palette, Pick, Popup, Question, Target, WordsCard};
use crate::tui::text;

/// Rows that a box needs beside its content, the status line included.
pub(super) const FRAME_ROWS: u16 = 3;
const WIDTH: u16 = 64;

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>) {
    match &model.popup {
        None => {}
        Some(Popup::Palette(palette)) => draw_palette(model, palette, frame),
        Some(Popup::Pick(pick)) => draw_pick(model, pick, frame),
        Some(Popup::Field(field)) => draw_field(model, field, frame),
        Some(Popup::Question(question)) => draw_question(model, question, frame),
        Some(Popup::Link(card)) => link::draw(model, card, frame),
        Some(Popup::Words(card)) => draw_words(model, card, frame),
        Some(Popup::Help { top }) => help::draw(model, *top, frame),
    }
}

/// Columns inside a box of at most `width`.
pub(super) fn inner_width(screen: u16, width: u16) -> u16 {
    screen.min(width).saturating_sub(4)
}

/// An empty box in the middle, above the status line; what comes back is its inside.
pub(super) fn boxed(title: &str, size: (u16, u16), theme: Theme, frame: &mut Frame<'_>) -> Rect {
    let screen = frame.area();
    let body = Rect { height: screen.height.saturating_sub(1), ..screen };
    let width = size.0.min(body.width);
    let height = size.1.saturating_add(2).min(body.height);
    let x = body.x + (body.width - width) / 2;
    let y = body.y + (body.height - height) / 3;
    let area = Rect { x, y, width, height };
    let title = text::fit(&format!(" {title} "), usize::from(width.saturating_sub(2)));
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(theme.quiet())
        .padding(Padding::horizontal(1))
        .title(Span::styled(title, theme.strong()));
    frame.render_widget(Clear, area);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    inside
}

fn rows_of(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// Words that the program or the engine says, in rows.
pub(super) fn paragraph(words: &str, columns: u16) -> Vec<String> {
    super::rows::wrapped(words, usize::from(columns).max(1))
}

fn cursor(inside: Rect, before: usize, input: &Composer, frame: &mut Frame<'_>) -> String {
    let room = usize::from(inside.width).saturating_sub(before + 1).max(1);
    let (shown, cell) = input.window(room);
    let x = inside.x + rows_of(before + cell);
    if inside.height > 0 {
        frame.set_cursor_position(Position::new(x.min(inside.right()), inside.y));
    }
    shown
}

fn draw_palette(model: &Model, palette: &Palette, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let targets = palette.targets(&model.conversations, model.opened());
    let inside = boxed("Go to, or do", (WIDTH, 14), theme, frame);
    let prompt = if palette.slash { "/" } else { "› " };
    let shown = cursor(inside, text::width(prompt), &palette.query, frame);
    let mut first = Line::from(vec![Span::styled(prompt, theme.accent()), Span::raw(shown)]);
    if palette.query.is_empty() && !palette.slash {
        first.push_span(Span::styled("a name, or what you want to do", theme.quiet()));
    }
    let mut lines = vec![first];
    if targets.is_empty() {
        lines.push(Line::styled("nothing fits", theme.quiet()));
    }
    let described = targets.iter().map(|target| match target {
        Target::Conversation(number) => {
            let title = model.conversation(*number).map(|known| printable(&known.title));
            (text::one_line(&title.unwrap_or_default()), String::new())
        }
        Target::Action(action) => {
            let entry = ENTRIES.iter().find(|entry| entry.action == *action);
            let entry = entry.expect("every action is in the table: a test sees to it");
            (format!("/{} {}", entry.name, entry.argument), entry.about.to_owned())
        }
    });
    let items: Vec<_> = described.collect();
    lines.extend(list(theme, &items, palette.selected, inside, 1));
    frame.render_widget(Paragraph::new(lines), inside);
}

fn draw_pick(model: &Model, pick: &Pick, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let columns = inner_width(model.size.width, WIDTH);
    let hint = paragraph(&pick.hint, columns);
    let rows = rows_of(hint.len() + 2 + pick.items.len().max(1));
    let inside = boxed(&pick.title, (WIDTH, rows), theme, frame);
    let shown = cursor(inside, 2, &pick.query, frame);
    let mut lines = vec![Line::from(vec![Span::styled("› ", theme.accent()), Span::raw(shown)])];
    lines.extend(hint.into_iter().map(|row| Line::styled(row, theme.quiet())));
    let fitting = pick.fitting();
    if fitting.is_empty() {
        let words = if pick.items.is_empty() { "nobody yet: invite first" } else { "nothing fits" };
        lines.push(Line::styled(words, theme.quiet()));
    }
    let items: Vec<_> = fitting
        .into_iter()
        .map(|at| {
            let item = &pick.items[at];
            let tick = match (pick.takes_several(), item.ticked) {
                (false, _) => "",
                (true, true) => "[x] ",
                (true, false) => "[ ] ",
            };
            let label = text::one_line(&printable(&item.label));
            (format!("{tick}{label}"), text::one_line(&printable(&item.detail)))
        })
        .collect();
    let above = lines.len();
    lines.extend(list(theme, &items, pick.selected, inside, above));
    frame.render_widget(Paragraph::new(lines), inside);
}

/// Labels with details, the chosen one always seen.
fn list(
    theme: Theme,
    items: &[(String, String)],
    selected: usize,
    inside: Rect,
    above: usize,
) -> Vec<Line<'static>> {
    let columns = usize::from(inside.width);
    let height = usize::from(inside.height).saturating_sub(above).max(1);
    let top = (selected + 1).saturating_sub(height);
    let left = items.iter().map(|(label, _)| text::width(label)).max().unwrap_or(0) + 2;
    let left = left.min((columns * 3 / 5).max(12)).min(columns);
    let shown = items.iter().enumerate().skip(top).take(height);
    let line = |(at, (label, detail)): (usize, &(String, String))| {
        let words = match detail.as_str() {
            "" => label.clone(),
            detail => format!("{} {detail}", text::pad(label, left)),
        };
        let words = text::pad(&format!(" {words}"), columns);
        if at == selected { Line::styled(words, theme.chosen()) } else { Line::raw(words) }
    };
    shown.map(line).collect()
}

fn draw_field(model: &Model, field: &Field, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let hint = paragraph(&field.hint, inner_width(model.size.width, WIDTH));
    let inside = boxed(&field.title, (WIDTH, rows_of(hint.len() + 2)), theme, frame);
    let hidden = field.is_secret().then(|| {
        let dots = "•".repeat(field.input.text().chars().count());
        Composer::with(&dots)
    });
    let shown = cursor(inside, 2, hidden.as_ref().unwrap_or(&field.input), frame);
    let mut lines = vec![Line::from(vec![Span::styled("› ", theme.accent()), Span::raw(shown)])];
    lines.push(Line::default());
    lines.extend(hint.into_iter().map(|row| Line::styled(row, theme.quiet())));
    frame.render_widget(Paragraph::new(lines), inside);
}

fn draw_question(model: &Model, question: &Question, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let text = paragraph(&question.text, inner_width(model.size.width, WIDTH));
    let inside = boxed(&question.title, (WIDTH, rows_of(text.len() + 2)), theme, frame);
    let keys = [("y", question.yes.as_str()), ("n", question.no.as_str())];
    asked(theme, text, &keys, inside, frame);
}

fn draw_words(model: &Model, card: &WordsCard, frame: &mut Frame<'_>) {
    let theme = Theme::new(model.colour);
    let columns = inner_width(model.size.width, WIDTH);
    let name = text::one_line(&printable(&card.name));
    let mut rows = paragraph(
        &format!("Meet {name}, or call. Both of you open this page and compare, word by word:"),
        columns,
    );
    rows.push(String::new());
    rows.extend(
        paragraph(&card.words.join("  "), columns.saturating_sub(4))
            .iter()
            .map(|row| format!("    {row}")),
    );
    rows.push(String::new());
    rows.extend(paragraph(&card.next, columns));
    let title = format!("Is it {name}?{}", if card.verified { " (verified)" } else { "" });
    let inside = boxed(&title, (WIDTH, rows_of(rows.len() + 2)), theme, frame);
    asked(theme, rows, &[("s", "the same"), ("d", "different"), ("Esc", "later")], inside, frame);
}

/// Words, and the keys that answer them: the keys are seen even where the words are not all.
fn asked(
    theme: Theme,
    rows: Vec<String>,
    keys: &[(&str, &str)],
    inside: Rect,
    frame: &mut Frame<'_>,
) {
    let room = usize::from(inside.height).saturating_sub(1);
    let mut lines: Vec<_> = rows.into_iter().take(room).map(Line::raw).collect();
    lines.resize(room, Line::default());
    let mut answers = Line::default();
    for (key, meaning) in keys {
        answers.push_span(Span::styled((*key).to_owned(), theme.accent().patch(theme.strong())));
        answers.push_span(Span::raw(format!(" {meaning}   ")));
    }
    lines.push(answers);
    frame.render_widget(Paragraph::new(lines), inside);
}
