//! What is printed: data on standard output, words for people on standard error.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use valise_chat_core::api::{Message, MessageKind, MessageState};

use super::exit::Failure;
use crate::printable::{printable, printable_json, printable_line};
use crate::qr;

/// Says something to the person at the terminal.
pub(super) fn say(text: impl AsRef<str>) {
    // Nothing can be done about a closed terminal.
    writeln!(io::stderr(), "{}", text.as_ref()).ok();
}

/// Asks a question whose answer is yes or no; no, where there is nobody to answer.
pub(super) async fn is_agreed(question: &str) -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    write!(io::stderr(), "{question} [y/N] ").and_then(|()| io::stderr().flush()).ok();
    let answer = input(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.unwrap_or_default();
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Reads standard input beside the runtime: whoever waits for a person still hears signals.
///
/// # Errors
/// The input's.
pub(super) async fn input<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Standard output.
#[derive(Debug)]
pub(super) struct Output {
    is_terminal: bool,
    has_colours: bool,
    zone: TimeZone,
}

impl Output {
    /// As the process has it.
    pub(super) fn of_process() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let has_colours = is_terminal && !is_dumb && !is_unwanted;
        Self { is_terminal, has_colours, zone: TimeZone::system() }
    }

    /// Prints a line; its end is added.
    ///
    /// # Errors
    /// [`Failure::OutputClosed`], or the system's.
    pub(super) fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut line = text.as_ref().to_owned();
        line.push('\n');
        self.print(&line)
    }

    /// Prints a value as one line of JSON, in which nothing is left that a terminal would obey.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(super) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string(value).expect("answers are plain data");
        self.line(printable_json(&json))
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(super) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error
            .kind()
        {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::file("write to standard output")(error),
        })
    }

    /// Prints a link, and on a terminal its QR code.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(super) fn link(&self, link: &str, with_code: bool) -> Result<(), Failure> {
        self.line(link)?;
        if with_code
            && self.is_terminal
            && let Some(code) = qr::for_terminal(link, self.has_colours)
        {
            self.print(&code)?;
        }
        Ok(())
    }

    /// Prints a message; `title` is its conversation's, where that is not clear.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(super) fn message(&self, message: &Message, title: Option<&str>) -> Result<(), Failure> {
        let time = self.time(message.sent_ms);
        self.line(message_line(message, title, &time, self.has_colours))
    }

    /// Date and time in the user's zone.
    pub(super) fn time(&self, ms: u64) -> String {
        let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let here = self.zone.to_datetime(time.unwrap_or(Timestamp::MAX));
        here.strftime("%Y-%m-%d %H:%M").to_string()
    }

    /// A title or a name, so that it can be seen.
    pub(super) fn strong(&self, text: &str) -> String {
        let text = printable_line(text);
        if self.has_colours { format!("\x1b[1m{text}\x1b[0m") } else { text }
    }
}

/// `17  2026-11-24 03:10  Friends  Ann: hello`; further lines of the text are indented, so that no
/// text can look like another message.
fn message_line(message: &Message, title: Option<&str>, time: &str, has_colours: bool) -> String {
    let mut line = format!("{}  {time}  ", message.number);
    if let Some(title) = title {
        line.push_str(&printable_line(title));
        line.push_str("  ");
    }
    let text = printable(&message.text).trim_end().replace('\n', "\n    ");
    match message.kind {
        MessageKind::Text => {
            let name = printable_line(&message.name);
            if has_colours {
                line.push_str(&format!("\x1b[1m{name}\x1b[0m: {text}"));
            } else {
                line.push_str(&format!("{name}: {text}"));
            }
        }
        MessageKind::Notice => line.push_str(&format!("* {text}")),
        MessageKind::Gap if text.is_empty() => line.push_str("* messages are missing here"),
        MessageKind::Gap => line.push_str(&format!("* {text}")),
    }
    if message.mine && message.kind == MessageKind::Text {
        line.push_str(&format!("  ({})", state(message.state)));
    }
    line
}

/// A state in the words people know.
pub(super) fn state(state: MessageState) -> &'static str {
    match state {
        MessageState::Sending => "sending",
        MessageState::Relayed => "relayed",
        MessageState::Delivered => "delivered",
        MessageState::Read => "read",
        MessageState::Failed => "failed",
        MessageState::Received => "received",
        MessageState::Gone => "gone",
    }
}

/// Titles by conversation, for messages of several.
pub(super) type Titles = HashMap<i64, String>;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message {
            number: 17,
            conversation: 3,
            kind: MessageKind::Text,
            account: "aaaa".to_owned(),
            name: "Ann".to_owned(),
            mine: false,
            sent_ms: 0,
            text: text.to_owned(),
            state: MessageState::Received,
            disappears_ms: None,
        }
    }

    #[test]
    fn a_message_is_one_block() {
        let table = [
            (message("hi"), None, "17  T  Ann: hi"),
            (message("hi"), Some("Friends"), "17  T  Friends  Ann: hi"),
            (message("a\n18  T  Bob: b\n"), None, "17  T  Ann: a\n    18  T  Bob: b"),
            (message("\x1b[2J"), Some("\x07\n"), "17  T  \u{2407}   Ann: \u{241b}[2J"),
            (
                Message { mine: true, state: MessageState::Relayed, ..message("hi") },
                None,
                "17  T  Ann: hi  (relayed)",
            ),
            (
                Message { kind: MessageKind::Notice, ..message("Bob left") },
                None,
                "17  T  * Bob left",
            ),
            (
                Message { kind: MessageKind::Gap, ..message("") },
                None,
                "17  T  * messages are missing here",
            ),
        ];
        for (message, title, expected) in table {
            assert_eq!(message_line(&message, title, "T", false), expected);
        }
    }

    #[test]
    fn no_time_is_too_late_to_be_shown() {
        let output = Output { is_terminal: false, has_colours: false, zone: TimeZone::UTC };
        assert_eq!(output.time(0), "1970-01-01 00:00");
        assert!(output.time(u64::MAX).starts_with("9999"));
    }
}
