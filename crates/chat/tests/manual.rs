//! Man pages and completions say every command there is. None needs a profile.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test fails by panicking

mod people;

use std::fs;

use clap::{Command, CommandFactory};
use people::{bare, finish};
use tempfile::TempDir;
use valise_chat::cli::arguments::Arguments;

/// `valise-chat`, `valise-chat-group`, `valise-chat-group-create` and so on, hidden ones apart.
fn names(command: &Command, before: &str) -> Vec<String> {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    let deeper =
        shown.flat_map(|command| names(command, &format!("{before}-{}", command.get_name())));
    std::iter::once(before.to_owned()).chain(deeper).collect()
}

#[test]
fn every_command_has_a_page() {
    let place = TempDir::new().unwrap();
    let mut command = bare();
    command.args(["man", "--out"]).arg(place.path());
    let done = finish(command);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let expected = names(&Arguments::command(), "valise-chat");
    assert!(expected.contains(&"valise-chat-group-create".to_owned()));
    assert!(!expected.contains(&"valise-chat-man".to_owned()));
    for name in &expected {
        let page = fs::read_to_string(place.path().join(format!("man1/{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{name}");
    }
    assert_eq!(fs::read_dir(place.path().join("man1")).unwrap().count(), expected.len());
}

#[test]
fn every_shell_completes_every_command() {
    let program = Arguments::command();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut command = bare();
        command.args(["completions", shell]);
        let done = finish(command);
        assert_eq!(done.code, 0, "{shell}: {}", done.stderr);
        for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(done.stdout.contains(name), "{shell} does not know {name}");
        }
    }
    let mut unknown = bare();
    unknown.args(["completions", "cmd"]);
    assert_eq!(finish(unknown).code, 64);
}

/// What is generated is what the shell takes.
#[test]
fn bash_reads_its_script() {
    let mut command = bare();
    command.args(["completions", "bash"]);
    let script = finish(command).stdout;
    let line = "COMP_WORDS=(valise-chat dis); COMP_CWORD=1; _valise__chat valise-chat dis valise-chat; \
                echo \"${COMPREPLY[@]}\"";
    let mut bash = std::process::Command::new("bash");
    bash.args(["--norc", "-c", &format!("{script}\n{line}")]);
    assert_eq!(finish(bash).stdout.trim(), "disappear");
}
