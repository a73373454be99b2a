//! The model and its picture, without a terminal and without an engine.

mod flows;
mod scenes;
mod stage;
