//! Man pages and shell completions of a program, from the definition of its command line. A crate of
//! its own, so that the relay links none of it: `examples/pages.rs` writes the relay's.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, ValueEnum};
pub use clap_complete::Shell;

/// Writes all pages of a program, one for each of its commands, to `man1` in a directory, and
/// completions for every shell to `completions`.
///
/// # Errors
/// The system's.
pub fn write(program: Command, directory: &Path) -> io::Result<()> {
    let (pages, completions) = (directory.join("man1"), directory.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let name = program.get_name().to_owned();
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut program.clone(), &name, &completions)?;
    }
    clap_mangen::generate_to(program, pages)
}

/// The completions of a program for one shell.
pub fn completions(shell: Shell, mut program: Command) -> String {
    // The generator cannot say that an output is closed; memory is not.
    let (name, mut script) = (program.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, &mut program, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test fails by panicking

    use super::*;

    #[test]
    fn every_command_has_its_page_and_every_shell_its_script() {
        let deep = Command::new("go").about("Goes").subcommand(Command::new("far"));
        let hidden = Command::new("secret").hide(true);
        let program = Command::new("walk").about("Walks").subcommand(deep).subcommand(hidden);
        let place = tempfile::tempdir().unwrap();
        write(program, place.path()).unwrap();
        let names = |directory: &str| {
            let files = fs::read_dir(place.path().join(directory)).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        assert_eq!(names("man1"), ["walk-go-far.1", "walk-go.1", "walk.1"]);
        assert_eq!(names("completions").len(), Shell::value_variants().len());
        let page = fs::read_to_string(place.path().join("man1/walk.1")).unwrap();
        assert!(page.contains("walk\\-go(1)") && !page.contains("secret"), "{page}");
    }
}
