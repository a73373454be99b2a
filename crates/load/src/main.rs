//! `valise-load`: drives many clients against a relay and checks every promise it makes.

mod checker;
mod cli;
mod fail_if;
mod header;
mod latency;
mod machine;
mod process;
mod ranges;
mod report;

fn main() {}
