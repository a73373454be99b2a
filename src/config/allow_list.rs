//! The allow list: owner keys in hex, one a line; `#` begins a comment.

use std::collections::HashSet;
use std::path::Path;

use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use valise_proto::OwnerKey;

use super::error::{ConfigError, Origin};

/// Reads the list.
pub(super) fn read(path: &Path) -> Result<HashSet<OwnerKey>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.into(), source })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<HashSet<OwnerKey>, ConfigError> {
    text.lines()
        .map(|line| line.split_once('#').map_or(line, |(key, _)| key).trim())
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(i, line)| {
            owner(line).ok_or_else(|| ConfigError::Conflict {
                origin: Origin::Line(path.into(), i + 1),
                message: "an owner key is 64 hex digits, one key a line".to_owned(),
            })
        })
        .collect()
}

fn owner(hex: &str) -> Option<OwnerKey> {
    OwnerKey::try_from(&HEX.decode(hex.as_bytes()).ok()?[..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_comments_and_empty_lines() {
        let [a, b] = ["0a".repeat(32), "0B".repeat(32)];
        let text = format!("# ours\n\n{a}  # the office\r\n  {b}\n{a}\n");
        let list = parse(Path::new("list"), &text).unwrap();
        assert_eq!(list, HashSet::from([OwnerKey::new([0x0a; 32]), OwnerKey::new([0x0b; 32])]));
        assert!(parse(Path::new("list"), "").unwrap().is_empty());
    }

    #[test]
    fn a_wrong_line_is_named() {
        let good = "0a".repeat(32);
        for wrong in ["0a", &"0g".repeat(32), &format!("{good}0a"), "alice"] {
            let error = parse(Path::new("list"), &format!("{good}\n# x\n{wrong}\n")).unwrap_err();
            assert_eq!(error.to_string(), "list:3: an owner key is 64 hex digits, one key a line");
        }
    }

    #[test]
    fn a_missing_list_is_named() {
        let error = read(Path::new("/nonexistent/list")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nonexistent/list: "), "{error}");
    }
}
