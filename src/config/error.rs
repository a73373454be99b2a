//! What is wrong with a configuration, where, and what to write instead.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::key::Key;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    Line(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// The command line.
    CommandLine,
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::CommandLine => f.write_str("command line"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why a relay cannot run with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not TOML.
    #[error("{origin}: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser says.
        message: String,
    },
    /// No such key.
    #[error("{origin}: unknown {what} `{name}`{}", suggestion(.meant.as_deref()))]
    Unknown {
        /// Where.
        origin: Origin,
        /// A section, a key or a variable.
        what: &'static str,
        /// What is there.
        name: String,
        /// What may have been meant.
        meant: Option<String>,
    },
    /// A value of the wrong kind, or out of range.
    #[error("{origin}: {} cannot be {value}; it takes {}{hint}", .key.full_name(), .key.takes)]
    Value {
        /// Where.
        origin: Origin,
        /// The key.
        key: &'static Key,
        /// What is there.
        value: String,
        /// The range, or what may have been meant; empty if there is nothing more to say.
        hint: String,
    },
    /// Values that cannot be together.
    #[error("{origin}: {message}")]
    Conflict {
        /// Where the first of them is.
        origin: Origin,
        /// Cause and fix.
        message: String,
    },
    /// No `HOME`, so there is no default state directory.
    #[error(
        "there is no place for the state directory, because neither HOME nor XDG_STATE_HOME is \
         set; name one with --state-directory or relay.state_directory"
    )]
    NoStateDirectory,
}

/// The end of a message.
pub(super) fn suggestion(meant: Option<&str>) -> String {
    meant.map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"))
}

/// The candidate that a slip of the keyboard or two is away.
pub(super) fn nearest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let allowed = (written.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_word_and_other_words_do_not() {
        let words = ["access", "allow_list", "listen", "endpoints"];
        let cases = [
            ("acess", Some("access")),
            ("acces", Some("access")),
            ("lsiten", Some("listen")),
            ("allow-list", Some("allow_list")),
            ("endpoint", Some("endpoints")),
            ("colour", None),
            ("a", None),
            ("", None),
        ];
        for (written, expected) in cases {
            assert_eq!(nearest(written, words), expected, "{written}");
        }
    }
}
