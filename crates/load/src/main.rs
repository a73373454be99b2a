//! `valise-load`: drives many clients against a relay and checks every promise it makes.
// Its report is data for standard output, its messages are for standard error.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod account;
mod bare;
mod centre;
mod checker;
mod cli;
mod companion;
mod crossing;
mod fail_if;
mod header;
mod html;
mod latency;
mod machine;
mod merge;
mod network;
mod pacer;
mod pauses;
mod peer;
mod plan;
mod process;
mod progress;
mod ranges;
mod receiver;
mod recorder;
mod relay;
mod report;
mod run;
mod scenario;
mod scrape;
mod sender;
mod sinks;
mod suite;
mod summary;
mod tap;
mod timeline;
mod topology;
mod traveller;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::watch;

use crate::cli::{Cli, Command, FileOptions, MergeOptions};
use crate::plan::{Plan, Sinks};
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
    match Cli::parse().command {
        Command::Run(options) => suite(&options),
        Command::Merge(options) => combine(&options),
        Command::Man { out } => pages(&out),
        command => single(&command),
    }
    .into()
}

/// The numbers a report has, by name.
fn known() -> fail_if::Numbers {
    let empty = serde_json::to_value(Report::default()).expect("a report is JSON");
    fail_if::numbers(&empty)
}

fn pages(directory: &Path) -> u8 {
    match valise_pages::write(Cli::command(), directory) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("valise-load: cannot write to {}: {error}", directory.display());
            EXIT_BROKEN
        }
    }
}

fn single(command: &Command) -> u8 {
    let (scenario, options) = command.scenario().expect("the other commands are handled");
    match Plan::new(scenario, options, &known(), raise_descriptors()) {
        Ok(plan) => {
            execute(&plan).map_or_else(|exit| exit, |mut report| judge(&plan.sinks, &mut report))
        }
        Err(error) => usage(&error),
    }
}

/// Runs one plan; its report, or the exit code of its failure.
fn execute(plan: &Plan) -> Result<Report, u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(plan.threads)
        .enable_all()
        .build();
    match runtime.map(|runtime| runtime.block_on(conduct(plan))) {
        Ok(Ok(report)) => {
            println!("{}", Summary(&report));
            Ok(report)
        }
        Ok(Err(failure)) => {
            eprintln!("valise-load: {failure}");
            Err(if matches!(failure, Failure::Interrupted) {
                EXIT_INTERRUPTED
            } else {
                EXIT_BROKEN
            })
        }
        Err(error) => {
            eprintln!("valise-load: no runtime: {error}");
            Err(EXIT_BROKEN)
        }
    }
}

async fn conduct(plan: &Plan) -> Result<Report, Failure> {
    let (asked, interrupted) = watch::channel(false);
    if plan.leashed {
        let asked = asked.clone();
        // No task: the runtime would wait for it.
        std::thread::spawn(move || {
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
            asked.send_replace(true);
        });
    }
    tokio::spawn(listen_for_ctrl_c(asked));
    Box::pin(scenario::run(plan, interrupted)).await
}

/// The runs of a file, one after another; the worst exit code of them.
fn suite(options: &FileOptions) -> u8 {
    let plans = match suite::plans(&options.file, &known(), raise_descriptors()) {
        Ok(plans) => plans,
        Err(error) => return usage(&error),
    };
    let mut reports = Vec::new();
    let mut outcomes = Vec::new();
    for (number, plan) in (1..).zip(&plans) {
        eprintln!("valise-load: {} ({number} of {})", plan.name, plans.len());
        let exit = match execute(plan) {
            Ok(mut report) => {
                let exit = judge(&plan.sinks, &mut report);
                reports.push(report);
                exit
            }
            Err(exit) => exit,
        };
        outcomes.push((plan.name.clone(), exit));
        println!();
        if exit == EXIT_INTERRUPTED {
            break;
        }
    }
    let collected = sinks::collect(options, &reports);
    println!("{}", suite::Outcome(&outcomes));
    let worst = outcomes.iter().fold(0, |worst, (_, exit)| suite::worse(worst, *exit));
    collected.map_or_else(|error| failed(&error), |()| worst)
}

fn combine(options: &MergeOptions) -> u8 {
    let sinks = match Sinks::new(&options.output, &known()) {
        Ok(sinks) => sinks,
        Err(error) => return usage(&error),
    };
    match merge::files(&options.files) {
        Ok(mut report) => {
            println!("{}", Summary(&report));
            judge(&sinks, &mut report)
        }
        Err(error) => usage(&error),
    }
}

/// Writes what was asked for, and says by which exit code the run ends.
fn judge(sinks: &Sinks, report: &mut Report) -> u8 {
    let json = serde_json::to_value(&*report).expect("a report is JSON");
    let numbers = fail_if::numbers(&json);
    let failures = sinks.conditions.iter().filter_map(|condition| condition.failure(&numbers));
    report.failed_conditions = failures.collect();
    for failure in &report.failed_conditions {
        eprintln!("valise-load: --fail-if {failure}");
    }
    if let Err(error) = sinks::write(sinks, report) {
        return failed(&error);
    }
    match report {
        _ if !report.is_clean() => EXIT_BROKEN,
        _ if report.interrupted => EXIT_INTERRUPTED,
        _ if !report.failed_conditions.is_empty() => EXIT_FAIL_IF,
        _ => 0,
    }
}

fn usage(error: &dyn std::error::Error) -> u8 {
    eprintln!("valise-load: {error}");
    EXIT_USAGE
}

fn failed(error: &dyn std::error::Error) -> u8 {
    eprintln!("valise-load: {error}");
    EXIT_BROKEN
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
