//! `valise-chat`: chat over a Valise relay, in the terminal, from scripts and from bots. All
//! behaviour is in `valise-chat-core`; here are its front ends, and the socket they share.

pub mod api;
pub mod cli;
pub mod keyring;
pub mod printable;
pub mod qr;
pub mod rpc;
pub mod tui;
