//! Alarms: what was found, round after round. Pure: (findings, now) -> what was raised and cleared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Kind, Stays};
use crate::limits::ALARM_LASTS_SECONDS;

/// An alarm, or what may become one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alarm {
    pub(crate) kind: Kind,
    pub(crate) subject: String,
    pub(crate) cause: String,
    /// When it was first seen, in seconds since 1970.
    pub(crate) since: u64,
    /// When it was last seen.
    pub(crate) seen: u64,
    /// Rounds on end in which it was seen.
    pub(crate) rounds: u32,
    pub(crate) raised: bool,
    /// An operator knows of it.
    pub(crate) acknowledged: bool,
}

/// What changed in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Raised(Alarm),
    Cleared(Alarm),
}

/// What an operator acknowledges.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) subject: String,
}

/// What was seen in a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round<'a> {
    pub(crate) findings: &'a [Finding],
    /// The servers were seen. Where they were not, nothing is known to be gone.
    pub(crate) seen: bool,
    /// What operators have acknowledged since.
    pub(crate) acknowledged: &'a [Key],
    /// Seconds since 1970.
    pub(crate) now: u64,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Alarms(BTreeMap<Key, Alarm>);

impl Alarms {
    /// As they were kept.
    pub(crate) fn restore(kept: Vec<Alarm>) -> Self {
        let key = |alarm: &Alarm| Key { kind: alarm.kind, subject: alarm.subject.clone() };
        Self(kept.into_iter().map(|alarm| (key(&alarm), alarm)).collect())
    }

    /// To be kept.
    pub(crate) fn all(&self) -> Vec<&Alarm> {
        self.0.values().collect()
    }

    /// Those that are raised.
    pub(crate) fn raised(&self) -> impl Iterator<Item = &Alarm> {
        self.0.values().filter(|alarm| alarm.raised)
    }

