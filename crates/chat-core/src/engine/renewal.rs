//! What has to be renewed in a group though nobody comes or goes: this device's own leaf, so that a
//! copy of its state reads on for a bounded time only, and the slot token that members of other
//! relays share.

use std::time::Duration;

use valise_client::random;

use super::commits::{Wanted, home};
use super::core::{Core, now_ms};
use super::effect::{Gather, Gathered, Job, Purpose};
use super::fault::Fault;
use super::records::state;
use crate::mls::Leaf;
use crate::vault::Transaction;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A group of at most so many devices has each leaf renewed after [`LEAF_DAYS`]: seven commits a day
/// at most. Larger ones after [`LEAF_DAYS_LARGE`], for each commit is read by every device.
pub const LEAF_DEVICES_MAX: usize = 48;
/// Days after which a device renews its leaf.
pub const LEAF_DAYS: u32 = 7;
/// The same in groups of more than [`LEAF_DEVICES_MAX`] devices.
pub const LEAF_DAYS_LARGE: u32 = 30;
/// Of the time between two renewals so much is drawn at random: members that were added together do
/// not want the same epoch. In parts of 1,000.
const LEAF_JITTER: u32 = 250;
/// Minutes over which those spread that are due when they come online, or that have joined with a
/// leaf that is due.
pub const LEAF_SOON_MINUTES: u32 = 10;
/// Days after which the shared slot token is renewed: half of its life.
pub const SHARED_TOKEN_DAYS: u32 = 200;
/// Days between the first member that may renew the shared token and the next one. With 200 of them
/// all have had their turn when the old one ends.
pub const SHARED_TOKEN_STEP_DAYS: u32 = 1;
/// A change that the relay has refused is tried again after so long.
const REFUSED_WAIT: Duration = Duration::from_secs(60 * 60);
/// Clocks of members may differ by so much.
const CLOCKS_DIFFER: Duration = DAY;

/// When what grows old is renewed. Members need not agree on any of it.
#[derive(Debug, Clone, Copy)]
pub struct Renewal {
    /// The own leaf, in groups of at most [`LEAF_DEVICES_MAX`] devices.
    pub leaf: Duration,
    /// The own leaf, in larger groups.
    pub leaf_large: Duration,
    /// How long a leaf that is due may still wait, at random.
    pub soon: Duration,
    /// The shared slot token.
    pub shared_token: Duration,
    /// Between two members that may renew it.
    pub shared_token_step: Duration,
}

impl Default for Renewal {
    fn default() -> Self {
        Self {
            leaf: DAY * LEAF_DAYS,
            leaf_large: DAY * LEAF_DAYS_LARGE,
            soon: Duration::from_secs(60) * LEAF_SOON_MINUTES,
            shared_token: DAY * SHARED_TOKEN_DAYS,
            shared_token_step: DAY * SHARED_TOKEN_STEP_DAYS,
        }
    }
}

impl Renewal {
    /// Nothing is renewed more often.
    pub(super) fn shortest(&self) -> Duration {
        self.leaf.min(self.leaf_large).min(self.shared_token)
    }
}

/// What is stored of the age of an own leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Age {
    /// When its key was made, in milliseconds since 1970; 0: before this was kept.
    made_ms: u64,
    /// The part of the random time that was drawn with it.
    jitter: u32,
    /// When it is to be renewed; 0: it is not due yet.
    renew_ms: u64,
}

/// What there is to do for an own leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    No,
    /// Its age is not known, and counts from now.
    Begin,
    /// A time has to be drawn.
    Soon,
    Now,
}

impl Age {
    fn of(stored: &state::Group) -> Self {
        Self {
            made_ms: stored.own_leaf_ms,
            jitter: stored.own_leaf_jitter,
            renew_ms: stored.renew_leaf_ms,
        }
    }
}

