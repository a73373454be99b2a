//! A way through the model, as a person reads it.

use std::fmt::Write as _;

use super::explorer::Counterexample;
use super::world::{Shape, World};

/// One line for each move, with what it left.
pub fn readable(shape: &Shape, found: &Counterexample) -> String {
    let mut out = format!("{:?}: {}\n", found.violation.0, found.violation.1);
    let mut world = shape.world();
    for (number, what) in found.moves.iter().enumerate() {
        let _ = writeln!(out, "{:4}  {what}", number + 1);
        match shape.apply(&world, *what) {
            Ok(Some(next)) => {
                changes(&world, &next, &mut out);
                world = next;
            }
            Ok(None) => out.push_str("        nothing\n"),
            Err(violation) => {
                let _ = writeln!(out, "        violated: {:?}", violation.0);
            }
        }
    }
    out
}

fn changes(before: &World, after: &World, out: &mut String) {
    for (number, (old, new)) in before.sites.iter().zip(&after.sites).enumerate() {
        if old.shard != new.shard {
            let _ = writeln!(out, "        S {number}: {:?}", new.shard);
        }
        if old.ledger != new.ledger {
            let _ = writeln!(out, "        C {number}: {:?}", new.ledger);
        }
        if old.log != new.log || old.durable != new.durable {
            let _ = writeln!(out, "        log {number}: {:?}, {} on disk", new.log, new.durable);
        }
        for asked in new.to_c.iter().filter(|asked| !old.to_c.contains(asked)) {
            let _ = writeln!(out, "        asked of C: {:?}", asked.action);
        }
        for told in new.to_s.iter().filter(|told| !old.to_s.contains(told)) {
            let _ = writeln!(out, "        asked of S: {:?}", told.request);
        }
    }
    for (number, (old, new)) in before.lanes.iter().zip(&after.lanes).enumerate() {
        if (old.accepted, old.shown) != (new.accepted, new.shown) {
            let (accepted, shown) = (new.accepted, new.shown);
            let _ = writeln!(out, "        lane {number}: accepted {accepted}, shown {shown}");
        }
    }
    for (number, (old, new)) in before.ops.iter().zip(&after.ops).enumerate() {
        if old.told != new.told {
            let _ = writeln!(out, "        request {number}: told {:?}", new.told);
        }
    }
}