    /// Takes a round in.
    pub(crate) fn round(&mut self, round: Round<'_>) -> Vec<Change> {
        let mut changes = Vec::new();
        for key in round.acknowledged {
            if let Some(alarm) = self.0.get_mut(key) {
                alarm.acknowledged = true;
            }
        }
        for Finding { kind, subject, cause } in round.findings {
            let key = Key { kind: *kind, subject: subject.clone() };
            let alarm = self.0.entry(key).or_insert_with(|| Alarm {
                kind: *kind,
                subject: subject.clone(),
                cause: cause.clone(),
                since: round.now,
                seen: round.now,
                rounds: 0,
                raised: false,
                acknowledged: false,
            });
            alarm.rounds += 1;
            alarm.seen = round.now;
            alarm.cause.clone_from(cause);
            if !alarm.raised && alarm.rounds >= kind.rounds() {
                alarm.raised = true;
                changes.push(Change::Raised(alarm.clone()));
            }
        }
        self.0.retain(|key, alarm| {
            let is_seen =
                round.findings.iter().any(|f| f.kind == key.kind && f.subject == key.subject);
            if is_seen || !round.seen && key.kind != Kind::Unseen {
                return true;
            }
            alarm.rounds = 0;
            let gone = round.now.saturating_sub(alarm.seen);
            let stays = key.kind.stays() == Stays::UntilAcknowledged
                && !alarm.acknowledged
                && gone < ALARM_LASTS_SECONDS;
            if alarm.raised && stays {
                return true;
            }
            if alarm.raised {
                changes.push(Change::Cleared(alarm.clone()));
            }
            false
        });
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of a minute each: which kinds are seen at `a`, and what changes.
    struct Play {
        alarms: Alarms,
        now: u64,
    }

    impl Play {
        fn new() -> Self {
            Self { alarms: Alarms::default(), now: 1_000 }
        }

        fn round(&mut self, kinds: &[Kind]) -> Vec<(bool, Kind)> {
            self.full(kinds, true, &[])
        }

        fn full(&mut self, kinds: &[Kind], seen: bool, keys: &[Key]) -> Vec<(bool, Kind)> {
            self.now += 60;
            let findings: Vec<_> =
                kinds.iter().map(|kind| Finding::new(*kind, "a", "because")).collect();
            let round = Round { findings: &findings, seen, acknowledged: keys, now: self.now };
            let changes = self.alarms.round(round);
            // A restart forgets nothing.
            let kept = serde_json::to_string(&self.alarms.all()).expect("JSON can be written");
            let kept = Alarms::restore(serde_json::from_str(&kept).expect("it was written so"));
            assert_eq!(kept, self.alarms);
            let change = |change| match change {
                Change::Raised(alarm) => (true, alarm.kind),
                Change::Cleared(alarm) => (false, alarm.kind),
            };
            changes.into_iter().map(change).collect()
        }

        fn raised(&self) -> Vec<Kind> {
            self.alarms.raised().map(|alarm| alarm.kind).collect()
        }
    }

    fn key(kind: Kind) -> Key {
        Key { kind, subject: "a".to_owned() }
    }

    #[test]
    fn an_alarm_is_told_once_when_it_comes_and_once_when_it_goes() {
        let mut play = Play::new();
        assert_eq!(play.round(&[Kind::Silent]), [(true, Kind::Silent)]);
        assert_eq!(play.round(&[Kind::Silent]), []);
        assert_eq!(play.raised(), [Kind::Silent]);
        assert_eq!(play.round(&[]), [(false, Kind::Silent)]);
        assert_eq!(play.round(&[]), []);
        assert_eq!(play.raised(), []);
    }

    #[test]
    fn copies_that_differ_are_told_in_the_second_round() {
        let mut play = Play::new();
        assert_eq!(play.round(&[Kind::Mismatch]), []);
        assert_eq!(play.round(&[]), []);
        assert_eq!(play.round(&[Kind::Mismatch]), [], "not on end");
        assert_eq!(play.round(&[Kind::Mismatch]), [(true, Kind::Mismatch)]);
    }

    #[test]
    fn an_alarm_that_lasts_waits_for_an_operator() {
        let mut play = Play::new();
        assert_eq!(play.round(&[Kind::Consumer]), [(true, Kind::Consumer)]);
        for _ in 0..100 {
            assert_eq!(play.round(&[]), []);
        }
        assert_eq!(play.raised(), [Kind::Consumer]);
        let other = [Key { kind: Kind::Consumer, subject: "b".to_owned() }, key(Kind::Mirror)];
        assert_eq!(play.full(&[], true, &other), []);
        assert_eq!(play.full(&[], true, &[key(Kind::Consumer)]), [(false, Kind::Consumer)]);
        // Acknowledged while it is seen: it goes when it is gone, and not before.
        assert_eq!(play.round(&[Kind::Consumer]), [(true, Kind::Consumer)]);
        assert_eq!(play.full(&[Kind::Consumer], true, &[key(Kind::Consumer)]), []);
        assert_eq!(play.raised(), [Kind::Consumer]);
        assert_eq!(play.round(&[]), [(false, Kind::Consumer)]);
    }

    #[test]
    fn an_alarm_that_lasts_ends_by_itself_at_last() {
        let mut play = Play::new();
        play.round(&[Kind::Consumer]);
        play.now += ALARM_LASTS_SECONDS - 61;
        assert_eq!(play.round(&[]), []);
        assert_eq!(play.round(&[]), [(false, Kind::Consumer)]);
    }

    #[test]
    fn a_round_that_saw_nothing_clears_nothing() {
        let mut play = Play::new();
        play.round(&[Kind::Silent]);
        assert_eq!(play.full(&[Kind::Unseen], false, &[]), [(true, Kind::Unseen)]);
        assert_eq!(play.raised(), [Kind::Unseen, Kind::Silent]);
        let gone = [(false, Kind::Unseen), (false, Kind::Silent)];
        assert_eq!(play.round(&[]), gone);
    }
}
