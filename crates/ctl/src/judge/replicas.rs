//! The auditor: all copies of a stream at the same place in its log hold the same. A copy that has lost
//! something says nothing of it, and once it leads, what it has lost is lost.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::{Finding, Kind};
use crate::said::{Held, Said, State};

/// How a copy stands to the others of its stream in one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    /// As others at the same place.
    Same,
    /// Otherwise.
    Odd(State),
}

/// Copies that differed from the others in every look in which they could be compared. A purge
/// reaches the copies one after the other: in the moment between they differ.
pub(super) fn judge(said: &Said) -> Vec<Finding> {
    let mut same: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut odd: BTreeMap<(&str, &str), (State, State)> = BTreeMap::new();
    for sample in &said.samples {
        for (stream, held) in by_stream(sample) {
            for (server, copy) in compare(&held) {
                match copy {
                    Copy::Same => drop(same.insert((stream, server))),
                    Copy::Odd(others) => {
                        let own = held.iter().find(|held| held.server == server);
                        let own = own.map(|held| held.stream.state).unwrap_or_default();
                        odd.insert((stream, server), (own, others));
                    }
                }
            }
        }
    }
    odd.retain(|key, _| !same.contains(key));
    let tell = |((stream, server), (own, others)): ((&str, &str), (State, State))| {
        let cause = format!(
            "at sequence {} {server} has {} of {stream}, where another has {}",
            own.last_seq,
            told(&own),
            told(&others),
        );
        Finding::new(Kind::Mismatch, format!("{stream} on {server}"), cause)
    };
    odd.into_iter().map(tell).collect()
}

/// Whether all copies could be compared and agree, and nothing is behind: there is no need to look again.
pub(crate) fn is_settled(said: &Said) -> bool {
    let Some(sample) = said.samples.last() else { return false };
    let agree = by_stream(sample).values().all(|held| {
        let compared = compare(held);
        // One copy alone has nothing to be compared with.
        held.len() < 2
            || (compared.len() == held.len() && compared.values().all(|copy| *copy == Copy::Same))
    });
    let current = sample.iter().all(|held| {
        let group = &held.stream.cluster;
        let is_led = said.has_answered(&group.leader);
        is_led && (held.server != group.leader || group.replicas.iter().all(|other| other.current))
    });
    agree && current
}

fn by_stream(sample: &[Held]) -> BTreeMap<&str, Vec<&Held>> {
    let mut streams: BTreeMap<&str, Vec<&Held>> = BTreeMap::new();
    for held in sample {
        streams.entry(&held.stream.name).or_default().push(held);
    }
    streams
}

/// Every copy for which there is another one at the same place. The odd one is the one that fewer are
/// like; where that says nothing, each of them is.
fn compare<'a>(held: &[&'a Held]) -> BTreeMap<&'a str, Copy> {
    let mut compared = BTreeMap::new();
    for one in held {
        let own = one.stream.state;
        let others = held.iter().filter(|other| {
            other.server != one.server && other.stream.state.last_seq == own.last_seq
        });
        let others: Vec<State> = others.map(|other| other.stream.state).collect();
        let Some(other) = others.iter().copied().find(|other| !is_same(&own, other)) else {
            if !others.is_empty() {
                compared.insert(one.server.as_str(), Copy::Same);
            }
            continue;
        };
        let like = |state: &State| 1 + others.iter().filter(|other| is_same(state, other)).count();
        // The other one is among the others itself, and so counted once more.
        let is_odd = like(&own) < like(&other);
        compared.insert(one.server.as_str(), if is_odd { Copy::Odd(other) } else { Copy::Same });
    }
    compared
}

/// Consumers are no part of what is stored.
fn is_same(one: &State, other: &State) -> bool {
    let of = |state: &State| (state.messages, state.bytes, state.num_deleted, first(state));
    of(one) == of(other)
}

/// Where a copy begins. In an empty one that says nothing: it is 0, or behind the last one.
fn first(state: &State) -> u64 {
    if state.messages == 0 { 0 } else { state.first_seq }
}

