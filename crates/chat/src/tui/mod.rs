//! The terminal UI: conversations at the left, the open one at the right, everything by keyboard.
//!
//! `model` is a value that inputs change and that asks for effects; `view` draws it; `shell` runs
//! the effects. Only the shell and `terminal` touch the world.

mod clock;
mod model;
mod shell;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod view;

pub use shell::{TuiError, run};
