//! The numbers of the relay's own resources. Each has its unit in its name, says where it comes
//! from and where it is enforced. What a client must know is in `valise_proto::limits`.

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

/// How often the high-water file is synced, in milliseconds. Enforced by the store.
pub const HIGH_WATER_SYNC_MS: u64 = 1_000;