fn due(now_ms: u64, age: Age, interval: Duration) -> Due {
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    let early_ms = interval_ms / 1_000 * u64::from(age.jitter.min(LEAF_JITTER));
    let old_ms = age.made_ms.saturating_add(interval_ms - early_ms);
    match age {
        Age { renew_ms: 1.., .. } if age.renew_ms <= now_ms => Due::Now,
        // A clock that was set back must not put it off for ever.
        Age { renew_ms: 1.., .. } if age.renew_ms - now_ms <= interval_ms => Due::No,
        Age { made_ms: 0, .. } => Due::Begin,
        _ if age.made_ms > now_ms => Due::Begin,
        _ if old_ms <= now_ms => Due::Soon,
        _ => Due::No,
    }
}

/// Whether a shared token of this age is this member's to renew: the first of those at the home
/// relay at once, each other one a step later, if nobody has done it by then.
fn is_shared_due(now_ms: u64, made_ms: u64, rank: u32, renewal: &Renewal) -> bool {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    // Of a time that is to come nobody knows the age.
    let made_ms = if made_ms > now_ms + ms(CLOCKS_DIFFER) { 0 } else { made_ms };
    let wait = renewal.shared_token.saturating_add(renewal.shared_token_step.saturating_mul(rank));
    made_ms.saturating_add(ms(wait)) <= now_ms
}

/// A time between now and `within` from now.
fn within(time: Duration) -> u64 {
    now_ms() + u64::try_from(random::between(Duration::ZERO, time).as_millis()).unwrap_or(0)
}

impl Core {
    /// The own leaf is new.
    pub(super) fn leaf_is_new(&self, stored: &mut state::Group) {
        self.leaf_is_of(stored, now_ms(), false);
    }

    /// The own leaf has a key that was made then. Whoever else may have it (`is_shared`), it is
    /// renewed soon.
    pub(super) fn leaf_is_of(&self, stored: &mut state::Group, made_ms: u64, is_shared: bool) {
        stored.own_leaf_ms = made_ms;
        stored.own_leaf_jitter = (random::fraction() * f64::from(LEAF_JITTER)) as u32;
        stored.renew_leaf_ms = if is_shared { within(self.renewal.soon) } else { 0 };
    }

    /// Renews what is old in a group that is followed to its end.
    pub(super) fn renew(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let is_busy = self.wanted.contains_key(&row) || self.committing.contains(&row);
        if is_busy || tx.count::<state::Target>(row)? == 0 {
            return Ok(());
        }
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let interval = self.leaf_interval(tx, row)?;
        match due(now_ms(), Age::of(&stored), interval) {
            Due::No => {}
            Due::Begin => {
                self.leaf_is_new(&mut stored);
                tx.put(row, &stored)?;
            }
            Due::Soon => {
                stored.renew_leaf_ms = within(self.renewal.soon);
                tx.put(row, &stored)?;
            }
            Due::Now => return self.want(tx, row, Wanted { renew: true, ..Default::default() }),
        }
        if self.is_shared_token_due(tx, row, &stored)?
            && self.gathering.insert(format!("shared slot {row}"))
        {
            let gather = Gather { slot: true, ..Default::default() };
            self.start(Job::Gather(Purpose::SharedSlot { group: row }, gather));
        }
        Ok(())
    }

    fn leaf_interval(&mut self, tx: &Transaction<'_>, row: i64) -> Result<Duration, Fault> {
        let devices = self.group(tx, row)?.roster().len();
        let Renewal { leaf, leaf_large, .. } = self.renewal;
        Ok(if devices > LEAF_DEVICES_MAX { leaf_large } else { leaf })
    }

    /// Whether a renewal that was wanted still is.
    pub(super) fn is_leaf_due(&self, stored: &state::Group) -> bool {
        stored.renew_leaf_ms != 0 && stored.renew_leaf_ms <= now_ms()
    }

    /// The relay has refused the change.
    pub(super) fn put_renewal_off(&self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let wait = u64::try_from(REFUSED_WAIT.as_millis()).unwrap_or(0);
        stored.renew_leaf_ms = within(self.renewal.soon) + wait;
        Ok(tx.put(row, &stored)?)
    }

