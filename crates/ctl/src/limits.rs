//! The numbers of the operators' tools: each with its unit and where it comes from.

/// Milliseconds by which clocks may differ. Times to live are kept by each server's own clock, and an
/// hour is their unit: a second would not matter, and half of one says that nobody keeps the time.
pub(crate) const SKEW_MS_MAX: i64 = 500;

/// Seconds between two rounds of checks.
pub(crate) const ROUND_SECONDS: u64 = 60;

/// Times that the streams are looked at in one round, if copies differ or are behind: a purge reaches
/// the copies one after the other, and for that moment they differ.
pub(crate) const SAMPLES: usize = 3;

/// Milliseconds between these looks.
pub(crate) const SAMPLE_WAIT_MS: u64 = 700;

/// Seconds after which an alarm that lasts is cleared although nobody acknowledged it: two days, so that
/// one of a Friday night is there in the morning, and the next one too.
pub(crate) const ALARM_LASTS_SECONDS: u64 = 48 * 3_600;

/// Per cent of a stream's room above which it is told; posts are refused at
/// `valise::limits::STREAM_FULL_PERCENT`.
pub(crate) const STREAM_FILLING_PERCENT: u64 = 70;

/// Connections asked for at a time: with the subscriptions of 256 partitions each, a few MiB.
pub(crate) const CONNECTIONS_TOGETHER: usize = 64;

/// Servers that are looked at; a cluster of NATS has three to seven.
pub(crate) const SERVERS_MAX: usize = 64;

/// Seconds in which each partition has its canary once.
pub(crate) const CANARY_TURN_SECONDS: u64 = 60;

/// Seconds after which a canary is late. A new leader takes up to 9 s, and no time-out of a relay is
/// under 15 s.
pub(crate) const CANARY_LATE_SECONDS: u64 = 15;

/// Seconds for which a canary is waited for on its attachment; then the store is asked. A push that was
/// lost without a trace is found within 30 s by a node's sweep.
pub(crate) const CANARY_WAIT_SECONDS: u64 = 45;

/// Seconds in which each partition's held canaries are counted once: every six hours, so that no more
/// than four or five are held at a time.
pub(crate) const HELD_TURN_SECONDS: u64 = 6 * 3_600;

/// Seconds for which a canary is held before it is acknowledged: a day.
pub(crate) const HELD_SECONDS: u64 = 24 * 3_600;

/// Hours for which a canary is kept that nobody fetches: a watch that was away for a week-end finds what
/// it holds.
pub(crate) const CANARY_TTL_HOURS: u32 = 4 * 24;

/// Canaries held in one mailbox, at most.
pub(crate) const HELD_MAX: usize = 5;

/// Canaries under way at a time. Each is a connection.
pub(crate) const CANARIES_TOGETHER: usize = 24;

/// Days for which canaries' tokens are good, and the age at which they are changed.
pub(crate) const TOKEN_DAYS: u32 = 365;
/// See [`TOKEN_DAYS`].
pub(crate) const TOKEN_RENEW_DAYS: u64 = 180;

/// Seconds for which an answer of the supernode is waited for: a change of a shard waits for its disk.
pub(crate) const LINK_ANSWER_SECONDS: u64 = 30;

/// Seconds for which a connection to the supernode may take.
pub(crate) const LINK_DIAL_SECONDS: u64 = 10;

/// The longest wait between two attempts to reach the supernode, in milliseconds.
pub(crate) const LINK_RETRY_MS_MAX: u64 = 5_000;

/// Milliseconds between two questions that measure the way to the supernode.
pub(crate) const LINK_PING_MS: u64 = 1_000;

/// Shards are cut over only while the last round trips to the supernode took less, in milliseconds: a
/// shard answers `busy` for about three of them.
pub(crate) const ROUND_TRIP_MS_MAX: u64 = 200;

/// How many round trips that are.
pub(crate) const ROUND_TRIPS: usize = 3;

/// Posts that are being passed on, at most; more are `busy`. With 64 KiB each they take 64 MiB.
pub(crate) const PASSING_TOGETHER: usize = 1_024;

/// A shard is cut over when no more entries of its log are missing than fit into one batch, and half of
/// it is left for what comes meanwhile.
pub(crate) const CUT_LEFT_MAX: u64 = 450;

/// Shards that are cut over at a time.
pub(crate) const CUT_TOGETHER: usize = 2;

/// Mailboxes that are attached at the supernode though their shard has moved, with which more shards are
/// cut over: about as many as go in some tenths of a second.
pub(crate) const BEHIND_MAX: u32 = 32;

/// Seconds for which they are waited for before they are taken for such as do not go.
pub(crate) const BEHIND_SECONDS: u64 = 5;

/// Seconds that the client that was told to prepare last has to open a connection to the data centre.
pub(crate) const PREPARING_SECONDS: u64 = 2;

/// Turns in which a shard has to be cut over, before others are.
pub(crate) const CUT_TURNS: u32 = 200;

/// Milliseconds until a shard is looked at again that waits for something.
pub(crate) const TURN_WAIT_MS: u64 = 20;

/// Milliseconds until shards are looked at again where nothing was to do.
pub(crate) const REST_MS: u64 = 250;

/// Milliseconds until it is tried again where something was wrong.
pub(crate) const TROUBLE_MS: u64 = 1_000;

/// Seconds between two lines of progress.
pub(crate) const PROGRESS_SECONDS: u64 = 1;

/// Entries of a log that are copied in a second, for the estimate of a plan: a third of what three
/// servers took in batches of 900 frames.
pub(crate) const COPIED_PER_SECOND: u64 = 13_000;

/// Bytes of a frame's record and its index in a stream beside its payload, about.
pub(crate) const RECORD_BYTES: u64 = 400;

/// Seconds between two looks at the realm's record at the data centre.
pub(crate) const RECORD_SECONDS: u64 = 10;

/// Shards that are copied at a time, if nothing else is said: a stream has eight shards, and each of them
/// has one batch under way.
pub(crate) const COPIED_TOGETHER: u8 = 16;

/// Clients that are told to move in a second, if nothing else is said: what one node lets in without
/// others waiting.
pub(crate) const LED_PER_SECOND: u32 = 500;
