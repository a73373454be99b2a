//! Source files as the rules see them: without comments, without the contents of strings, without
//! their unit tests.

use std::path::{Path, PathBuf};

/// One file.
pub struct Source {
    /// From the repository's root, with slashes.
    pub path: String,
    /// As it is on the disk.
    pub text: String,
}

impl Source {
    /// A file that only a test knows.
    pub fn fixture(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The text up to its unit tests.
    pub fn shipped(&self) -> &str {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return "";
        }
        let tests = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\nmod contract {"];
        let end = tests.iter().filter_map(|mark| self.text.find(mark)).min();
        &self.text[..end.unwrap_or(self.text.len())]
    }

    /// What is shipped, with comments and literals blanked.
    pub fn code(&self) -> String {
        blank(self.shipped())
    }

    /// The room of a file of the relay: the module right under `src`.
    pub fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }
}

/// Every Rust file under these directories, in a fixed order.
pub fn rust_files(directories: &[&str]) -> Vec<Source> {
    let mut files: Vec<Source> =
        text_files(directories).into_iter().filter(|file| file.path.ends_with(".rs")).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Every text file under these directories (or files), build outputs apart.
pub fn text_files(roots: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    for root in roots {
        walk(&repository().join(root), &mut files);
    }
    files
}

pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(path: &Path, files: &mut Vec<Source>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let built = ["target", ".git", "node_modules", "corpus", "artifacts"];
    if built.contains(&name.as_ref()) || path.join("CACHEDIR.TAG").exists() {
        return;
    }
    if path.is_dir() {
        let mut entries: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| walk(entry, files));
    } else if let Ok(text) = std::fs::read_to_string(path) {
        let path = path.strip_prefix(repository()).unwrap().to_string_lossy().replace('\\', "/");
        files.push(Source { path, text });
    }
}

/// The same text with every comment and every literal's content replaced by spaces. Line breaks
/// stay, so that line numbers do.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => line_end(bytes, at),
            [b'/', b'*', ..] => block_comment_end(bytes, at),
            [b'"', ..] => quoted_end(bytes, at),
            [b'r' | b'b', ..] if starts_raw_string(bytes, at) => raw_string_end(bytes, at),
            [b'\'', b'\\', ..] => char_end(bytes, at),
            // A lifetime has no closing quote two characters on.
            [b'\'', first, ..] if bytes.get(at + 1 + utf8_len(*first)) == Some(&b'\'') => {
                at + 2 + utf8_len(*first)
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
                continue;
            }
        };
        let end = end.min(bytes.len());
        out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    String::from_utf8(out).expect("only whole literals were replaced")
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at)
}

fn block_comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted_end(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn char_end(bytes: &[u8], at: usize) -> usize {
    // The escaped character itself may be a quote.
    let from = at + 3;
    from + bytes[from.min(bytes.len())..].iter().position(|byte| *byte == b'\'').unwrap_or(0) + 1
}

fn starts_raw_string(bytes: &[u8], at: usize) -> bool {
    let inside_a_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let rest = &bytes[at..];
    let rest = rest.strip_prefix(b"b").unwrap_or(rest);
    let Some(rest) = rest.strip_prefix(b"r") else { return false };
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    !inside_a_word && rest.get(hashes) == Some(&b'"')
}

fn raw_string_end(bytes: &[u8], at: usize) -> usize {
    let open = at + bytes[at..].iter().position(|byte| *byte == b'"').expect("it begins one");
    let hashes = bytes[at..open].iter().filter(|byte| **byte == b'#').count();
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let body = &bytes[open + 1..];
    let end = body.windows(close.len()).position(|window| window == close);
    open + 1 + end.map_or(body.len(), |end| end + close.len())
}

fn utf8_len(first: u8) -> usize {
    match first {
        0..=0x7f => 1,
        0x80..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    }
}

/// The identifiers of a text that was blanked, each with its line, from 1.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    code.lines().enumerate().flat_map(move |(i, line)| {
        line.split(move |c| !is_of_a_word(c))
            .filter(|word| !word.is_empty())
            .map(move |w| (i + 1, w))
    })
}

/// The parts of a name: `SlowTap`, `slow_tap` and `SLOW_TAP` have the parts `slow` and `tap`.
pub fn parts(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut after_lower = false;
    for c in word.chars() {
        if c == '_' || (c.is_uppercase() && after_lower) {
            parts.push(String::new());
        }
        after_lower = c.is_lowercase() || c.is_numeric();
        if c != '_' {
            parts.last_mut().expect("it is never empty").extend(c.to_lowercase());
        }
    }
    parts
}
