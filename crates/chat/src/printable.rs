//! What others have written, made harmless before it reaches a terminal: no escape sequence, no
//! character that moves the cursor or turns the direction of the rest of the line.

/// A text of others for a terminal. Line ends stay, as `\n`; everything else that a terminal would
/// obey instead of show is shown by a sign.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' if characters.peek() == Some(&'\n') => {}
            // Unicode's own line ends, which some terminals obey.
            '\n' | '\u{2028}' | '\u{2029}' => shown.push('\n'),
            '\t' => shown.push_str("    "),
            '\0'..='\x1f' => shown.push(picture(character)),
            '\x7f' => shown.push('\u{2421}'),
            _ if is_harmful(character) => shown.push(char::REPLACEMENT_CHARACTER),
            _ => shown.push(character),
        }
    }
    shown
}

/// A name or a title for a terminal: [`printable`], and on one line.
pub fn printable_line(text: &str) -> String {
    printable(text).replace('\n', " ")
}

/// JSON for a terminal. Programs read the same as before: what is harmful stands in strings alone,
/// and is escaped there.
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        // None of them is beyond the basic plane.
        if character.is_control() || is_harmful(character) {
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The sign that Unicode has for a control character: U+241B for escape.
fn picture(control: char) -> char {
    char::from_u32(0x2400 + u32::from(control)).expect("every control below space has a picture")
}

fn is_harmful(character: char) -> bool {
    matches!(character,
        // C1: some terminals take U+009B for the beginning of an escape sequence.
        '\u{80}'..='\u{9f}'
        // Embeddings, overrides and isolates: they turn what follows, also what we write there.
        | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        // Deprecated formats, annotations, and the byte order mark: invisible without a use here.
        | '\u{206a}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown() {
        let table = [
            ("plain, ünïcode, 日本", "plain, ünïcode, 日本"),
            ("\x1b[2J\x07", "\u{241b}[2J\u{2407}"),
            ("\u{9b}31m", "\u{fffd}31m"),
            ("a\u{202e}b\u{2066}c", "a\u{fffd}b\u{fffd}c"),
            ("\x7f\0", "\u{2421}\u{2400}"),
            ("a\tb", "a    b"),
            ("one\r\ntwo\nthree\rfour\u{2028}five", "one\ntwo\nthree\u{240d}four\nfive"),
            // Joiners make emoji of several, and marks order a word of Hebrew or Arabic.
            ("👩\u{200d}🚀 שלום\u{200f}", "👩\u{200d}🚀 שלום\u{200f}"),
        ];
        for (text, shown) in table {
            assert_eq!(printable(text), shown, "{text:?}");
        }
    }

    #[test]
    fn no_control_character_is_left() {
        let all: String = (0..=0x2_ffff).filter_map(char::from_u32).collect();
        assert!(printable(&all).chars().all(|c| c == '\n' || !c.is_control()));
        assert!(!printable_line(&all).contains('\n'));
    }

    #[test]
    fn json_stays_what_it_is() {
        let text = "\x1b[2J \u{9b}31m \u{202e}x\u{7f}\n \u{1f468}\u{200d}\u{1f680} \\u009b";
        let json = serde_json::json!({ "text": text, "\u{feff}": 1 });
        let shown = printable_json(&json.to_string());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), json);
        assert!(!shown.chars().any(|c| c.is_control() || is_harmful(c)), "{shown}");
    }

    #[test]
    fn a_name_is_one_line() {
        assert_eq!(printable_line("Ann\nBob: hello"), "Ann Bob: hello");
    }
}
