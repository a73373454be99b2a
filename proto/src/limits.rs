//! The numbers of the wire. Each has its unit in its name or its comment, says where it comes from
//! and where it is enforced; relations between them are checked when this file compiles.
//! Resource limits of the relay's process are in the relay's own `src/limits.rs`.

/// The payload sizes, in bytes: what is not exactly one of these is refused (`not_padded`). Four
/// sizes hide most of a message's length and cost a one-line text 512 bytes. Enforced by the
/// relay's session.
pub const PAYLOAD_SIZES: [usize; 4] = [512, 2 * 1024, 8 * 1024, 64 * 1024];

/// The largest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = PAYLOAD_SIZES[3];

/// The longest packet, in bytes, without its length prefix: one largest payload and 1,024
/// capabilities fit. Enforced by the deframer, where the length is declared.
pub const PACKET_BYTES_MAX: usize = 144 * 1024;

/// The longest length prefix, in bytes: a varint of a u32. Longer ones are malformed.
pub const LENGTH_PREFIX_BYTES_MAX: usize = 5;

/// The longest WebSocket message, in bytes: one longest packet with its prefix, and room to batch.
/// Enforced by the WebSocket transport.
pub const WEBSOCKET_MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Targets of one post or signal.
pub const TARGETS_MAX: usize = 1024;

/// Targets x payload of one post or signal, in bytes: what one packet may make the relay write.
pub const FAN_OUT_BYTES_MAX: usize = 1024 * 1024;

/// Attachments of one connection.
pub const ATTACHMENTS_MAX: usize = 16;

/// Unacknowledged payload bytes of one attachment, wherever they are; one frame always fits.
pub const ATTACHMENT_WINDOW_BYTES: usize = 128 * 1024;

/// Frames in one mailbox.
pub const MAILBOX_FRAMES_MAX: u32 = 1_000;

/// Payload bytes in one mailbox.
pub const MAILBOX_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How long a frame is kept if its sender does not say, in hours: 30 days.
pub const TTL_HOURS_DEFAULT: u32 = 30 * 24;

/// How long a frame is kept at most, in hours: 90 days.
pub const TTL_HOURS_MAX: u32 = 90 * 24;

/// Tokens of one `Issue`.
pub const ISSUE_COUNT_MAX: u32 = 100;

/// The longest validity of a token, in days. Its end is a day number of 16 bits.
pub const TOKEN_DAYS_MAX: u32 = 400;

/// Revoked tokens of one mailbox; beyond it the mailbox is to be replaced. Enforced by the router.
pub const REVOCATIONS_MAX: usize = 4_096;

/// How long a revocation is remembered after the token's last day, in days: a clock that jumps
/// revives nothing.
pub const REVOCATION_DAYS_AFTER: u32 = 60;

/// How long a slot keeps its value, in hours of the relay's running time: 90 days.
pub const SLOT_HOURS: u32 = 90 * 24;

/// Slots of one `GetSlots`.
pub const SLOTS_MAX: usize = 64;

/// Payload bytes of one `Slots`: a largest payload fits. Enforced by the router.
pub const SLOTS_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

/// One-time items in a bundle.
pub const BUNDLE_ITEMS_MAX: u32 = 100;

/// Payload bytes of one `PublishBundle`: two largest payloads. Enforced by the session.
pub const PUBLISH_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX;

/// Below this many one-time items the owner is told.
pub const BUNDLE_LOW_ITEMS: u32 = 10;

/// How long a bundle is kept after its last publication, in hours of the relay's running time: 90
/// days.
pub const BUNDLE_HOURS: u32 = 90 * 24;

/// A connection that has neither attached nor posted is closed after this, in seconds, unless its
/// `Hello` carried a valid member token.
pub const ESTABLISHMENT_SECONDS: u64 = 10;

/// A client pings after this long without having sent anything, in seconds, give or take
/// [`PING_JITTER_SECONDS`].
pub const PING_AFTER_SECONDS: u64 = 60;

/// See [`PING_AFTER_SECONDS`].
pub const PING_JITTER_SECONDS: u64 = 5;

/// The relay closes a connection it has not heard from for this long, in seconds.
pub const IDLE_SECONDS: u64 = 90;

/// How long a relay remembers an accepted (mailbox, frame id) at most, in seconds; it may forget
/// earlier when its memory for them is full. While a frame is queued it is always remembered.
pub const RETRY_MEMORY_SECONDS: u32 = 60;

/// How far ahead of the highest epoch it has seen a realm record is believed.
pub const EPOCH_AHEAD_MAX: u64 = 1_000;

/// Endpoints and relay keys of a realm record, each.
pub const REALM_RECORD_LIST_MAX: usize = 16;

/// How long a client waits at most before it obeys a `Move`, in milliseconds, whatever the relay
/// says: as many connections as one relay has by default, at 500 a second, and some. Enforced by the
/// client.
pub const MOVE_SPREAD_MS_MAX: u32 = 60_000;

/// Moves that a client obeys in a minute. A rolling restart of a data centre makes two; two relays
/// that sent a client to and fro would make more. Enforced by the client.
pub const MOVES_PER_MINUTE: usize = 4;

/// A realm record, encoded, in bytes.
pub const REALM_RECORD_BYTES_MAX: usize = 4 * 1024;

/// Whether a payload of this length has one of the padded sizes.
pub const fn is_padded(len: usize) -> bool {
    let mut i = 0;
    while i < PAYLOAD_SIZES.len() {
        if PAYLOAD_SIZES[i] == len {
            return true;
        }
        i += 1;
    }
    false
}

const TOKEN_FIELD_BYTES: usize = crate::Token::LEN + 2;
const _: () = assert!(PAYLOAD_BYTES_MAX + TARGETS_MAX * TOKEN_FIELD_BYTES + 256 < PACKET_BYTES_MAX);
const _: () = assert!(WEBSOCKET_MESSAGE_BYTES_MAX > PACKET_BYTES_MAX + LENGTH_PREFIX_BYTES_MAX);
const _: () = assert!(PUBLISH_BYTES_MAX + BUNDLE_ITEMS_MAX as usize * 4 + 256 < PACKET_BYTES_MAX);
const _: () = assert!(BUNDLE_LOW_ITEMS < BUNDLE_ITEMS_MAX);
const _: () = assert!(ATTACHMENT_WINDOW_BYTES >= PAYLOAD_BYTES_MAX);
const _: () = assert!(MAILBOX_BYTES_MAX >= PAYLOAD_BYTES_MAX as u64);
const _: () = assert!(TTL_HOURS_DEFAULT <= TTL_HOURS_MAX);
const _: () = assert!(IDLE_SECONDS > PING_AFTER_SECONDS + PING_JITTER_SECONDS);
const _: () = assert!(PACKET_BYTES_MAX < 1 << (7 * LENGTH_PREFIX_BYTES_MAX));