    /// Whether the shared token is needed, old, and ours to renew.
    pub(super) fn is_shared_token_due(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        stored: &state::Group,
    ) -> Result<bool, Fault> {
        let realm = home(stored)?.realm;
        let group = self.group(tx, row)?;
        let (own, info) = (group.own_leaf(), group.info());
        let is_there = |leaf: &Leaf| {
            let address = leaf.member.address.as_ref().map(|address| address.relay.parse());
            matches!(address, Some(Ok(valise_proto::RelayAddress { realm: found, .. })) if found == realm)
        };
        let (there, elsewhere): (Vec<_>, Vec<_>) = group.roster().into_iter().partition(is_there);
        let Some(rank) = there.iter().position(|leaf| leaf.index == own) else { return Ok(false) };
        if elsewhere.is_empty() {
            return Ok(false);
        }
        let is_none = valise_proto::Token::try_from(info.slot_token.as_slice()).is_err();
        let made_ms = if is_none { 0 } else { info.slot_token_ms };
        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
        Ok(is_shared_due(now_ms(), made_ms, rank, &self.renewal))
    }

    /// A new token for all who have none of their own.
    pub(super) fn share_slot_token(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        gathered: Gathered,
    ) -> Result<(), Fault> {
        self.gathering.remove(&format!("shared slot {row}"));
        let Some(token) = gathered.slot else { return Ok(()) };
        let shared_token = Some(token.as_bytes().to_vec());
        self.want(tx, row, Wanted { shared_token, ..Default::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_renewed_in_the_last_quarter_of_its_time() {
        let hour = |hours: u64| hours * 60 * 60 * 1_000;
        let interval = Duration::from_millis(hour(1_000));
        let now = hour(1_000_000);
        let age = |hours_ago, jitter| Age { made_ms: now - hour(hours_ago), jitter, renew_ms: 0 };
        for (age, expected) in [
            (age(0, 0), Due::No),
            (age(999, 0), Due::No),
            (age(1_000, 0), Due::Soon),
            (age(749, 250), Due::No),
            (age(750, 250), Due::Soon),
            (age(750, 9_999), Due::Soon),
            (age(740, 9_999), Due::No),
            // A profile of before, and one whose clock was wrong.
            (Age { made_ms: 0, jitter: 0, renew_ms: 0 }, Due::Begin),
            (Age { made_ms: now + 1, jitter: 0, renew_ms: 0 }, Due::Begin),
            // A time was drawn: nothing else counts.
            (Age { renew_ms: now + 1, ..age(5_000, 0) }, Due::No),
            (Age { renew_ms: now, ..age(5_000, 0) }, Due::Now),
            (Age { renew_ms: now, ..age(0, 0) }, Due::Now),
            (Age { renew_ms: now + hour(1_001), ..age(5_000, 0) }, Due::Soon),
        ] {
            assert_eq!(due(now, age, interval), expected, "{age:?}");
        }
        let short = Age { made_ms: now, jitter: 250, renew_ms: 0 };
        assert_eq!(due(now, short, Duration::ZERO), Due::Soon, "a test's interval");
    }

    #[test]
    fn one_member_after_the_other_may_renew_the_shared_token() {
        let renewal = Renewal::default();
        let day = u64::try_from(DAY.as_millis()).unwrap();
        let now = 20_000 * day;
        for (days_ago, rank, expected) in
            [(199, 0, false), (200, 0, true), (200, 1, false), (201, 1, true), (399, 199, true)]
        {
            let made_ms = now - days_ago * day;
            let is_due = is_shared_due(now, made_ms, rank, &renewal);
            assert_eq!(is_due, expected, "{days_ago} days, {rank}");
        }
        assert!(is_shared_due(now, 0, 3, &renewal), "nobody knows how old it is");
        assert!(!is_shared_due(now, now + day, 0, &renewal), "a clock that goes ahead");
        assert!(is_shared_due(now, now + day + 1, 0, &renewal), "somebody lies");
    }
}
