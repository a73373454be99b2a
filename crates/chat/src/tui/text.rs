//! Text on a grid of cells: how wide it is, where it is broken, how it is cut. All of it counts
//! whole grapheme clusters, as ratatui does, so that what is planned is what is drawn.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Cells that the text takes.
pub(crate) fn width(text: &str) -> usize {
    text.graphemes(true).map(UnicodeWidthStr::width).sum()
}

/// Byte ranges of the rows that one line of text becomes. A row ends after a space or beside a wide
/// character, and inside a word only where the word alone is longer than a row. Spaces at a row's
/// end may hang over; a line without text is one empty row.
pub(crate) fn wrap(line: &str, columns: usize) -> Vec<Range<usize>> {
    let columns = columns.max(1);
    let mut rows = Vec::new();
    let (mut start, mut used, mut may_end) = (0, 0, 0);
    for (at, grapheme) in line.grapheme_indices(true) {
        let cells = grapheme.width();
        let space = grapheme.chars().all(char::is_whitespace);
        if cells > 1 {
            may_end = at;
        }
        if used + cells > columns && at > start && !space {
            let end = if may_end > start { may_end } else { at };
            rows.push(start..end);
            start = end;
            used = width(&line[start..at]);
        }
        used += cells;
        if space || cells > 1 {
            may_end = at + grapheme.len();
        }
    }
    rows.push(start..line.len());
    rows
}

/// The text in at most so many cells; `…` says that something is missing.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    for grapheme in text.graphemes(true) {
        used += grapheme.width();
        if used + 1 > columns {
            break;
        }
        kept.push_str(grapheme);
    }
    if columns > 0 {
        kept.push('…');
    }
    kept
}

/// The text in one line: line breaks and runs of spaces become one space.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text and spaces up to so many cells.
pub(crate) fn pad(text: &str, columns: usize) -> String {
    let text = fit(text, columns);
    let missing = columns - width(&text).min(columns);
    text + &" ".repeat(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(line: &str, columns: usize) -> Vec<&str> {
        wrap(line, columns).into_iter().map(|range| &line[range]).collect()
    }

    #[test]
    fn rows_end_where_a_reader_expects() {
        for (line, columns, expected) in [
            ("", 10, vec![""]),
            ("one two three", 7, vec!["one two ", "three"]),
            ("one two", 7, vec!["one two"]),
            ("onetwothree", 4, vec!["onet", "woth", "ree"]),
            ("a onetwothree", 6, vec!["a ", "onetwo", "three"]),
            ("漢字漢字", 5, vec!["漢字", "漢字"]),
            ("ab漢字", 3, vec!["ab", "漢", "字"]),
            ("漢", 1, vec!["漢"]),
            ("a     b", 3, vec!["a     ", "b"]),
            // A family is one picture, and an accent stays on its letter.
            ("👨‍👩‍👧👨‍👩‍👧", 2, vec!["👨‍👩‍👧", "👨‍👩‍👧"]),
            ("e\u{301}e\u{301}e\u{301}", 2, vec!["e\u{301}e\u{301}", "e\u{301}"]),
        ] {
            assert_eq!(rows(line, columns), expected, "{line:?} in {columns}");
        }
    }

    #[test]
    fn nothing_is_lost_or_too_wide() {
        let line = "Ünïcode 漢字 👩‍💻 שלום עולם a\u{300}b   end https://example.org/a/very/long/path";
        for columns in 1..60 {
            let pieces = rows(line, columns);
            assert_eq!(pieces.concat(), line);
            assert!(pieces.iter().all(|row| width(row.trim_end()) <= columns.max(2)), "{columns}");
        }
    }

    #[test]
    fn cutting_says_so() {
        assert_eq!(fit("hello", 5), "hello");
        assert_eq!(fit("hello", 4), "hel…");
        assert_eq!(fit("漢字漢字", 4), "漢…");
        assert_eq!(fit("hello", 1), "…");
        assert_eq!(fit("hello", 0), "");
        assert_eq!(pad("漢", 3), "漢 ");
        assert_eq!(one_line("a\n b\tc "), "a b c");
    }
}
