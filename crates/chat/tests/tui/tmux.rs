//! A tmux server of its own: terminals with people in front of them.

use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use valise_client::testing::TestRelay;

/// What may take a while on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server; dropped, everything in it ends.
pub struct Tmux {
    directory: TempDir,
}

/// A terminal, and the program in it.
pub struct Pane<'a> {
    tmux: &'a Tmux,
    name: String,
}

impl Tmux {
    pub fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    /// Makes a profile and starts the terminal UI.
    pub fn person(&self, id: &str, name: &str, relay: &TestRelay, size: (u16, u16)) -> Pane<'_> {
        self.person_with(id, name, relay, size, "NO_COLOR=")
    }

    /// The same with a variable of the environment.
    pub fn person_with(
        &self,
        id: &str,
        name: &str,
        relay: &TestRelay,
        size: (u16, u16),
        variable: &str,
    ) -> Pane<'_> {
        let binary = env!("CARGO_BIN_EXE_valise-chat");
        let profile = self.directory.path().join(id);
        let place = format!(
            "--profile {} --no-passphrase --allow-private-relays",
            profile.display().to_string().replace(' ', "\\ ")
        );
        let init = format!("{binary} init {place} --relay {} --name {name}", relay.address());
        let made = Command::new("sh").args(["-c", &init]).output().unwrap();
        assert!(made.status.success(), "{init}: {}", String::from_utf8_lossy(&made.stderr));
        // What comes after shows how the terminal was left.
        let line = format!(
            "env {variable} {binary} {place}; echo ended with $?; stty -a | grep -o -- '-*icanon'; sleep 600"
        );
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let start = ["new-session", "-d", "-s", id, "-x", &width, "-y", &height, &line];
        self.run(&start);
        Pane { tmux: self, name: format!("={id}:") }
    }

    /// By an invite, on the screens.
    pub fn introduce(&self, host: &Pane<'_>, guest: &Pane<'_>) {
        host.sees("● online");
        host.keys(&["i"]);
        host.sees("For one person");
        let link = host.link();
        guest.sees("● online");
        guest.paste(&link);
        guest.sees("Join");
        guest.keys(&["Enter"]);
        guest.sees("Write to");
        host.sees("Write to");
    }

    fn run(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "tmux {arguments:?}: {stderr}");
        String::from_utf8(stdout).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX").env("SHELL", "/bin/sh");
        let socket = self.directory.path().join("tmux");
        command.arg("-u").arg("-f").arg("/dev/null").arg("-S").arg(socket).args(arguments);
        command
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // Without a server there is nothing to end.
        let _ = self.command(&["kill-server"]).output();
    }
}

impl Pane<'_> {
    /// Keys by tmux's names: `Enter`, `C-q`, `M-Enter`.
    pub fn keys(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys", "-t", &self.name];
        arguments.extend(keys);
        self.tmux.run(&arguments);
    }

    /// Text, letter by letter.
    pub fn types(&self, text: &str) {
        self.tmux.run(&["send-keys", "-t", &self.name, "-l", text]);
    }

    /// Text from the clipboard, bracketed as terminals do it.
    pub fn paste(&self, text: &str) {
        self.tmux.run(&["set-buffer", "-b", &self.name, "--", text]);
        self.tmux.run(&["paste-buffer", "-p", "-r", "-b", &self.name, "-t", &self.name]);
    }

    pub fn resize(&self, size: (u16, u16)) {
        let (width, height) = (size.0.to_string(), size.1.to_string());
        self.tmux.run(&["resize-window", "-t", &self.name, "-x", &width, "-y", &height]);
    }

    pub fn screen(&self) -> String {
        self.tmux.run(&["capture-pane", "-p", "-t", &self.name])
    }

    /// Waits until the words are on the screen.
    pub fn sees(&self, words: &str) {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            // A row ends where its last letter does.
            if screen.contains(words) {
                return;
            }
            let name = &self.name;
            assert!(begun.elapsed() < PATIENCE, "{name} waits for {words:?} and sees:\n{screen}");
            sleep(Duration::from_millis(50));
        }
    }

    /// The link on the screen.
    pub fn link(&self) -> String {
        let screen = self.screen();
        let rows = screen.lines().skip_while(|row| !row.starts_with("valise://"));
        rows.take_while(|row| !row.starts_with(' ') && !row.is_empty()).collect()
    }

    /// The words to compare: the indented rows of the box that lies on top.
    pub fn words(&self) -> Vec<String> {
        let screen = self.screen();
        let before = screen.lines().find_map(|row| row.split_once('╭')).unwrap().0;
        let column = before.chars().count();
        let rows = screen.lines().map(|row| row.chars().skip(column).collect::<String>());
        let words = rows.filter_map(|row| {
            let row = row.strip_prefix("│     ")?.split('│').next()?.to_owned();
            Some(row.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        });
        let words: Vec<_> = words.flatten().collect();
        assert!(words.len() >= 4, "no words on the screen:\n{screen}");
        words
    }

    /// Whether the program's own screen is shown, and not the shell's.
    pub fn is_on_the_other_screen(&self) -> bool {
        let flag = self.tmux.run(&["display-message", "-p", "-t", &self.name, "#{alternate_on}"]);
        flag.trim() == "1"
    }

    /// Whether any colour is set on the screen.
    pub fn paints_colours(&self) -> bool {
        let screen = self.tmux.run(&["capture-pane", "-p", "-e", "-t", &self.name]);
        let sequences = screen.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m'));
        let codes = sequences.flat_map(|(codes, _)| codes.split(';'));
        codes
            .filter_map(|code| code.parse::<u16>().ok())
            .any(|code| matches!(code, 30..=38 | 40..=48 | 90..=107))
    }
}
