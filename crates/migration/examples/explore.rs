//! Explores worlds in which a realm moves, breadth first, over the crate's own functions.
//!
//! ```text
//! explore all [LIMIT]            every configuration, as in docs/MIGRATION-MODEL.md
//! explore NAME... [LIMIT]        some of them, up to so many states each
//! explore mutants                every broken rule, with how long its counterexample is
//! explore mutant NAME            one, with the counterexample
//! explore seeds FIRST COUNT      the simulation
//! explore --senders 2 --frames 1 --crashes 1 ...      a world of your own
//! ```
#![allow(clippy::print_stdout, missing_docs, unreachable_pub, dead_code)]

#[path = "../model/mod.rs"]
mod model;

use std::time::Instant;

use model::configurations::{self, Configuration};
use model::explorer::{Explored, explore};
use model::mutants::Mutant;
use model::world::Shape;
use model::{simulation, trace};

/// About 7 GiB with what waits.
const LIMIT: usize = 150_000_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let fine = match words.as_slice() {
        [] => {
            println!("configurations:");
            configurations::all()
                .iter()
                .for_each(|one| println!("  {:16} {}", one.name, one.about));
            true
        }
        ["mutants"] => {
            let missed = Mutant::ALL.into_iter().filter(|mutant| !try_mutant(*mutant, false));
            let missed = missed.count();
            let found = Mutant::SURVIVED.into_iter().filter(|mutant| try_mutant(*mutant, false));
            missed + found.count() == 0
        }
        ["mutant", name] => {
            let all = Mutant::ALL.into_iter().chain(Mutant::SURVIVED);
            all.filter(|mutant| format!("{mutant:?}") == *name).all(|one| try_mutant(one, true))
        }
        ["seeds", first, count] => {
            seeds(first.parse().expect("a number"), count.parse().expect("a number"))
        }
        [first, ..] if first.starts_with("--") => {
            let shape = own(&words);
            run(vec![Configuration { name: "own", about: "", shape }], LIMIT)
        }
        names => {
            let limit = names.iter().find_map(|word| word.parse().ok()).unwrap_or(LIMIT);
            let wanted = |one: &Configuration| names.contains(&"all") || names.contains(&one.name);
            run(configurations::all().into_iter().filter(wanted).collect(), limit)
        }
    };
    std::process::exit(i32::from(!fine));
}

fn run(list: Vec<Configuration>, limit: usize) -> bool {
    println!("| configuration | states | transitions | depth | seconds | bytes | result |");
    println!("|---|---|---|---|---|---|---|");
    let mut sum = 0;
    let mut fine = true;
    for one in list {
        let explored = explore(&one.shape, limit, |_, _, _| {});
        let Explored { states, edges, depth, seconds, bytes, .. } = explored;
        sum += states;
        fine &= explored.found.is_none();
        let result = match &explored.found {
            None if explored.whole => "safe, all of it".to_owned(),
            None => "safe, as far as it went".to_owned(),
            Some(found) => format!("{:?}", found.violation),
        };
        println!(
            "| `{}` | {states} | {edges} | {depth} | {seconds:.0} | {bytes} | {result} |",
            one.name
        );
        if let Some(found) = explored.found {
            println!("{}", trace::readable(&one.shape, &found));
        }
    }
    println!("{sum} states");
    fine
}

fn try_mutant(mutant: Mutant, with_trace: bool) -> bool {
    let shape = configurations::seeded(mutant);
    let explored = explore(&shape, 3_000_000, |_, _, _| {});
    let found = explored.found.is_some();
    match &explored.found {
        Some(found) => {
            let (length, states) = (found.moves.len(), explored.states);
            println!("| `{mutant:?}` | {:?} | {length} | {states} |", found.violation.0);
            if with_trace {
                println!("{}", trace::readable(&shape, found));
            }
        }
        None => {
            let how = if explored.whole { "all of it" } else { "as far as it went" };
            println!("| `{mutant:?}` | nothing, {how} | | {} |", explored.states);
        }
    }
    found
}

fn seeds(first: u64, count: u64) -> bool {
    let start = Instant::now();
    let (mut moves, mut accepted) = (0, 0);
    for seed in first..first + count {
        match simulation::run(seed) {
            Ok(ran) => {
                moves += ran.moves;
                accepted += ran.accepted;
            }
            Err(failed) => {
                println!("seed {} failed after {} moves", failed.seed, failed.after);
                println!("{:?}: {}", failed.violation.0, failed.violation.1);
                return false;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{count} seeds from {first}: {moves} moves, {accepted} frames accepted, {seconds:.0} s"
    );
    true
}

fn own(words: &[&str]) -> Shape {
    let value = |name: &str| -> u8 {
        let at = words.iter().position(|word| *word == name);
        at.map_or(0, |at| words[at + 1].parse().expect("a number"))
    };
    let mut shape = configurations::base(value("--senders").into(), value("--frames"));
    shape.importers = value("--importers").max(1);
    shape.singles = value("--singles") > 0;
    shape.records = value("--records") > 0;
    shape.quota = if value("--quota") > 0 { value("--quota") } else { 15 };
    shape.faults.crashes = value("--crashes");
    shape.faults.timeouts = value("--timeouts");
    shape.faults.releases = value("--releases");
    shape.faults.aborts = value("--aborts");
    shape.faults.restores = value("--restores");
    shape.faults.expiries = value("--expiries");
    shape.faults.repeats = value("--repeats");
    shape.faults.losses = value("--losses");
    shape
}