fn told(state: &State) -> String {
    let State { messages, bytes, first_seq, num_deleted, .. } = state;
    format!("{messages} messages ({bytes} bytes, {num_deleted} deleted) from {first_seq} on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::said::{Group, Stream};

    /// Copies as (server, messages, last sequence); everything else follows.
    fn sample(copies: &[(&str, u64, u64)]) -> Vec<Held> {
        let held = |(server, messages, last_seq): &(&str, u64, u64)| Held {
            server: (*server).to_owned(),
            account: "RELAY".to_owned(),
            stream: Stream {
                name: "MB_1_3".to_owned(),
                state: State {
                    messages: *messages,
                    bytes: 100 * messages,
                    first_seq: 1,
                    last_seq: *last_seq,
                    num_deleted: last_seq - messages,
                    consumer_count: 0,
                },
                cluster: Group { leader: "a".to_owned(), replicas: Vec::new() },
                ..Stream::default()
            },
        };
        copies.iter().map(held).collect()
    }

    fn odd(samples: &[&[(&str, u64, u64)]]) -> Vec<String> {
        let samples = samples.iter().map(|copies| sample(copies)).collect();
        let said = Said { samples, ..Said::default() };
        judge(&said).into_iter().map(|finding| finding.subject).collect()
    }

    #[test]
    fn the_copy_that_fewer_are_like_is_the_odd_one() {
        assert_eq!(odd(&[&[("a", 9, 9), ("b", 9, 9), ("c", 9, 9)]]), Vec::<String>::new());
        assert_eq!(odd(&[&[("a", 9, 9), ("b", 7, 9), ("c", 9, 9)]]), ["MB_1_3 on b"]);
        // The leader too.
        assert_eq!(odd(&[&[("a", 7, 9), ("b", 9, 9), ("c", 9, 9)]]), ["MB_1_3 on a"]);
        let both = ["MB_1_3 on a", "MB_1_3 on b"];
        assert_eq!(odd(&[&[("a", 7, 9), ("b", 9, 9)]]), both);
        let all = ["MB_1_3 on a", "MB_1_3 on b", "MB_1_3 on c"];
        assert_eq!(odd(&[&[("a", 7, 9), ("b", 8, 9), ("c", 9, 9)]]), all);
    }

    #[test]
    fn copies_at_different_places_are_not_compared() {
        assert_eq!(odd(&[&[("a", 9, 9), ("b", 7, 7), ("c", 8, 8)]]), Vec::<String>::new());
        assert_eq!(odd(&[&[("a", 9, 9), ("b", 7, 8), ("c", 9, 9)]]), Vec::<String>::new());
        assert_eq!(odd(&[&[("a", 9, 9)]]), Vec::<String>::new());
    }

    #[test]
    fn what_differs_for_a_moment_is_a_purge_on_its_way() {
        let before: &[_] = &[("a", 7, 9), ("b", 9, 9), ("c", 9, 9)];
        let after: &[_] = &[("a", 7, 9), ("b", 7, 9), ("c", 7, 9)];
        assert_eq!(odd(&[before, after]), Vec::<String>::new());
        // One that could not be compared in between is odd if it is whenever it can be.
        let behind: &[_] = &[("a", 9, 9), ("b", 5, 8), ("c", 9, 9)];
        let damaged: &[_] = &[("a", 9, 9), ("b", 5, 9), ("c", 9, 9)];
        assert_eq!(odd(&[damaged, behind, damaged]), ["MB_1_3 on b"]);
    }

    #[test]
    fn an_empty_copy_begins_nowhere() {
        let mut samples = vec![sample(&[("a", 0, 9), ("b", 0, 9)])];
        samples[0][0].stream.state.first_seq = 10;
        samples[0][1].stream.state.first_seq = 0;
        assert_eq!(judge(&Said { samples, ..Said::default() }), []);
    }
}
