//! What canaries have told since the last round. Pure.

use std::collections::BTreeMap;

use valise::store::jetstream::stream;

use super::turn::{Flight, Refused};
use crate::finding::{Finding, Kind, few};

/// What there is to tell.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Since the last round.
    events: Vec<Finding>,
    /// Partitions whose last canary was not taken, and why.
    refused: BTreeMap<(u8, Nature), String>,
}

/// Which of a partition's two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Nature {
    /// Comes back at once.
    Quick,
    /// Is held for a day.
    Held,
}

impl Ledger {
    /// One came back, or did not.
    pub(crate) fn flew(&mut self, partition: u8, flight: Flight) {
        self.refused.remove(&(partition, Nature::Quick));
        match flight {
            Flight::Back(_) => {}
            Flight::Late(took) => {
                let cause = format!("a canary came back after {:.1} s", took.as_secs_f64());
                self.tell(Kind::CanaryLate, partition, cause);
            }
            Flight::Lost => {
                self.tell(Kind::CanaryLost, partition, "an accepted canary is not there".into());
            }
            Flight::Doubled => {
                self.tell(Kind::CanaryDoubled, partition, "one canary came twice".into());
            }
        }
    }

    /// Those that are held were counted.
    pub(crate) fn counted(&mut self, partition: u8, lost: usize, doubled: usize) {
        self.refused.remove(&(partition, Nature::Held));
        if lost > 0 {
            let cause = format!("{lost} accepted canaries that were held are not there");
            self.tell(Kind::CanaryLost, partition, cause);
        }
        if doubled > 0 {
            let cause = format!("{doubled} canaries that were held are there twice");
            self.tell(Kind::CanaryDoubled, partition, cause);
        }
    }

    /// One could not be sent or fetched.
    pub(crate) fn refused(&mut self, partition: u8, nature: Nature, why: &Refused) {
        self.refused.insert((partition, nature), why.to_string());
    }

    /// What there is to tell in this round.
    pub(crate) fn findings(&mut self) -> Vec<Finding> {
        let mut findings = std::mem::take(&mut self.events);
        let mut partitions: Vec<String> =
            self.refused.keys().map(|(partition, _)| named(*partition)).collect();
        partitions.dedup();
        if let Some(why) = self.refused.values().next() {
            let count = partitions.len();
            let cause =
                format!("canaries of {count} partitions: {why}; they are {}", few(&partitions));
            findings.push(Finding::new(Kind::CanaryRefused, "canaries", cause));
        }
        findings
    }

    fn tell(&mut self, kind: Kind, partition: u8, cause: String) {
        let place = named(partition);
        let same = |event: &Finding| event.kind == kind && event.subject == place;
        if !self.events.iter().any(same) {
            self.events.push(Finding::new(kind, place, cause));
        }
    }
}

fn named(partition: u8) -> String {
    format!("partition {partition:02x} in {}", stream(partition))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn told(ledger: &mut Ledger) -> Vec<(Kind, String)> {
        ledger.findings().into_iter().map(|finding| (finding.kind, finding.subject)).collect()
    }

    #[test]
    fn what_happened_is_told_once_and_what_lasts_each_time() {
        let mut ledger = Ledger::default();
        ledger.flew(0x13, Flight::Back(Duration::from_millis(3)));
        assert_eq!(told(&mut ledger), []);
        ledger.flew(0x13, Flight::Lost);
        ledger.flew(0x14, Flight::Late(Duration::from_secs(20)));
        ledger.flew(0x15, Flight::Doubled);
        ledger.counted(0x13, 2, 0);
        let expected = [
            (Kind::CanaryLost, "partition 13 in MB_1_2".to_owned()),
            (Kind::CanaryLate, "partition 14 in MB_1_2".to_owned()),
            (Kind::CanaryDoubled, "partition 15 in MB_1_2".to_owned()),
        ];
        assert_eq!(told(&mut ledger), expected);
        assert_eq!(told(&mut ledger), []);
        let why = Refused::of("post", "busy");
        ledger.refused(0xff, Nature::Quick, &why);
        ledger.refused(0xff, Nature::Held, &why);
        let refused = (Kind::CanaryRefused, "canaries".to_owned());
        assert_eq!(told(&mut ledger), std::slice::from_ref(&refused));
        ledger.flew(0xff, Flight::Back(Duration::ZERO));
        assert_eq!(told(&mut ledger), [refused]);
        ledger.counted(0xff, 0, 0);
        assert_eq!(told(&mut ledger), []);
    }
}
