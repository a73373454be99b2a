//! Whether a realm can move, and what would happen. Nothing is changed.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use valise::limits::STREAM_FULL_PERCENT;
use valise::store::SHARDS;
use valise::store::jetstream::Room;
use valise_client::proto::limits::{MAILBOX_FRAMES_MAX, PAYLOAD_BYTES_MAX};
use valise_client::proto::{RealmId, RealmRecord, Signature, SignedRealmRecord};
use valise_migration::wire::Welcome;

use super::shard::{Place, Seen};
use crate::limits::{
    COPIED_PER_SECOND, CUT_TOGETHER, RECORD_BYTES, ROUND_TRIP_MS_MAX, SKEW_MS_MAX,
};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// How it is.
    pub(crate) verdict: Verdict,
    /// What is so, and what to do.
    pub(crate) said: String,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Well,
    Warning,
    Wrong,
}

/// What was found out.
pub(crate) struct Facts<'a> {
    pub(crate) realm: RealmId,
    pub(crate) welcome: &'a Welcome,
    /// The realm's record as the data centre's nodes have told it.
    pub(crate) record: Option<&'a [u8]>,
    pub(crate) endpoints: &'a [String],
    pub(crate) room: Room,
    pub(crate) trip: Option<Duration>,
    /// By how many milliseconds the data centre's clock is ahead of this one.
    pub(crate) ahead_ms: Option<i64>,
    pub(crate) seen: &'a [Seen],
}

/// Everything that was looked at.
pub(crate) fn judge(facts: &Facts<'_>) -> Vec<Line> {
    let mut lines = Lines(Vec::new());
    let welcome = facts.welcome;
    lines.well(format!(
        "the supernode runs {} and holds {} frames",
        welcome.program, welcome.frames
    ));
    records(facts, &mut lines);
    let most = u64::from(MAILBOX_FRAMES_MAX);
    let frames_max = u64::from(welcome.mailbox_frames_max);
    lines.ask(frames_max <= most, || {
        format!(
            "a mailbox may hold {frames_max} frames at the supernode, and {most} at the data centre"
        )
    });
    room(facts, &mut lines);
    match facts.trip {
        None => lines.wrong("the way to the supernode was not measured".to_owned()),
        Some(trip) => {
            let ms = trip.as_millis();
            let said = format!("a question to the supernode takes {ms} ms");
            match ms < u128::from(ROUND_TRIP_MS_MAX) {
                true => lines.well(said),
                false => lines.warning(format!(
                    "{said}: nothing is cut over while it takes {ROUND_TRIP_MS_MAX} ms or more"
                )),
            }
        }
    }
    match facts.ahead_ms {
        Some(ms) if ms.abs() > SKEW_MS_MAX => lines.warning(format!(
            "the data centre's clock differs from this machine's by {ms} ms: look at NTP on both"
        )),
        Some(ms) => lines.well(format!("the clocks differ by {ms} ms")),
        None => lines.warning("the data centre's servers do not say what time it is".to_owned()),
    }
    state(facts, &mut lines);
    lines.0
}

/// By how much a clock is ahead that said this time between these two moments.
pub(crate) fn ahead_ms(time: &str, asked: i64, heard: i64) -> Option<i64> {
    let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
    let time = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()?;
    Some(time - asked.midpoint(heard))
}

struct Lines(Vec<Line>);

impl Lines {
    fn well(&mut self, said: String) {
        self.0.push(Line { verdict: Verdict::Well, said });
    }

    fn warning(&mut self, said: String) {
        self.0.push(Line { verdict: Verdict::Warning, said });
    }

    fn wrong(&mut self, said: String) {
        self.0.push(Line { verdict: Verdict::Wrong, said });
    }

    fn ask(&mut self, is_well: bool, said: impl Fn() -> String) {
        if is_well { self.well(said()) } else { self.wrong(said()) }
    }
}

/// What a record says, if it is the realm's own.
fn read(realm: &RealmId, told: &[u8]) -> Option<RealmRecord> {
    let (signature, record) = told.split_at_checked(Signature::LEN)?;
    let signature = Signature::try_from(signature).ok()?;
    let signed = SignedRealmRecord { record: record.to_vec().into(), signature };
    signed.verify(realm).ok()
}

