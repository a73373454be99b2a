//! The relay's binary: reads the command line, runs the relay, obeys signals.
#![allow(clippy::print_stderr)] // what stops a start is said even where logs are off

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use valise::app::{Drained, Running};
use valise::cli::{
    Banner, Command, Exit, InviteCode, MigrationKey, NodeError, RotateTokenKey, Serve, Verify,
};
use valise::config::{Config, LogLevel, Surroundings};
use valise::relay::today;

fn main() -> ExitCode {
    let surroundings = Surroundings::of_process();
    let exit = match Command::parse(std::env::args_os()) {
        Ok(Command::Serve(arguments)) => serve(&arguments, &surroundings),
        Ok(Command::InviteCode(arguments)) => invite_code(&arguments, &surroundings),
        Ok(Command::RotateTokenKey(arguments)) => rotate_token_key(&arguments, &surroundings),
        Ok(Command::ExportNode(arguments)) => made(arguments.make(&surroundings, today())),
        Ok(Command::ImportNode(arguments)) => made(arguments.make(&surroundings)),
        Ok(Command::NodeKey(arguments)) => made(arguments.make(&surroundings)),
        Ok(Command::RetireNode(arguments)) => made(arguments.make(&surroundings, today())),
        Ok(Command::MigrationKey(arguments)) => migration_key(&arguments, &surroundings),
        Ok(Command::Verify(arguments)) => verify(&arguments, &surroundings),
        Err(error) => {
            // Nothing can be done about a closed terminal.
            error.print().ok();
            Exit::from(&error)
        }
    };
    exit.into()
}

fn invite_code(arguments: &InviteCode, surroundings: &Surroundings) -> Exit {
    match arguments.make(surroundings, today()) {
        Ok(codes) => print(&codes),
        Err(error) => failed(&error, Exit::from(&error)),
    }
}

fn made(made: Result<String, NodeError>) -> Exit {
    match made {
        Ok(done) => print(&done),
        Err(error) => failed(&error, Exit::from(&error)),
    }
}

fn migration_key(arguments: &MigrationKey, surroundings: &Surroundings) -> Exit {
    match arguments.make(surroundings) {
        Ok(pin) => print(&pin),
        Err(error) => failed(&error, Exit::from(&error)),
    }
}

fn rotate_token_key(arguments: &RotateTokenKey, surroundings: &Surroundings) -> Exit {
    match arguments.make(surroundings) {
        Ok(done) => print(&done),
        Err(error) => failed(&error, Exit::from(&error)),
    }
}

fn verify(arguments: &Verify, surroundings: &Surroundings) -> Exit {
    let directory = match arguments.state_directory(surroundings) {
        Ok(directory) => directory,
        Err(error) => return failed(&error, Exit::from(&error)),
    };
    match valise::app::verify(&directory) {
        Ok(found) if found.counted == found.totals.queued() => {
            print(&format!("{} frames, every checksum right, as the totals say\n", found.counted))
        }
        Ok(found) => {
            let (counted, queued) = (found.counted, found.totals.queued());
            let error = format!(
                "{counted} frames are in the store, but its totals say {queued}: it was damaged, \
                 or changed by another program; restore the state directory from a backup"
            );
            failed(&error, Exit::Data)
        }
        Err(error) => failed(&error, Exit::from(&error)),
    }
}

fn serve(arguments: &Serve, surroundings: &Surroundings) -> Exit {
    let temporary = match arguments.temporary_directory() {
        Ok(temporary) => temporary,
        Err(error) => {
            let error = format!("cannot make a temporary state directory: {error}; check TMPDIR");
            return failed(&error, Exit::CannotCreate);
        }
    };
    let temporary = temporary.as_ref().map(tempfile::TempDir::path);
    let config = match arguments.configuration(temporary, surroundings) {
        Ok(config) => config,
        Err(error) => return failed(&error, Exit::from(&error)),
    };
    if arguments.check {
        return print(&config.effective_toml());
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, Exit::TryAgain),
    };
    let exit = runtime.block_on(Service { arguments, temporary, surroundings }.run(config));
    // What a second signal cut short must not be waited for.
    runtime.shutdown_background();
    exit
}

