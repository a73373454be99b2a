//! Chat over a Valise relay, in the terminal.
fn main() {}
