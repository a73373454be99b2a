//! The numbers of the relay's own resources. Each has its unit in its name, says where it comes
//! from and where it is enforced. What a client must know is in `valise_proto::limits`.

use valise_proto::limits::PAYLOAD_BYTES_MAX;

/// Operations in one commit: beyond this a larger batch gains little and delays its first frame.
/// Enforced by the committer.
pub const COMMIT_OPERATIONS_MAX: usize = 512;

/// Payload bytes in one commit, give or take one frame: what a slow disk writes in a twentieth of a
/// second. Enforced by the committer.
pub const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a frame for a live recipient may wait for the recipient's acknowledgement before it is
/// written, in milliseconds. A frame acknowledged in time never touches the disk. Enforced by the
/// committer.
pub const ACK_GRACE_MS: u64 = 5;

/// How long removals may wait for company before they are written, in milliseconds: nobody waits
/// for them, and losing some only repeats deliveries. Enforced by the committer.
pub const REMOVAL_GRACE_MS: u64 = 20;

/// Payload bytes that wait for the committer; beyond it posts are refused `busy`. Half a second of
/// a slow disk. Enforced by the committer.
pub const COMMIT_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Operations that wait for the committer; beyond it posts are refused `busy`. Enforced there.
pub const COMMIT_QUEUE_OPERATIONS_MAX: usize = 65_536;

/// A commit that takes longer than this has failed, in seconds: every waiter is told and the relay
/// ends, since a store that hangs cannot be closed. A disk that is only slow, or an engine that
/// catches up, is done long before. Enforced by the committer.
pub const COMMIT_SECONDS_MAX: u64 = 30;

/// The wait before a store that failed is opened for the second time, in milliseconds; it doubles.
/// Enforced by the committer.
pub const REOPEN_WAIT_MS_MIN: u64 = 50;

/// The longest such wait, in milliseconds: the relay has to be back five seconds after there is room
/// again. Enforced by the committer.
pub const REOPEN_WAIT_MS_MAX: u64 = 1_000;

/// How often a store that failed for another reason than a full disk is opened again without a
/// commit between; then the relay ends. Enforced by the committer.
pub const REOPEN_TRIES_MAX: u32 = 4;

/// How often the disk is looked at, in milliseconds. Enforced by the composition root.
pub const DISK_LOOK_MS: u64 = 1_000;

/// The store of a full disk gives back the room of what was removed this often at most, in seconds.
/// Enforced by the composition root.
pub const RECLAIM_SECONDS: u64 = 10;

/// Posts are refused when less than this share of the disk is free, in per cent, or less than
/// [`DISK_FREE_MIN_BYTES_MAX`]; an operator may choose. Enforced by the disk.
pub const DISK_FREE_MIN_PERCENT: u64 = 5;

/// See there.
pub const DISK_FREE_MIN_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// A store that found no room is opened again when this much is free: less is not enough for its
/// first commit. Enforced by the disk.
pub const REOPEN_ROOM_BYTES: u64 = 1024 * 1024;

/// With less than this free, a store that failed without saying why is taken to have found no room: a
/// table and what it is merged with. Enforced by the disk.
pub const SHORT_BYTES: u64 = 128 * 1024 * 1024;

/// A ballast takes one part of so many of the disk at most. Enforced by the disk.
pub const BALLAST_SHARE_MAX: u64 = 8;
/// Payload bytes of slots and bundles that wait for their turn and the disk; beyond it they are
/// refused `busy`. Enforced by `standing`.
pub const STANDING_BYTES_WAITING_MAX: usize = 32 * 1024 * 1024;

/// Requests of one connection that wait for their turn and the disk, posts excepted; it is read on
/// when one of them is answered. Each answer may have a largest payload. Enforced by the connection.
pub const OPERATIONS_PER_CONNECTION: u32 = 8;

/// How often the high-water file is synced, in milliseconds. Enforced by the store.
pub const HIGH_WATER_SYNC_MS: u64 = 1_000;

/// When a sender that was told `busy` should try again, in milliseconds: several commits.
pub const BUSY_RETRY_MS: u32 = 100;

/// When a sender that was told `busy`, because the shard is just being handed over to a data centre,
/// should try again, in milliseconds: about as long as that takes.
pub const SEALED_RETRY_MS: u32 = 20;

/// When a sender that was told `mailbox_full` should try again, in milliseconds.
pub const FULL_RETRY_MS: u32 = 10_000;

