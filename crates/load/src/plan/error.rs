//! Why a command line makes no run.

use valise_proto::AddressError;
use valise_proto::limits::PAYLOAD_SIZES;

use super::{NODES_MAX, REPEATED_MAX};
use crate::fail_if::FailIfError;

/// Why a command line makes no run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("--target: {0}")]
    Target(AddressError),
    #[error("--invite-code: {0}")]
    Code(AddressError),
    #[error("--invite-code: cannot read {0}: {1}")]
    CodeFile(String, std::io::Error),
    #[error(
        "--invite-code: {clients} clients need as many codes, since a code works once; got {codes}"
    )]
    Codes { clients: u32, codes: usize },
    #[error("--size: a payload has {PAYLOAD_SIZES:?} bytes")]
    Size,
    #[error("--clients: {0}")]
    Clients(String),
    #[error("--conversations: {0}")]
    Conversations(String),
    #[error("--rate: frames per second are a number above 0")]
    Rate,
    #[error("--window: {0}")]
    Window(String),
    #[error("--duration: a run takes some time, and at most 24 hours")]
    Duration,
    #[error("--{0} means nothing in the scenario {1}")]
    Meaningless(&'static str, &'static str),
    #[error("the scenario {0} ends a relay of its own: leave --target away")]
    NeedsSpawn(&'static str),
    #[error("--within: a storm takes some time, and at most 24 hours")]
    Within,
    #[error("--nodes: {0} to {NODES_MAX}")]
    Nodes(u32),
    #[error("--queued: at most 1,000,000 frames")]
    Queued,
    #[error("--repeat: 1 to {REPEATED_MAX} times")]
    Repeat,
    #[error("--others: pairs need an even number, at least 2")]
    Others,
    #[error("--members: a group has 2 to {0} members, so that one post reaches all others")]
    Members(usize),
    #[error("--fail-if: {0}")]
    FailIf(#[from] FailIfError),
}
