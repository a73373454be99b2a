//! Writes the relay's man pages and shell completions to a directory: `just man`. An example,
//! because the relay itself links nothing that it does not need to run.

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("say a directory to write to"));
    };
    valise_pages::write(valise::cli::definition(), Path::new(&directory))
}