/// Signal bytes that wait for one connection; beyond it signals are dropped (`window`). Enforced
/// by the doorbell.
pub const SIGNAL_BYTES_WAITING_MAX: usize = OUTBOX_BYTES;

/// Encoded bytes a connection may have waiting before nothing more is pulled or read for it: with
/// one frame on top this is all a slow reader can hold. Enforced by the connection.
pub const OUTBOX_BYTES: usize = 64 * 1024;

/// Payload bytes pulled from a mailbox at a time. Enforced by the connection.
pub const PULL_BYTES: usize = 32 * 1024;

/// Plaintext read from a connection at a time, into memory shared by all connections of a thread.
pub const READ_BYTES: usize = 16 * 1024;

/// How many reads a connection may do before it lets others run.
pub const READS_PER_TURN: usize = 8;

/// A connection that does not take what was handed to its transport, 64 KiB at most, within this
/// time is closed (`too_slow`), in seconds. Enforced by the connection.
pub const STALL_SECONDS: u64 = 60;

/// How long a draining connection waits for outcomes it owes, in milliseconds.
pub const DRAIN_OUTCOMES_MS: u64 = 1_000;

/// Frame ids remembered per mailbox after the frames have left it. Enforced by the mailbox.
pub const RETRY_MEMORY_PER_MAILBOX: usize = 256;

/// Frame ids remembered in all after their frames have left: about 64 MiB. Enforced by the mailboxes.
pub const RETRY_MEMORY_TOTAL: usize = 1_000_000;

/// How often idle mailboxes are looked for, in seconds. One is forgotten after being idle for
/// [`valise_proto::limits::RETRY_MEMORY_SECONDS`].
pub const SWEEP_SECONDS: u64 = 10;

/// The highest rate that can be configured, a second and at once. Enforced by the configuration.
pub const RATE_MAX: u32 = 1_000_000_000;

/// Payload bytes in the rings of all mailboxes together; beyond it frames wait on disk only.
pub const RINGS_BYTES_MAX: usize = 512 * 1024 * 1024;

/// An HTTP request's head, in bytes (hyper's smallest).
pub const HTTP_HEAD_BYTES_MAX: usize = 8 * 1024;

/// The accept queue of a listener.
pub const LISTEN_BACKLOG: u32 = 4_096;

const _: () = assert!(PULL_BYTES <= OUTBOX_BYTES);
const _: () = assert!(ACK_GRACE_MS < REMOVAL_GRACE_MS);

/// Connections to the admin side at once.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;

/// How long an admin request may take, in seconds.
pub const ADMIN_REQUEST_SECONDS: u64 = 10;

/// A node asks its server for a sign of life this often, in seconds; after two without an answer it
/// goes to another one. Enforced by store/jetstream/bus.
pub const BUS_PING_SECONDS: u64 = 2;

/// How long one answer of the bus is waited for, in milliseconds; then it is asked again. Enforced
/// by the store.
pub const BUS_ANSWER_MS: u64 = 3_000;

/// How long a node that starts waits for servers that start too, in seconds. Enforced by the store.
pub const SERVERS_START_SECONDS: u64 = 60;

/// How long the bus is asked again, in milliseconds: servers need up to 9 s to find a new leader.
/// Enforced by the store.
pub const BUS_PATIENCE_MS: u64 = 15_000;

/// How often a replica may show that it is behind before the leader is asked. Enforced by the store.
pub const STALE_READS_MAX: u32 = 50;

/// How long a claim is kept when nobody withdraws it, in hours. Enforced by the bus.
pub const CLAIM_HOURS: u32 = 24;

/// Frames of a backlog that are read at a time. Enforced by the store.
pub const WINDOW_FRAMES_MAX: u32 = 256;

/// The largest record of a stream, in bytes: a payload and what is around it. Enforced by the bus.
pub const STREAM_RECORD_BYTES_MAX: u64 = 72 * 1024;

/// A stream this full, in per cent, takes no more posts: the rest is for what drains it. Enforced by
/// the store.
pub const STREAM_FULL_PERCENT: u64 = 85;

/// How often a node looks after what nobody tells it: how full the streams are, and what its
/// mailboxes hold, in seconds. It bounds how long something that was pushed and lost stays unseen.
/// Enforced by the cluster.
pub const CLUSTER_SWEEP_SECONDS: u64 = 30;

