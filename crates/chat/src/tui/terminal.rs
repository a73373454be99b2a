//! The terminal while it is ours: entered once, given back on every way out.

use std::io::{self, IsTerminal, Stdout, Write, stdin, stdout};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{
    DisableBracketedPaste, DisableFocusChange, EnableBracketedPaste, EnableFocusChange,
};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::SetTitle;

/// The terminal in raw mode and on its other screen, until dropped.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal. A panic, too, gives it back before it says anything.
    pub(super) fn enter() -> io::Result<Self> {
        if !(stdin().is_terminal() && stdout().is_terminal()) {
            return Err(io::Error::other("standard input or output is none"));
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            leave();
            before(panic);
        }));
        let terminal = ratatui::try_init()?;
        let screen = Self { terminal };
        execute!(stdout(), EnableBracketedPaste, EnableFocusChange)?;
        Ok(screen)
    }

    /// What the window is called.
    pub(super) fn title(&self, title: &str) -> io::Result<()> {
        execute!(stdout(), SetTitle(title))
    }

    /// Puts a text into the terminal's clipboard, where the terminal allows it (OSC 52).
    pub(super) fn copy(&self, text: &str) -> io::Result<()> {
        let text = data_encoding::BASE64.encode(text.as_bytes());
        let mut out = stdout();
        write!(out, "\x1b]52;c;{text}\x07")?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
        // The window's name goes back to what the shell sets.
        let _ = execute!(stdout(), SetTitle(""));
    }
}

/// Every step is tried: a terminal that is gone cannot be helped.
fn leave() {
    let _ = execute!(stdout(), DisableFocusChange, DisableBracketedPaste);
    let _ = ratatui::try_restore();
}
