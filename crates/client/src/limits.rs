//! The client's own numbers: sizes of its queues and its patience. What the relay must know as well
//! is in `valise_proto::limits`.

use std::time::Duration;

use valise_proto::limits::{
    ATTACHMENT_WINDOW_BYTES, ATTACHMENTS_MAX, PACKET_BYTES_MAX, PAYLOAD_BYTES_MAX,
};

/// Bytes of packets that wait for the socket; above it a post is refused with `Full`. Enforced by
/// the connection.
pub const OUTGOING_BYTES_MAX: usize = 1024 * 1024;

/// `Connection::ready` waits until less than this waits for the socket, in bytes.
pub const OUTGOING_BYTES_READY: usize = 512 * 1024;

/// Bytes of events the application has not taken; above it the connection stops reading its
/// socket, and TCP holds the relay back; by default. Enforced by the driver.
pub const INCOMING_BYTES_MAX: usize = 1024 * 1024;

/// What one event costs of [`INCOMING_BYTES_MAX`] besides its payload, in bytes.
pub const EVENT_BYTES: usize = 96;

/// What is read from a socket at once, in bytes: one buffer per thread, none per connection.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// Reads of one turn, before what the reads caused is written and other tasks have theirs.
pub const READS_PER_TURN: usize = 16;

/// A relay that has not answered a ping by then is gone.
pub const PONG_WAIT: Duration = Duration::from_secs(20);

/// How long a connection that closes may take to write what is queued and to see the relay's end.
pub const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// How long opening a connection may take, by default.
pub const CONNECT_WAIT: Duration = Duration::from_secs(15);

/// Bytes of messages that wait in an outbox for their first post. Enforced by the outbox.
pub const OUTBOX_BYTES_MAX: usize = 16 * 1024 * 1024;

/// `Client::room` waits until less than this waits in the outbox, in bytes.
pub const OUTBOX_BYTES_READY: usize = OUTBOX_BYTES_MAX / 2;

/// Updates the application has not taken; above it the client stops reading from its connection.
pub const UPDATES_WAITING_MAX: usize = 64;

/// When an attach that was refused for now is tried again, if the relay does not say, in
/// milliseconds.
pub const ATTACH_RETRY_MS: u32 = 500;

/// How long an attach that was given up without an answer may still have an effect. Enforced by the
/// client.
pub const ATTACH_DOUBT: Duration = Duration::from_secs(20);

/// How long a move may take, from its first connect to the last attach, before the client stays where
/// it is. Enforced by the client.
pub const MOVE_WAIT: Duration = Duration::from_secs(10);

/// Bytes of events that a connection may hold while it is attached by a move, which reads none of them
/// before: every attachment may have a whole window under way, in the smallest frames.
pub const ATTACHING_BYTES_MAX: usize = 2 * ATTACHMENTS_MAX * ATTACHMENT_WINDOW_BYTES;

/// How often a move into a data centre is tried again that was in vain; the relay says it again after a
/// minute. Enforced by the client.
pub const MOVE_TRIES_MAX: u32 = 8;

/// Half the time before the first of these tries; it doubles with each.
pub const MOVE_TRY_PAUSE: Duration = Duration::from_millis(50);

/// How long a move waits for requests about an attachment, which ends by it.
pub const MOVE_REQUESTS_WAIT: Duration = Duration::from_secs(2);

/// How long the connection that a client has moved away from is kept for answers that it owes: a
/// relay tries a post for 15 s.
pub const MOVE_ANSWERS_WAIT: Duration = Duration::from_secs(20);

/// A place of the realm that has not answered by then is tried no longer alone: the next one is tried
/// beside it. Through a proxy one is tried after the other. Enforced by the client.
pub const NEXT_PLACE_WAIT: Duration = Duration::from_secs(3);

/// How long a connection is kept for a move that was announced: a realm is copied before it moves.
pub const HOLD_WAIT: Duration = Duration::from_secs(30 * 60);

/// A second connection to the realm, for what is served elsewhere, is closed after so long without a
/// use.
pub const ASIDE_IDLE: Duration = Duration::from_secs(60);

/// How often a request is asked that is refused `moved`, here and there: with the waits of
/// [`crate::Backoff::RETRY`] between them for 6 s at most.
pub const MOVED_TRIES: u32 = 8;

/// The largest answer of a SOCKS5 proxy: a domain name of 255 bytes with its frame around it.
pub const SOCKS_ANSWER_BYTES_MAX: usize = 262;

const _: () = assert!(OUTGOING_BYTES_READY < OUTGOING_BYTES_MAX);
const _: () = assert!(OUTGOING_BYTES_READY > PACKET_BYTES_MAX);
const _: () = assert!(INCOMING_BYTES_MAX > PAYLOAD_BYTES_MAX);
