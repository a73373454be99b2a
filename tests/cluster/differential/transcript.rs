//! What each client was told, in a normal form, and how two of them are compared. What may differ
//! between a supernode and a data centre is left out by the rules here and nowhere else; everything
//! else has to be the same. `Move` is not in it: where a client is asked to go depends on where it is,
//! and `Wire` keeps it apart.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use valise_proto::{Posted, Reason, Token};

/// What was told in each lane. A lane is a client's answers, or one attachment: what happens in
/// two of them has no order that anybody is promised.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transcripts {
    lanes: BTreeMap<String, Vec<String>>,
    /// Copies that were left out.
    pub copies: u32,
}

impl Transcripts {
    pub fn add(&mut self, lane: String, step: usize, event: &str) {
        self.lanes.entry(lane).or_default().push(format!("{step:>3} {event}"));
    }

    /// Events in all lanes.
    pub fn len(&self) -> usize {
        self.lanes.values().map(Vec::len).sum()
    }

    /// Whether any event has this in it.
    pub fn mentions(&self, what: &str) -> bool {
        self.lanes.values().flatten().any(|event| event.contains(what))
    }

    /// Where another one differs first in each lane; nothing if nowhere.
    pub fn differences(&self, other: &Self) -> Option<String> {
        let mut text = String::new();
        let empty = Vec::new();
        let mut names: Vec<_> = self.lanes.keys().chain(other.lanes.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let of = |all: &'_ Self| all.lanes.get(name).unwrap_or(&empty).clone();
            let (here, there) = (of(self), of(other));
            if let Some(i) =
                (0..here.len().max(there.len())).find(|i| here.get(*i) != there.get(*i))
            {
                let end = "(nothing)".to_owned();
                let (one, two) = (here.get(i).unwrap_or(&end), there.get(i).unwrap_or(&end));
                writeln!(text, "{name}, event {i}:\n    {one}\n    {two}").unwrap();
            }
        }
        Some(text).filter(|text| !text.is_empty())
    }
}

/// Rule *tokens*: their bytes are random. How many, and that they are different, stays.
pub fn tokens(tokens: &[Token]) -> String {
    let different: std::collections::BTreeSet<_> =
        tokens.iter().map(|token| token.as_bytes().to_vec()).collect();
    format!("{} tokens, {} different", tokens.len(), different.len())
}

/// Rule *retry*: how long to wait is the relay's estimate. Whether to wait stays.
pub fn retry(retry_after_ms: u32) -> &'static str {
    if retry_after_ms == 0 { "" } else { ", later" }
}

/// Rule *low*: `BundleLow` has a lane of its own, since it may come before or after what is delivered in
/// the same step.
pub const LOW_LANE: &str = " low";

/// Rule *copies*: an acknowledged frame may come once more in a data centre, until its mailbox has
/// settled. A node removes it after a while, and a takeover before that gives it again (rule 3 of
/// `Engine`); the receiver drops it by its counter. A supernode gives none.
pub fn copies_may_come(in_a_data_centre: bool) -> bool {
    in_a_data_centre
}

/// Rule *n*: a delivery's number counts copies too. That it is the next one stays.
pub fn numbered(said: u64, next: u64) -> String {
    if said == next { String::new() } else { format!(", said to be {said} and not {next}") }
}

/// Outcomes of a post.
pub fn outcomes(posted: &Posted) -> String {
    let names: Vec<_> = posted.outcomes.iter().copied().map(name).collect();
    format!("posted {}{}", names.join(" "), retry(posted.retry_after_ms))
}

pub fn name(reason: Option<Reason>) -> String {
    reason.map_or("unknown".to_owned(), |reason| format!("{reason:?}"))
}

/// What payloads are made of: a number that says which one it is, and a key that makes the same
/// script one of other plaintexts.
#[derive(Debug, Clone, Copy)]
pub struct Plaintexts(pub u32);

impl Plaintexts {
    pub fn make(self, number: u32, len: usize) -> Bytes {
        let word = (number.wrapping_mul(0x9e37_79b1) ^ self.0).to_be_bytes();
        word.iter().copied().cycle().take(len).collect::<Vec<u8>>().into()
    }

    /// Which one it is and how long, or that it is none of them.
    pub fn tell(self, payload: &Bytes, known: u32) -> String {
        let number = (0..known).find(|number| self.make(*number, payload.len()) == *payload);
        let number = number.map_or("damaged".to_owned(), |number| format!("#{number}"));
        format!("{number} of {} B", payload.len())
    }
}