/// To standard output. A pipe that nobody reads any more is an error, and no reason to panic.
fn print(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(error) => failed(&format!("cannot print: {error}"), Exit::InputOutput),
    }
}

fn failed(error: &impl std::fmt::Display, exit: Exit) -> Exit {
    eprintln!("valise: {error}");
    exit
}

/// What a reload needs again.
struct Service<'a> {
    arguments: &'a Serve,
    temporary: Option<&'a Path>,
    surroundings: &'a Surroundings,
}

impl Service<'_> {
    async fn run(&self, mut config: Config) -> Exit {
        let set_level = log(config.log);
        // Before the start, so that a signal in its middle is not lost.
        let signals = Stop::listen().and_then(|stop| Ok((stop, signal(SignalKind::hangup())?)));
        let (mut stop, mut hang_up) = match signals {
            Ok(signals) => signals,
            Err(error) => return failed(&error, Exit::TryAgain),
        };
        // Nothing is served yet: an order to stop, while servers are waited for, is obeyed at once.
        let started = tokio::select! {
            biased;
            () = stop.ordered() => return Exit::Ok,
            started = Running::start(&config) => started,
        };
        let running = match started {
            Ok(running) => running,
            Err(error) => return failed(&error, Exit::from(&error)),
        };
        for notice in running.notices() {
            tracing::warn!("{notice}");
        }
        let (ca, admin) = (running.ca(), running.admin_address());
        // A relay whose output nobody reads serves all the same.
        print(&Banner { address: running.address(), ca, admin }.to_string());

        loop {
            // Biased: a failed store and an order to stop come before a reload.
            tokio::select! {
                biased;
                reason = running.store_failed() => {
                    tracing::error!(%reason, "the store failed; nothing can be accepted any more");
                    running.shut_down().await;
                    return Exit::InputOutput;
                }
                () = stop.ordered() => break,
                _ = hang_up.recv() => {
                    config = self.reload(&running, config);
                    set_level(config.log);
                }
            }
        }
        tracing::info!("shutting down");
        // Biased: a second signal means now.
        tokio::select! {
            biased;
            () = stop.ordered() => failed(&"stopped before every connection had ended", Exit::TryAgain),
            drained = running.shut_down() => {
                let completely = drained == Drained::Completely;
                tracing::info!(completely, "shut down");
                Exit::Ok
            }
        }
    }

    /// Returns the configuration in force: whatever is wrong leaves the old one there.
    fn reload(&self, running: &Running, old: Config) -> Config {
        let newer = match self.arguments.configuration(self.temporary, self.surroundings) {
            Ok(newer) => newer,
            Err(error) => {
                tracing::error!(%error, "not reloaded; the old configuration stays in force");
                running.reload_failed();
                return old;
            }
        };
        let (reloaded, waiting) = old.reloaded(&newer);
        if let Err(error) = running.reload(&reloaded) {
            tracing::error!(%error, "not reloaded; the old configuration stays in force");
            return old;
        }
        for notice in waiting {
            tracing::warn!("{notice}");
        }
        tracing::info!("reloaded");
        reloaded
    }
}

/// The orders to stop: SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next order. Cancel-safe.
    async fn ordered(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Logs to standard error; the result changes the level.
fn log(level: LogLevel) -> impl Fn(LogLevel) {
    // The bus's library would name subjects, and with them mailboxes.
    let filter = |level: LogLevel| EnvFilter::new(format!("{},async_nats=off", level.name()));
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter(level))
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.init();
    // It fails only when there is no subscriber any more.
    move |level| handle.reload(filter(level)).expect("the subscriber lives as long as the process")
}
