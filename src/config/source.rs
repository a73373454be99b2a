//! Reading the raw form: a TOML file and the environment. Whatever is wrong has its line or its
//! variable in the error.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::error::{ConfigError, Origin, nearest};
use super::key::{KEYS, Key, Kind, Layer, key};

/// A parsed file, and where in it each key is.
#[derive(Debug, Default)]
pub(super) struct FileLayer {
    pub(super) layer: Layer,
    path: PathBuf,
    lines: HashMap<String, usize>,
}

impl FileLayer {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::parse(path, &text)
    }

    /// Reads the text of a file of this name.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file = Text { path, text };
        let document = DeTable::parse(text).map_err(|error| file.syntax(&error))?;
        let places = file.places(document.get_ref())?;
        let layer = toml::from_str(text).map_err(|error| file.wrong_kind(&error, &places))?;
        let lines =
            places.into_iter().map(|(key, place)| (key.full_name(), file.line(&place))).collect();
        Ok(Self { layer, path: path.into(), lines })
    }

    /// Where a key is, if it is in the file.
    pub(super) fn origin(&self, key: &Key) -> Option<Origin> {
        let line = self.lines.get(&key.full_name())?;
        Some(Origin::Line(self.path.clone(), *line))
    }
}

struct Text<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Text<'_> {
    /// The line, from 1, on which a range begins.
    fn line(&self, range: &Range<usize>) -> usize {
        self.text.bytes().take(range.start).filter(|byte| *byte == b'\n').count() + 1
    }

    fn origin(&self, range: &Range<usize>) -> Origin {
        Origin::Line(self.path.into(), self.line(range))
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        ConfigError::Syntax {
            origin: self.origin(&error.span().unwrap_or_default()),
            message: error.message().to_owned(),
        }
    }

    /// The place of each key's value; an unknown key is an error.
    fn places(
        &self,
        document: &DeTable<'_>,
    ) -> Result<Vec<(&'static Key, Range<usize>)>, ConfigError> {
        let mut places = Vec::new();
        for (section, content) in document {
            let known = KEYS.iter().any(|key| key.section == section.get_ref().as_ref());
            let DeValue::Table(content) = content.get_ref() else {
                return Err(self.misplaced(section, known));
            };
            if !known {
                return Err(self.unknown_section(section));
            }
            for (name, value) in content {
                let key = key(section.get_ref(), name.get_ref())
                    .ok_or_else(|| self.unknown_key(section.get_ref(), name))?;
                places.push((key, value.span()));
            }
        }
        Ok(places)
    }

    fn unknown_section(&self, section: &Spanned<impl AsRef<str>>) -> ConfigError {
        let name = section.get_ref().as_ref();
        let meant = nearest(name, KEYS.iter().map(|key| key.section));
        ConfigError::Unknown {
            origin: self.origin(&section.span()),
            what: "section",
            name: name.to_owned(),
            meant: meant.map(str::to_owned),
        }
    }

    /// Names of the same section first, then the same or a similar name elsewhere.
    fn unknown_key(&self, section: &str, name: &Spanned<impl AsRef<str>>) -> ConfigError {
        let written = name.get_ref().as_ref();
        let here = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
        let meant = nearest(written, here).map(str::to_owned).or_else(|| elsewhere(written));
        ConfigError::Unknown {
            origin: self.origin(&name.span()),
            what: "key",
            name: written.to_owned(),
            meant,
        }
    }

    /// A value outside of any section, or instead of one.
    fn misplaced(&self, name: &Spanned<impl AsRef<str>>, is_section: bool) -> ConfigError {
        let written = name.get_ref().as_ref();
        let origin = self.origin(&name.span());
        if is_section {
            let message =
                format!("`{written}` is a section; write [{written}] on a line of its own");
            return ConfigError::Conflict { origin, message };
        }
        let name = written.to_owned();
        ConfigError::Unknown { origin, what: "key", name, meant: elsewhere(written) }
    }

    fn wrong_kind(
        &self,
        error: &toml::de::Error,
        places: &[(&'static Key, Range<usize>)],
    ) -> ConfigError {
        let span = error.span().unwrap_or_default();
        let inside = |place: &Range<usize>| place.start <= span.start && span.end <= place.end;
        let Some((key, place)) = places.iter().find(|(_, place)| inside(place)) else {
            return self.syntax(error);
        };
        let value = self.text.get(place.clone()).unwrap_or_default();
        ConfigError::Value {
            origin: self.origin(place),
            key,
            value: value.to_owned(),
            hint: String::new(),
        }
    }
}

/// A key of this or a similar name in any section, with its section.
fn elsewhere(written: &str) -> Option<String> {
    let name = nearest(written, KEYS.iter().map(|key| key.name))?;
    KEYS.iter().find(|key| key.name == name).map(Key::full_name)
}

/// What `VALISE_SECTION_KEY` variables say. Empty ones count as unset; variables of other programs
/// of the family are left alone, but one with the name of a section has to be a key of it.
pub(super) fn environment_layer(variables: &[(String, String)]) -> Result<Layer, ConfigError> {
    let mut table = Table::new();
    for (name, text) in variables.iter().filter(|(_, text)| !text.is_empty()) {
        let Some(key) = KEYS.iter().find(|key| key.variable() == *name) else {
            refuse_unknown(name)?;
            continue;
        };
        let value = value(key, text).ok_or_else(|| ConfigError::Value {
            origin: Origin::Variable(name.clone()),
            key,
            value: format!("`{text}`"),
            hint: String::new(),
        })?;
        let section = table.entry(key.section).or_insert_with(|| Value::Table(Table::new()));
        let section = section.as_table_mut().expect("only tables are put there");
        section.insert(key.name.to_owned(), value);
    }
    Ok(Layer::deserialize(table).expect("every value has its key's kind"))
}

fn value(key: &Key, text: &str) -> Option<Value> {
    match key.kind {
        Kind::Text => Some(Value::String(text.to_owned())),
        Kind::List => {
            let item = |item: &str| Value::String(item.trim().to_owned());
            Some(Value::Array(text.split(',').map(item).collect()))
        }
        Kind::Number => {
            let number = text.trim().parse::<i64>().ok()?;
            (number >= 0).then_some(Value::Integer(number))
        }
    }
}

fn refuse_unknown(name: &str) -> Result<(), ConfigError> {
    let of_section = |key: &Key| {
        name.strip_prefix("VALISE_")
            .and_then(|rest| rest.strip_prefix(&key.section.to_uppercase()))
            .is_some_and(|rest| rest.starts_with('_'))
    };
    if !KEYS.iter().any(of_section) {
        return Ok(());
    }
    let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
    Err(ConfigError::Unknown {
        origin: Origin::Variable(name.to_owned()),
        what: "variable",
        name: name.to_owned(),
        meant: nearest(name, known.iter().map(String::as_str)).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FileLayer, String> {
        FileLayer::parse(Path::new("v.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_is_found_with_its_line() {
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            if key.section != section {
                section = key.section;
                text.push_str(&format!("[{section}]\n"));
            }
            let value = match key.kind {
                Kind::Text => "'x'",
                Kind::List => "['x']",
                Kind::Number => "7",
            };
            text.push_str(&format!("{} = {value}\n", key.name));
        }
        let file = parse(&text).unwrap();
        for key in KEYS {
            assert!(file.layer.has(key), "{}", key.full_name());
            let Some(Origin::Line(_, line)) = file.origin(key) else { panic!("{}", key.name) };
            assert!(text.lines().nth(line - 1).unwrap().starts_with(key.name), "{}", key.name);
        }
    }

    #[test]
    fn mistakes_have_line_cause_and_fix() {
        let cases = [
            (
                "# a comment\n[relay]\nacess = \"open\"\n",
                "v.toml:3: unknown key `acess`; did you mean `access`?",
            ),
            ("[relay]\ncolour = 1\n", "v.toml:2: unknown key `colour`"),
            (
                "\n[relai]\naccess = \"open\"\n",
                "v.toml:2: unknown section `relai`; did you mean `relay`?",
            ),
            (
                "[relay]\ncertificate = \"x\"\n",
                "v.toml:2: unknown key `certificate`; did you mean `tls.certificate`?",
            ),
            ("acces = \"open\"\n", "v.toml:1: unknown key `acces`; did you mean `relay.access`?"),
            (
                "relay = \"open\"\n",
                "v.toml:1: `relay` is a section; write [relay] on a line of its own",
            ),
            (
                "[relay]\nlisten = \"127.0.0.1:1\"\n",
                "v.toml:2: relay.listen cannot be \"127.0.0.1:1\"; it takes a list of addresses, \
                 such as [\"127.0.0.1:7443\"]",
            ),
            (
                "[limits]\n\npackets_burst = -1\n",
                "v.toml:3: limits.packets_burst cannot be -1; it takes packets at once on one \
                 connection",
            ),
            (
                "[relay]\nlisten = [\n  \"127.0.0.1:1\",\n  7,\n]\n",
                "v.toml:2: relay.listen cannot be [",
            ),
            ("[limits]\npackets_burst = ten\n", "v.toml:2: "),
            ("[log]\nlevel = 'warn'\n[log]\n", "v.toml:3: duplicate key"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}\n got {error}\nwant {expected}");
        }
    }

    fn environment(pairs: &[(&str, &str)]) -> Result<Layer, String> {
        let pairs: Vec<_> =
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        environment_layer(&pairs).map_err(|error| error.to_string())
    }

    #[test]
    fn variables_set_keys() {
        let layer = environment(&[
            ("VALISE_RELAY_LISTEN", "127.0.0.1:1, [::1]:2"),
            ("VALISE_LIMITS_PACKETS_BURST", "12"),
            ("VALISE_LOG_LEVEL", "debug"),
            ("VALISE_RELAY_ACCESS", ""),
            ("VALISE_INVITE_CODE", "another program's"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(layer.relay.listen.unwrap(), ["127.0.0.1:1", "[::1]:2"]);
        assert_eq!(layer.limits.packets_burst, Some(12));
        assert_eq!(layer.log.level.as_deref(), Some("debug"));
        assert_eq!(layer.relay.access, None, "empty counts as unset");
    }

    #[test]
    fn wrong_variables_are_named() {
        let cases = [
            (
                "VALISE_LIMITS_PACKETS_BURST",
                "many",
                "VALISE_LIMITS_PACKETS_BURST: limits.packets_burst cannot be `many`; it takes \
                 packets at once on one connection",
            ),
            ("VALISE_LIMITS_PACKETS_BURST", "-1", "VALISE_LIMITS_PACKETS_BURST: limits."),
            (
                "VALISE_RELAY_ACESS",
                "open",
                "VALISE_RELAY_ACESS: unknown variable `VALISE_RELAY_ACESS`; did you mean \
                 `VALISE_RELAY_ACCESS`?",
            ),
        ];
        for (name, text, expected) in cases {
            let error = environment(&[(name, text)]).unwrap_err();
            assert!(error.starts_with(expected), "got {error}\nwant {expected}");
        }
    }
}