fn records(facts: &Facts<'_>, lines: &mut Lines) {
    let Some(own) = read(&facts.realm, &facts.welcome.record) else {
        return lines.wrong("the supernode's record is not the realm's".to_owned());
    };
    for endpoint in facts.endpoints {
        match own.endpoints.contains(endpoint) {
            true => lines.well(format!("the realm's record lists {endpoint}")),
            false => lines.wrong(format!(
                "the realm's record does not list {endpoint}: `valise export-node` on the supernode's \
                 state directory, and SIGHUP to the supernode"
            )),
        }
    }
    match facts.record.map(|told| read(&facts.realm, told)) {
        None => lines.wrong(
            "no node of the data centre has told the realm's record: start the nodes".to_owned(),
        ),
        Some(None) => lines.wrong(
            "the data centre's record of this realm is not signed by its root key: somebody else \
             writes to the bus"
                .to_owned(),
        ),
        Some(Some(theirs)) if theirs.epoch < own.epoch => lines.wrong(format!(
            "the data centre has the realm's record of epoch {}, the supernode of epoch {}: the nodes \
             have to know the newest; restart one that was made last",
            theirs.epoch, own.epoch
        )),
        Some(Some(_)) => lines.well("the data centre's nodes know the realm's record".to_owned()),
    }
}

fn room(facts: &Facts<'_>, lines: &mut Lines) {
    let Room { bytes, bytes_max, .. } = facts.room;
    let free = (bytes_max / 100 * STREAM_FULL_PERCENT).saturating_sub(bytes);
    let frames = facts.welcome.frames;
    let (least, most) = (frames * SMALLEST, frames * LARGEST);
    // What the supernode says may be what others keep on its disk, too.
    let about = (facts.welcome.bytes + frames * RECORD_BYTES).clamp(least, most);
    // Shards are not all of one size.
    let needs = |bytes: u64| bytes.saturating_mul(5) / 4;
    let mib = |bytes: u64| bytes >> 20;
    let said =
        format!("about {} MiB come, and the streams have room for {}", mib(about), mib(free));
    match (needs(least) > free, needs(about) > free) {
        (true, _) => lines.wrong(format!("{said}: give them more (cluster.stream_mib)")),
        (false, true) => lines.warning(format!("{said}: it may be too little")),
        (false, false) => lines.well(said),
    }
}

/// Bytes of a frame in a stream, at least and at most.
const SMALLEST: u64 = 512 + RECORD_BYTES;
const LARGEST: u64 = PAYLOAD_BYTES_MAX as u64 + RECORD_BYTES;

fn state(facts: &Facts<'_>, lines: &mut Lines) {
    let Room { messages, ledgers, .. } = facts.room;
    let places = |place: Place| facts.seen.iter().filter(|seen| seen.place() >= place).count();
    if ledgers == 0 {
        match messages {
            0 => lines.well("the streams hold nothing of this realm".to_owned()),
            _ => lines.wrong(format!(
                "the streams hold {messages} messages of this realm, and no ledger: a realm moves to \
                 where nothing of it is"
            )),
        }
    } else {
        lines.well(format!(
            "a migration is under way, or was given up: {} shards are being copied or further, {} \
             have moved; `start` goes on",
            places(Place::Copying),
            places(Place::Moved)
        ));
    }
    let left: u64 = facts.seen.iter().map(Seen::left).sum();
    let entries = facts.welcome.frames.max(left);
    lines.well(format!(
        "copying takes about {} s, cutting over about {} s",
        entries.div_ceil(COPIED_PER_SECOND).max(1),
        cut_seconds(facts.trip)
    ));
}

/// Seconds for all shards, some at a time: six round trips and three disks each.
fn cut_seconds(trip: Option<Duration>) -> u64 {
    let each = trip.unwrap_or_default() * 6 + Duration::from_millis(30);
    (each * (SHARDS / CUT_TOGETHER) as u32).as_secs().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use valise_migration::{Boot, Epoch};

    #[test]
    fn what_is_wrong_is_told() {
        let welcome = Welcome {
            version: 1,
            program: "0.1.0".into(),
            realm: [1; 20],
            epoch: Epoch(1),
            record: vec![0; 80].into(),
            boot: Boot(1),
            frames: 1_000_000,
            bytes: 1 << 30,
            mailbox_frames_max: 2_000,
            mailbox_bytes_max: 1 << 20,
        };
        let seen = vec![Seen::default(); 256];
        let facts = Facts {
            realm: RealmId::new([1; 20]),
            welcome: &welcome,
            record: None,
            endpoints: &[],
            room: Room { bytes: 0, bytes_max: 1 << 30, messages: 3, ledgers: 0 },
            trip: Some(Duration::from_millis(300)),
            ahead_ms: Some(700),
            seen: &seen,
        };
        let lines = judge(&facts);
        let count = |of| lines.iter().filter(|line| line.verdict == of).count();
        // The record, its quota, its room, and what is there already.
        assert_eq!(count(Verdict::Wrong), 4, "{lines:#?}");
        assert_eq!(count(Verdict::Warning), 2, "{lines:#?}");
        let well = Facts { room: Room { bytes_max: 4 << 30, ..Room::default() }, ..facts };
        let lines = judge(&well);
        assert!(
            lines.iter().any(|line| line.said.contains("copying takes about 77 s")),
            "{lines:#?}"
        );
    }
}
