//! `valise-load`: drives many clients against a relay and checks every promise it makes.
// Its report is data for standard output, its messages are for standard error.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod account;
mod checker;
mod cli;
mod fail_if;
mod header;
mod latency;
mod machine;
mod pacer;
mod peer;
mod plan;
mod process;
mod progress;
mod ranges;
mod receiver;
mod relay;
mod report;
mod run;
mod scenario;
mod scrape;
mod sender;
mod summary;
mod topology;

use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::watch;

use crate::cli::Cli;
use crate::plan::Plan;
use crate::report::Report;
use crate::scenario::Failure;
use crate::summary::Summary;

/// A promise was broken, or the run could not be carried out.
const EXIT_BROKEN: u8 = 1;
/// The command line makes no run.
const EXIT_USAGE: u8 = 2;
/// A `--fail-if` held.
const EXIT_FAIL_IF: u8 = 99;
/// Ended by Ctrl-C (128 + SIGINT).
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let empty = serde_json::to_value(Report::default()).expect("a report is JSON");
    let plan = match Plan::new(&cli, &fail_if::numbers(&empty), raise_descriptors()) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("valise-load: {error}");
            return EXIT_USAGE.into();
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(plan.threads)
        .enable_all()
        .build();
    match runtime.map(|runtime| runtime.block_on(conduct(&plan))) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("valise-load: no runtime: {error}");
            EXIT_BROKEN.into()
        }
    }
}

async fn conduct(plan: &Plan) -> u8 {
    let (asked, interrupted) = watch::channel(false);
    tokio::spawn(listen_for_ctrl_c(asked));
    let report = match Box::pin(scenario::run(plan, interrupted)).await {
        Ok(report) => report,
        Err(failure) => {
            eprintln!("valise-load: {failure}");
            return match failure {
                Failure::Interrupted => EXIT_INTERRUPTED,
                _ => EXIT_BROKEN,
            };
        }
    };
    println!("{}", Summary(&report));
    judge(plan, &report)
}

/// Writes the JSON, and says by which exit code the run ends.
fn judge(plan: &Plan, report: &Report) -> u8 {
    let json = serde_json::to_value(report).expect("a report is JSON");
    if let Some(path) = &plan.json {
        let text = serde_json::to_string_pretty(&json).expect("a report is JSON");
        if let Err(error) = std::fs::write(path, text + "\n") {
            eprintln!("valise-load: cannot write {}: {error}", path.display());
            return EXIT_BROKEN;
        }
    }
    let numbers = fail_if::numbers(&json);
    let failures: Vec<String> =
        plan.conditions.iter().filter_map(|condition| condition.failure(&numbers)).collect();
    for failure in &failures {
        eprintln!("valise-load: --fail-if {failure}");
    }
    match report {
        _ if !report.is_clean() => EXIT_BROKEN,
        _ if report.interrupted => EXIT_INTERRUPTED,
        _ if !failures.is_empty() => EXIT_FAIL_IF,
        _ => 0,
    }
}

/// The first Ctrl-C ends the run in order; the second ends the process.
async fn listen_for_ctrl_c(asked: watch::Sender<bool>) {
    while tokio::signal::ctrl_c().await.is_ok() {
        if asked.send_replace(true) {
            std::process::exit(EXIT_INTERRUPTED.into());
        }
        eprintln!("valise-load: ending; once more to end at once");
    }
}

/// As many open files as the system lets us have; how many that is.
fn raise_descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).ok();
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
