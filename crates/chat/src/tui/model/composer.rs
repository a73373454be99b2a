//! Where the user writes: an editor that steps over whole grapheme clusters and knows on which row
//! of the screen the cursor is.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui_textarea::{CursorMove, TextArea};
use unicode_segmentation::UnicodeSegmentation;

use crate::tui::text;

/// Longer drafts are not for a chat line; it also keeps every key stroke quick.
const CHARS_MAX: usize = 32 * 1024;

/// A text being written, of one line or of many.
#[derive(Debug, Clone, Default)]
pub(crate) struct Composer {
    area: TextArea<'static>,
}

/// The rows a draft takes on the screen, and where the cursor is among them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sheet {
    pub(crate) rows: Vec<String>,
    /// Row and cell.
    pub(crate) cursor: (usize, usize),
    /// Line of the draft and byte in it, where each row begins.
    starts: Vec<(usize, usize)>,
}

impl Composer {
    /// With a text, the cursor behind it.
    pub(crate) fn with(text: &str) -> Self {
        let mut composer = Self::default();
        composer.insert(text);
        composer
    }

    pub(crate) fn text(&self) -> String {
        self.area.lines().join("\n")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.area.is_empty()
    }

    /// Empties it; `Ctrl-Z` brings the text back.
    pub(crate) fn clear(&mut self) {
        self.area.select_all();
        self.area.delete_char();
    }

    /// Puts text in at the cursor, a tab as spaces and other control characters left out. False: it is too long, and
    /// nothing was put in.
    pub(crate) fn insert(&mut self, text: &str) -> bool {
        let text = text.replace("\r\n", "\n").replace('\r', "\n").replace('\t', "    ");
        let text: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
        let held: usize = self.area.lines().iter().map(|line| line.chars().count() + 1).sum();
        if held + text.chars().count() > CHARS_MAX {
            return false;
        }
        self.area.insert_str(text);
        true
    }

    /// The same in one line: for fields.
    pub(crate) fn insert_line(&mut self, text: &str) -> bool {
        self.insert(&text::one_line(text))
    }

    /// One key. False: it means nothing here.
    pub(crate) fn key(&mut self, key: KeyEvent, columns: usize) -> bool {
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        match key.code {
            KeyCode::Char(c) if !ctrl && !alt => return self.insert(c.encode_utf8(&mut [0; 4])),
            KeyCode::Backspace if alt || ctrl => drop(self.area.delete_word()),
            KeyCode::Char('w') if ctrl => drop(self.area.delete_word()),
            KeyCode::Backspace => self.delete_before(),
            KeyCode::Char('h') if ctrl => self.delete_before(),
            KeyCode::Delete if alt || ctrl => drop(self.area.delete_next_word()),
            KeyCode::Char('d') if alt => drop(self.area.delete_next_word()),
            KeyCode::Delete => self.delete_after(),
            KeyCode::Char('d') if ctrl => self.delete_after(),
            KeyCode::Char('u') if ctrl => drop(self.area.delete_line_by_head()),
            KeyCode::Char('z') if ctrl => drop(self.area.undo()),
            KeyCode::Char('y') if ctrl => drop(self.area.redo()),
            KeyCode::Left if ctrl || alt => self.area.move_cursor(CursorMove::WordBack),
            KeyCode::Char('b') if alt => self.area.move_cursor(CursorMove::WordBack),
            KeyCode::Right if ctrl || alt => self.area.move_cursor(CursorMove::WordForward),
            KeyCode::Char('f') if alt => self.area.move_cursor(CursorMove::WordForward),
            KeyCode::Left => self.step(CursorMove::Back, self.before()),
            KeyCode::Char('b') if ctrl => self.step(CursorMove::Back, self.before()),
            KeyCode::Right => self.step(CursorMove::Forward, self.after()),
            KeyCode::Char('f') if ctrl => self.step(CursorMove::Forward, self.after()),
            KeyCode::Home => self.area.move_cursor(CursorMove::Head),
            KeyCode::Char('a') if ctrl => self.area.move_cursor(CursorMove::Head),
            KeyCode::End => self.area.move_cursor(CursorMove::End),
            KeyCode::Char('e') if ctrl => self.area.move_cursor(CursorMove::End),
            KeyCode::Up => return self.climb(columns, false),
            KeyCode::Down => return self.climb(columns, true),
            _ => return false,
        }
        true
    }

    /// How the draft lies on so many columns.
    pub(crate) fn sheet(&self, columns: usize) -> Sheet {
        let (line_at, offset_at) = self.at();
        let mut sheet = Sheet { rows: Vec::new(), cursor: (0, 0), starts: Vec::new() };
        for (number, line) in self.area.lines().iter().enumerate() {
            for range in text::wrap(line, columns) {
                if number == line_at && range.start <= offset_at {
                    let cell = text::width(&line[range.start..offset_at.min(range.end)]);
                    sheet.cursor = (sheet.rows.len(), cell.min(columns.saturating_sub(1)));
                }
                sheet.starts.push((number, range.start));
                sheet.rows.push(line[range].to_owned());
            }
        }
        sheet
    }

    /// The part of a single line that is seen in so many columns, and the cell of the cursor in it.
    pub(crate) fn window(&self, columns: usize) -> (String, usize) {
        let line = &self.area.lines()[0];
        let (_, offset) = self.at();
        let before = text::width(&line[..offset]);
        if before < columns {
            return (text::fit(line, columns), before);
        }
        // The end of what stands before the cursor; `…` says that there is more.
        let mut start = offset;
        let mut used = 0;
        for (at, grapheme) in line[..offset].grapheme_indices(true).rev() {
            used += text::width(grapheme);
            if used + 2 > columns {
                break;
            }
            start = at;
        }
        let shown = format!("…{}", &line[start..offset]);
        let cell = text::width(&shown);
        (shown, cell)
    }

