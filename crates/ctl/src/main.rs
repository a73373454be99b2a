//! `valisectl`: the operators' tools. It stands beside a data centre and asks its servers; nothing of it
//! is in the relay.
// Its reports are data for standard output, its messages are for standard error.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod alarms;
mod ask;
mod canary;
mod cli;
mod exit;
mod finding;
mod judge;
mod limits;
mod metrics;
mod migrate;
mod report;
mod said;
mod state;
mod watch;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;
use valise::admin::{Admin, Readiness};
use valise::cli::Exit;
use valise::config::{LogLevel, Surroundings};
use valise::identity::StateDirectory;

use crate::alarms::Key;
use crate::canary::{Canaries, Pace};
use crate::cli::{Acknowledge, Alarms, Check, CheckCluster, Cli, Command, Migrate, WatchCluster};
use crate::exit::{FINE, Failure, of_findings};
use crate::metrics::Metrics;
use crate::watch::Watch;

/// By this name the servers know these tools.
pub(crate) const TOOL: &str = "valisectl";
/// The user of operators; elsewhere the DNS name in their certificates.
pub(crate) const OPERATOR: &str = "valise-operator";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            error.print().ok();
            return Exit::from(&error).into();
        }
    };
    let surroundings = Surroundings::of_process();
    let done = match cli.command {
        Command::Check(Check::Cluster(check)) => check_cluster(&check, &surroundings),
        Command::Watch(cli::Watch::Cluster(watch)) => watch_cluster(&watch, &surroundings),
        Command::Migrate(command) => migrate(*command, &surroundings),
        Command::Alarms(alarms) => list(&alarms),
        Command::Acknowledge(acknowledge) => acknowledged(acknowledge),
        Command::Completions { shell } => print(&valise_pages::completions(shell, Cli::command())),
        Command::Man { out } => pages(&out),
    };
    match done {
        Ok(code) => code.into(),
        Err(Failure { said, code }) => {
            eprintln!("{TOOL}: {said}");
            code.into()
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(error, Exit::TryAgain))
}

fn check_cluster(check: &CheckCluster, surroundings: &Surroundings) -> Result<u8, Failure> {
    let place = check.servers.place(surroundings)?;
    let said = runtime()?.block_on(place.look())?;
    let findings = judge::judge(&said, check.servers.expected());
    let report = match check.json {
        true => report::json(&said, &findings),
        false => report::text(&said, &findings),
    };
    print(&report)?;
    Ok(of_findings(&findings))
}

fn watch_cluster(options: &WatchCluster, surroundings: &Surroundings) -> Result<u8, Failure> {
    log(&options.log)?;
    let place = options.servers.place(surroundings)?;
    let listen = options.listen()?;
    let directory = Arc::new(StateDirectory::open(&options.state.directory()?)?);
    let (metrics, readiness) = (Metrics::new(), Arc::new(Readiness::default()));
    readiness.store_failed("the servers have not been seen yet");
    let canaries = match (options.canaries, &options.relay, &options.relay_state) {
        (true, Some(relay), Some(relay_state)) => {
            let pace = Pace {
                turn: Duration::from_secs(options.canary_turn),
                held_turn: Duration::from_secs(options.held_turn),
                hold: Duration::from_secs(options.held_for),
            };
            let kept = (Arc::clone(&directory), metrics.clone());
            let codes = options.codes.as_deref();
            Some(Arc::new(Canaries::new(relay.clone(), relay_state, codes, pace, kept)?))
        }
        _ => None,
    };
    let admin = match listen {
        None => None,
        Some((address, or_next_free)) => {
            let scraped = metrics.clone();
            let scrape = Box::new(move || scraped.encode());
            let admin = Admin::start(address, or_next_free, scrape, Arc::clone(&readiness));
            let admin = admin.map_err(|error| {
                Failure::new(format!("cannot listen on {address}: {error}"), Exit::Unavailable)
            })?;
            print(&format!("metrics and health: http://{}/metrics\n", admin.address()))?;
            Some(admin)
        }
    };
    let every = Duration::from_secs(options.every);
    let expected = options.servers.expected();
    let watch = Watch { place, expected, every, directory, metrics, readiness, canaries };
    let runtime = runtime()?;
    let ended = runtime.block_on(watch.run());
    runtime.shutdown_background();
    drop(admin);
    ended.map(|()| FINE)
}

fn migrate(command: Migrate, surroundings: &Surroundings) -> Result<u8, Failure> {
    log(match &command {
        Migrate::Start { log, .. } => log,
        _ => "warn",
    })?;
    let runtime = runtime()?;
    let done = runtime.block_on(migrate::run(command, surroundings, print));
    runtime.shutdown_background();
    done
}

fn list(options: &Alarms) -> Result<u8, Failure> {
    let alarms = state::look_at_alarms(&options.state.directory()?)?;
    let raised: Vec<_> = alarms.raised().collect();
    if options.json {
        let text = serde_json::to_string_pretty(&raised).expect("JSON can be written");
        return print(&format!("{text}\n"));
    }
    let mut text = String::new();
    for alarm in &raised {
        let known = if alarm.acknowledged { ", acknowledged" } else { "" };
        let (kind, subject, cause) = (alarm.kind, &alarm.subject, &alarm.cause);
        let age = canary::now_seconds().saturating_sub(alarm.since) / 60;
        text += &format!(
            "{}: {kind} '{subject}' for {age} minutes{known}\n    {cause}\n    {}\n",
            kind.severity().name(),
            kind.fix(),
        );
    }
    if raised.is_empty() {
        text += "no alarm is raised\n";
    }
    print(&text)
}

fn acknowledged(options: Acknowledge) -> Result<u8, Failure> {
    let directory = options.state.directory()?;
    let Acknowledge { kind, subject, .. } = options;
    let alarms = state::look_at_alarms(&directory)?;
    if !alarms.raised().any(|alarm| alarm.kind == kind && alarm.subject == subject) {
        let said = format!("there is no alarm {kind} '{subject}'; see `{TOOL} alarms`");
        return Err(Failure::new(said, Exit::Usage));
    }
    state::acknowledge(&directory, &Key { kind, subject })?;
    Ok(FINE)
}

fn pages(out: &Path) -> Result<u8, Failure> {
    valise_pages::write(Cli::command(), out).map(|()| FINE).map_err(|error| {
        Failure::new(format!("cannot write to {}: {error}", out.display()), Exit::CannotCreate)
    })
}

/// To standard output. A pipe that nobody reads any more is an error, and no reason to panic.
fn print(text: &str) -> Result<u8, Failure> {
    let printed = std::io::stdout().write_all(text.as_bytes());
    printed
        .map(|()| FINE)
        .map_err(|error| Failure::new(format!("cannot print: {error}"), Exit::InputOutput))
}

/// Logs to standard error.
fn log(level: &str) -> Result<(), Failure> {
    let Some(level) = LogLevel::ALL.iter().find(|known| known.name() == level) else {
        let said = format!("there is no log level `{level}`");
        return Err(Failure::new(said, Exit::Usage));
    };
    // The bus's library would name subjects.
    let filter = EnvFilter::new(format!("{},async_nats=off", level.name()));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .init();
    Ok(())
}
