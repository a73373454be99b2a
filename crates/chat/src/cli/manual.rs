//! What shells and `man` say about this program.

use std::path::Path;

use clap::CommandFactory;
use valise_pages::Shell;

use super::arguments::Arguments;
use super::exit::Failure;
use super::output::Output;

/// `completions`.
///
/// # Errors
/// [`Failure`].
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    Output::of_process().print(&valise_pages::completions(shell, Arguments::command()))
}

/// `man`.
///
/// # Errors
/// [`Failure`].
pub(super) fn pages(directory: &Path) -> Result<(), Failure> {
    let doing = format!("write the pages to {}", directory.display());
    valise_pages::write(Arguments::command(), directory).map_err(Failure::file(doing))
}