/// How often a node looks how full the streams are, in seconds. Enforced by the cluster.
pub const ROOM_LOOK_SECONDS: u64 = 5;

/// Acknowledged frames wait so long for company before they are removed, in milliseconds. Enforced
/// by the cluster.
pub const PURGE_WAIT_MS: u64 = 2_000;

/// So many acknowledged frames are removed at once. Enforced by the cluster.
pub const PURGE_FRAMES: u64 = 64;

/// How often a node tells the others that it is there, in seconds. Enforced by the cluster.
pub const ANNOUNCE_SECONDS: u64 = 5;

/// A node that was not heard of for this long is not there, in seconds: three announcements. Enforced
/// by the cluster.
pub const NODE_SILENT_SECONDS: u64 = 15;

/// The nodes that are there must not have changed for this long before clients are moved, in seconds:
/// a node that restarts is back by then. Enforced by the cluster.
pub const STEERING_SETTLED_SECONDS: u64 = 5;

/// Connections that one node moves in a second: each is a TLS handshake elsewhere, and a node can do
/// some thousands. Enforced by the cluster.
pub const MOVES_PER_SECOND: u32 = 500;

/// A connection is not moved again before this, in seconds, unless its node ends. Enforced by the
/// cluster.
pub const MOVE_AGAIN_SECONDS: u64 = 60;

/// How long a node that ends waits for clients that it has moved, beyond the time over which they
/// spread, in milliseconds: a handshake and an attach. Enforced by the cluster.
pub const MOVED_AWAY_MS: u64 = 3_000;

const _: () = assert!(NODE_SILENT_SECONDS > 2 * ANNOUNCE_SECONDS);
const _: () = assert!(BUS_ANSWER_MS < BUS_PATIENCE_MS);
/// The larger of what one record has to hold: a payload, or all revocations of a mailbox.
const RECORD_CONTENT_BYTES_MAX: usize = if PAYLOAD_BYTES_MAX > REVOCATIONS_BYTES_MAX {
    PAYLOAD_BYTES_MAX
} else {
    REVOCATIONS_BYTES_MAX
};
const REVOCATIONS_BYTES_MAX: usize = valise_proto::limits::REVOCATIONS_MAX * 10;
const _: () = assert!(STREAM_RECORD_BYTES_MAX as usize > RECORD_CONTENT_BYTES_MAX + 256);

/// Posts that are passed on to a data centre at once; beyond it they are refused `busy`. As many as a
/// second brings at its busiest. Enforced by the migration.
pub const PASSING_MAX: usize = 16_384;

/// Payload bytes of them; likewise. Enforced by the migration.
pub const PASSING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a post that is passed on waits for its answer, in seconds; then its sender is told `busy`. As
/// long as a node of a data centre asks its bus. Enforced by the migration.
pub const PASSING_SECONDS: u64 = BUS_PATIENCE_MS / 1_000;

/// How often it is looked which of them are late, in milliseconds. Enforced by the migration.
pub const PASSING_TICK_MS: u64 = 1_000;

/// Clients that an importer may have told in a second. Enforced by the migration.
pub const LEAD_PER_SECOND_MAX: u32 = 10_000;

/// Connections of importers that have proven their key: one, and another that takes its place. Enforced
/// by the migration.
pub const IMPORTERS_MAX: usize = 4;

/// Connections to the migration's port that have not. Enforced by the migration.
pub const IMPORTER_HANDSHAKES_MAX: usize = 64;

/// How long such a connection may take to say who it is, in seconds. Enforced by the migration.
pub const IMPORTER_HELLO_SECONDS: u64 = 5;

/// How long an importer may take to take what is sent to it, in seconds. Enforced by the migration.
pub const IMPORTER_STALL_SECONDS: u64 = 30;

/// Questions of one importer that are open at once: two for each shard. It is read on when one is answered.
/// Enforced by the migration.
pub const IMPORTER_QUESTIONS_MAX: usize = 512;

/// Of them, those with long answers that are being answered, until it is written: each may have a longest
/// message, and what comes after it waits. Enforced by the migration.
pub const IMPORTER_ANSWERS_MAX: usize = 4;

/// The longest message of an importer, in bytes: a question with a realm record. Enforced by the
/// migration.
pub const IMPORTER_MESSAGE_BYTES_MAX: usize = 64 * 1024;
