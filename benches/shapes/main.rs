//! Measures the relay beside a bare TLS forwarder, the *baseline*, in one interleaved run, and
//! prints ratios. See benches/README.md.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its table is its output")]

mod baseline;
mod load;
mod pair;
mod plan;
mod process;
mod pump;
mod relay;
mod report;
mod tls;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::load::Figures;
use crate::plan::{Kind, Load, Shape};
use crate::process::{Pinning, Server};
use crate::relay::Relay;
use crate::report::{Report, Run};

/// Measures the relay beside a bare TLS forwarder in one interleaved run.
#[derive(Debug, Parser)]
struct Arguments {
    /// The loads to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Shape::ALL)]
    shapes: Vec<Shape>,

    /// What to measure beside the baseline, which is always measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Signal, Kind::Post])]
    kinds: Vec<Kind>,

    /// How often each is measured, in turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeats: u32,

    /// Seconds measured of each run, after a quarter as long of warming up. At most 60: the load
    /// sends no pings.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,

    /// Also writes everything found to this file.
    #[arg(long)]
    json: Option<PathBuf>,

    /// A tenth of the connections for a fraction of a second: shows that everything runs. The
    /// figures mean nothing.
    #[arg(long)]
    smoke: bool,

    /// Given by `cargo bench`, and not by `cargo test`, under which only the smoke run makes sense.
    #[arg(long, hide = true)]
    bench: bool,

    /// Serves as the baseline.
    #[arg(long, hide = true)]
    baseline: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if arguments.baseline { baseline::serve() } else { measure(&arguments) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let smoke = arguments.smoke || !arguments.bench;
    let (repeats, measured, fewer) = if smoke {
        (1, Duration::from_millis(200), 10)
    } else {
        (arguments.repeats, Duration::from_secs(arguments.seconds), 1)
    };
    let mut kinds = vec![Kind::Baseline];
    kinds.extend(arguments.kinds.iter().filter(|kind| **kind != Kind::Baseline));

    let pinning = Pinning::establish();
    let mut runs = Vec::new();
    for repetition in 0..repeats {
        for &shape in &arguments.shapes {
            for &kind in &kinds {
                let load = shape.load();
                let load = Load { pairs: load.pairs.div_ceil(fewer), ..load };
                let figures = run(pinning, kind, load, measured)
                    .map_err(|error| io::Error::other(format!("{shape:?} {kind:?}: {error}")))?;
                runs.push(Run { repetition, shape, kind, figures });
            }
        }
    }
    let report = Report::new(pinning, measured.as_secs_f64(), runs);
    if let Some(path) = &arguments.json {
        serde_json::to_writer_pretty(File::create(path)?, &report)?;
    }
    println!("{report}");
    Ok(())
}

/// Each run has a server of its own, so that none inherits another's state.
fn run(pinning: Pinning, kind: Kind, load: Load, measured: Duration) -> io::Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (relay, baseline);
    let server = match kind {
        Kind::Baseline => {
            let program = std::env::current_exe()?;
            baseline = Server::start(pinning, program.as_os_str(), &["--baseline".as_ref()])?;
            &baseline
        }
        Kind::Signal | Kind::Post => {
            relay = Relay::start(pinning)?;
            relay.server()
        }
    };
    runtime.block_on(load::run(server, kind, load, measured))
}
