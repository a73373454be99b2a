//! Runs the terminal: keys, events and answers go into the model, what it wants done is done.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ratatui::crossterm::event::{self, Event as TerminalEvent};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use valise_chat_core::api::{Command, Refusal};

use super::clock::Clock;
use super::model::{Effect, Input, Model, Then};
use super::terminal::Screen;
use super::view;
use crate::api::{Api, Happening};

/// How often the clock of the status line moves.
const TICK: Duration = Duration::from_millis(250);
/// How often the reader of keys looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(100);
/// How long what was just sent may take to reach the store when the user quits.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Keys and commands that may wait.
const QUEUE: usize = 256;

/// Why the terminal UI ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum TuiError {
    /// Not a terminal, or one that is gone.
    #[error(
        "the terminal cannot be used ({0}): start valise-chat in a terminal, or use its commands, see --help"
    )]
    Terminal(#[from] io::Error),
    /// The engine is gone.
    #[error("the engine has ended: {0}; start valise-chat again")]
    Ended(String),
}

/// Shows the conversations until the user quits. The terminal is given back on every way out; the
/// engine goes on.
///
/// # Errors
/// [`TuiError`]
pub async fn run(api: Api) -> Result<(), TuiError> {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut events = api.events();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let screen = Screen::enter()?;
    let model = Model::new(Clock::system(), colour, screen.terminal.size()?);
    let (send_answers, mut answers) = mpsc::channel(QUEUE);
    let (ordered, lane) = lane(api.clone(), send_answers);
    let tasks = JoinSet::new();
    let mut shell = Shell { api, model, screen, ordered, tasks, title: String::new(), quit: false };
    let mut keys = keys();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let first = shell.model.start();
    shell.perform(first);
    let mut ended = Ok(());
    while !shell.quit {
        shell.draw()?;
        // Keys first: the user is never kept waiting by what comes in.
        tokio::select! {
            biased;
            _ = terminate.recv() => shell.quit = true,
            _ = hang_up.recv() => shell.quit = true,
            key = keys.recv() => match key {
                Some(key) => {
                    shell.key(key?);
                    // What was typed meanwhile needs one picture, not one each.
                    while let Ok(key) = keys.try_recv() {
                        shell.key(key?);
                    }
                }
                None => shell.quit = true,
            },
            Some((then, answer)) = answers.recv() => shell.step(Input::Answer(then, answer)),
            Some(done) = shell.tasks.join_next() => {
                // A task of ours does nothing that could panic; one that was cut off has no answer.
                if let Ok((then, answer)) = done {
                    shell.step(Input::Answer(then, answer));
                }
            }
            happening = events.next() => match happening {
                Happening::Event(event) => shell.step(Input::Event(event)),
                Happening::Missed => shell.step(Input::Refresh),
                Happening::Ended(why) => {
                    ended = why.map_or(Ok(()), |why| Err(TuiError::Ended(why)));
                    shell.quit = true;
                }
            },
            _ = ticks.tick() => shell.step(Input::Tick),
        }
    }
    drop(shell);
    // The answers are read no more, so that the lane cannot wait for us.
    drop(answers);
    let _ = timeout(LAST_WORDS, lane).await;
    ended
}

type Answer = (Then, Result<serde_json::Value, Refusal>);

struct Shell {
    api: Api,
    model: Model,
    screen: Screen,
    /// Commands whose order matters.
    ordered: Sender<(Command, Then)>,
    /// The others, side by side.
    tasks: JoinSet<Answer>,
    title: String,
    quit: bool,
}

impl Shell {
    fn draw(&mut self) -> io::Result<()> {
        let size = self.screen.terminal.size()?;
        if size != self.model.size {
            self.step(Input::Resize(size));
        }
        let model = &self.model;
        self.screen.terminal.draw(|frame| view::draw(model, frame))?;
        let title = match model.unread() {
            0 => "Valise".to_owned(),
            unread => format!("Valise ({unread})"),
        };
        if title != self.title {
            self.screen.title(&title)?;
            self.title = title;
        }
        Ok(())
    }

    fn key(&mut self, event: TerminalEvent) {
        match event {
            TerminalEvent::Key(key) => self.step(Input::Key(key)),
            TerminalEvent::Paste(text) => self.step(Input::Paste(text)),
            TerminalEvent::FocusGained => self.step(Input::Focus(true)),
            TerminalEvent::FocusLost => self.step(Input::Focus(false)),
            // A resize is seen when it is drawn.
            TerminalEvent::Resize(..) | TerminalEvent::Mouse(_) => {}
        }
    }

    fn step(&mut self, input: Input) {
        let effects = self.model.update(now_ms(), input);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Call(command, then) => self.call(command, then),
                Effect::Write { name, contents } => {
                    let written = write(&name, &contents).map_err(|error| error.to_string());
                    self.step(Input::Written(written));
                }
                // A terminal that fails is noticed when it is drawn on.
                Effect::Copy(text) => drop(self.screen.copy(&text)),
                Effect::Repaint => drop(self.screen.terminal.clear()),
                Effect::Quit => self.quit = true,
            }
        }
    }

    fn call(&mut self, command: Command, then: Then) {
        if matches!(command, Command::Send { .. } | Command::Read { .. }) {
            if let Err(refused) = self.ordered.try_send((command, then)) {
                let (_, then) = refused.into_inner();
                let message = "the engine is busy: try again in a moment".to_owned();
                let refusal = Refusal { code: "busy".to_owned(), message };
                self.step(Input::Answer(then, Err(refusal)));
            }
        } else {
            let api = self.api.clone();
            self.tasks.spawn(async move { (then, api.call(command).await) });
        }
    }
}

/// One command after the other: what was written first is sent first.
fn lane(api: Api, answers: Sender<Answer>) -> (Sender<(Command, Then)>, JoinHandle<()>) {
    let (send, mut commands) = mpsc::channel::<(Command, Then)>(QUEUE);
    let lane = tokio::spawn(async move {
        while let Some((command, then)) = commands.recv().await {
            let answer = api.call(command).await;
            // Without a reader the rest is still carried out.
            let _ = answers.send((then, answer)).await;
        }
    });
    (send, lane)
}

/// What the terminal says, read on a thread of its own; it ends soon after nobody listens.
fn keys() -> Receiver<io::Result<TerminalEvent>> {
    let (send, keys) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        while !send.is_closed() {
            let event = match event::poll(POLL) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let failed = event.is_err();
            if send.blocking_send(event).is_err() || failed {
                return;
            }
        }
    });
    keys
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a file that is not there yet, into the current directory, readable by this user only.
fn write(name: &str, contents: &[u8]) -> io::Result<String> {
    let path = std::env::current_dir()?.join(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(contents)?;
    file.sync_all()?;
    Ok(path.display().to_string())
}