    /// Line and byte of the cursor.
    fn at(&self) -> (usize, usize) {
        let cursor = self.area.cursor();
        let line = &self.area.lines()[cursor.0];
        let offset = line.char_indices().nth(cursor.1).map_or(line.len(), |(at, _)| at);
        (cursor.0, offset)
    }

    /// Characters of the cluster before the cursor; a line's beginning counts as one.
    fn before(&self) -> usize {
        let (line, offset) = self.at();
        let text = &self.area.lines()[line][..offset];
        text.graphemes(true).next_back().map_or(1, |cluster| cluster.chars().count())
    }

    /// Characters of the cluster behind the cursor; a line's end counts as one.
    fn after(&self) -> usize {
        let (line, offset) = self.at();
        let text = &self.area.lines()[line][offset..];
        text.graphemes(true).next().map_or(1, |cluster| cluster.chars().count())
    }

    fn step(&mut self, direction: CursorMove, chars: usize) {
        for _ in 0..chars {
            self.area.move_cursor(direction);
        }
    }

    fn delete_before(&mut self) {
        for _ in 0..self.before() {
            self.area.delete_char();
        }
    }

    fn delete_after(&mut self) {
        for _ in 0..self.after() {
            self.area.delete_next_char();
        }
    }

    /// A row up or down on the screen. False: there is none.
    fn climb(&mut self, columns: usize, down: bool) -> bool {
        let sheet = self.sheet(columns);
        let (row, cell) = sheet.cursor;
        let target = if down { row + 1 } else { row.wrapping_sub(1) };
        let Some(&(line, start)) = sheet.starts.get(target) else { return false };
        let mut offset = start;
        let mut used = 0;
        for grapheme in sheet.rows[target].graphemes(true) {
            if used >= cell {
                break;
            }
            used += text::width(grapheme);
            offset += grapheme.len();
        }
        // The last place of a row that goes on is the first of the next one.
        let goes_on = sheet.starts.get(target + 1).is_some_and(|next| *next == (line, offset));
        let chars = self.area.lines()[line][..offset].chars().count() - usize::from(goes_on);
        let fits = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        self.area.move_cursor(CursorMove::Jump(fits(line), fits(chars)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(composer: &mut Composer, code: KeyCode, modifiers: KeyModifiers) -> bool {
        composer.key(KeyEvent::new(code, modifiers), 10)
    }

    #[test]
    fn clusters_are_stepped_over_and_deleted_whole() {
        let mut composer = Composer::with("a👨‍👩‍👧e\u{301}");
        press(&mut composer, KeyCode::Left, KeyModifiers::NONE);
        assert_eq!(composer.sheet(10).cursor, (0, 3));
        press(&mut composer, KeyCode::Left, KeyModifiers::NONE);
        assert_eq!(composer.sheet(10).cursor, (0, 1));
        press(&mut composer, KeyCode::Delete, KeyModifiers::NONE);
        assert_eq!(composer.text(), "ae\u{301}");
        press(&mut composer, KeyCode::End, KeyModifiers::NONE);
        press(&mut composer, KeyCode::Backspace, KeyModifiers::NONE);
        assert_eq!(composer.text(), "a");
    }

    #[test]
    fn up_and_down_follow_the_rows_of_the_screen() {
        let mut composer = Composer::with("one two three four\nx");
        assert_eq!(composer.sheet(10).rows, ["one two ", "three four", "x"]);
        assert_eq!(composer.sheet(10).cursor, (2, 1));
        assert!(press(&mut composer, KeyCode::Up, KeyModifiers::NONE));
        assert_eq!(composer.sheet(10).cursor, (1, 1));
        assert!(press(&mut composer, KeyCode::Up, KeyModifiers::NONE));
        assert_eq!(composer.sheet(10).cursor, (0, 1));
        assert!(!press(&mut composer, KeyCode::Up, KeyModifiers::NONE));
        assert!(press(&mut composer, KeyCode::Down, KeyModifiers::NONE));
        assert!(press(&mut composer, KeyCode::Down, KeyModifiers::NONE));
        assert!(!press(&mut composer, KeyCode::Down, KeyModifiers::NONE));
    }

    #[test]
    fn pasted_control_characters_stay_out() {
        let mut composer = Composer::default();
        assert!(composer.insert("a\r\nb\tc\u{1b}[31m\u{7}"));
        assert_eq!(composer.text(), "a\nb    c[31m");
        assert!(!composer.insert(&"x".repeat(CHARS_MAX)));
        assert_eq!(composer.text(), "a\nb    c[31m");
    }

    #[test]
    fn a_long_line_is_seen_where_the_cursor_is() {
        let mut composer = Composer::with("valise://relay");
        assert_eq!(composer.window(20), ("valise://relay".to_owned(), 14));
        assert_eq!(composer.window(8), ("…/relay".to_owned(), 7));
        assert_eq!(Composer::with("漢字漢字").window(6), ("…漢字".to_owned(), 5));
        press(&mut composer, KeyCode::Home, KeyModifiers::NONE);
        assert_eq!(composer.window(8), ("valise:…".to_owned(), 0));
        for columns in 0..20 {
            assert!(text::width(&composer.window(columns).0) <= columns.max(1));
        }
    }

    #[test]
    fn what_was_cleared_comes_back() {
        let mut composer = Composer::with("precious\nwords");
        composer.clear();
        assert!(composer.is_empty());
        press(&mut composer, KeyCode::Char('z'), KeyModifiers::CONTROL);
        assert_eq!(composer.text(), "precious\nwords");
    }
}
