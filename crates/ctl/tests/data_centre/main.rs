//! `valisectl` against three real NATS servers, with real relays: what is well is told to be well, and
//! each fault is found by its name.
//!
//! Without a `nats-server` (see `valise_client::testing`) this says so and does nothing, unless
//! `VALISE_NATS_REQUIRED` is set.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(clippy::print_stderr)] // that something was not tested must be seen

mod bus;
mod faults;
mod patience;
mod settings;
mod tool;
mod watched;
