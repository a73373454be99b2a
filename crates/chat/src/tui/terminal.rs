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

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    const PANICS: &str = "VALISE_TEST_PANICS";

    /// The test runs itself in tmux, where it panics, and looks at what is left.
    #[test]
    fn a_panic_gives_the_terminal_back() {
        if std::env::var_os(PANICS).is_some() {
            let _screen = Screen::enter().unwrap();
            panic!("said on the usual screen");
        }
        let directory = tempfile::TempDir::new().unwrap();
        let tmux = |arguments: &[&str]| {
            let mut tmux = Command::new("tmux");
            tmux.args(["-u", "-f", "/dev/null", "-S"]).arg(directory.path().join("tmux"));
            let output = tmux.args(arguments).env_remove("TMUX").output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let line = format!(
            "{PANICS}=1 RUST_BACKTRACE=0 {} --exact {}::a_panic_gives_the_terminal_back \
             --nocapture; stty -a | grep -o -- '-*icanon'; sleep 600",
            std::env::current_exe().unwrap().display(),
            module_path!().split_once("::").unwrap().1,
        );
        tmux(&["new-session", "-d", "-x", "100", "-y", "30", &line]);
        let begun = Instant::now();
        let mut seen = String::new();
        while !seen.contains("icanon\n") && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(50));
            seen = tmux(&["capture-pane", "-p"]);
        }
        let other_screen = tmux(&["display-message", "-p", "#{alternate_on}"]);
        tmux(&["kill-server"]);
        assert!(seen.contains("said on the usual screen"), "{seen}");
        assert!(seen.contains("\nicanon\n"), "{seen}");
        assert_eq!(other_screen.trim(), "0");
    }
}
