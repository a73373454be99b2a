/** The numbers of section 17 of the protocol. */

/** The sizes a payload may have, in bytes. */
export const PAYLOAD_SIZES = [512, 2_048, 8_192, 65_536] as const;
/** The largest packet, without its length prefix. */
export const PACKET_BYTES_MAX = 147_456;
/** The longest length prefix. */
export const LENGTH_PREFIX_BYTES_MAX = 5;
/** The largest WebSocket message. */
export const WEBSOCKET_MESSAGE_BYTES_MAX = 262_144;
/** Targets of one post or signal. */
export const TARGETS_MAX = 1_024;
/** Targets x payload of one post. */
export const FAN_OUT_BYTES_MAX = 1_048_576;
/** Attachments of one connection. */
export const ATTACHMENTS_MAX = 16;
/** Unacknowledged payload bytes that the relay has in flight for an attachment. */
export const ATTACHMENT_WINDOW_BYTES = 131_072;
/** Frames in a mailbox. */
export const MAILBOX_FRAMES_MAX = 1_000;
/** Days a token is valid, at most. */
export const TOKEN_DAYS_MAX = 400;
/** Slots of one `GetSlots`. */
export const SLOTS_MAX = 64;
/** Silence after which a client pings, in seconds, give or take the jitter. */
export const PING_AFTER_SECONDS = 60;
/** See `PING_AFTER_SECONDS`. */
export const PING_JITTER_SECONDS = 5;
/** How long a relay may take for its `Pong`, in seconds. */
export const PONG_WITHIN_SECONDS = 20;
/** Epochs ahead of the highest seen that are believed without asking the user. */
export const EPOCH_AHEAD_MAX = 1_000n;
/** Endpoints, and relay keys, of a realm record. */
export const REALM_RECORD_LIST_MAX = 16;
/** How long an attach that was given up without an answer may still have an effect, in milliseconds. */
export const ATTACH_DOUBT_MS = 20_000;
/** How long a place that a client moves to may take to attach a mailbox, in milliseconds. */
export const FOLLOW_WITHIN_MS = 10_000;
/** How often this library asks what is refused `moved`, here and there. */
export const MOVED_TRIES = 8;
/** `Move` packets that a client obeys within a minute. */
export const MOVES_PER_MINUTE = 4;
/** The longest time over which clients spread a move, in milliseconds. */
export const MOVE_SPREAD_MS_MAX = 60_000;
/** Bytes of an encoded realm record. */
export const REALM_RECORD_BYTES_MAX = 4_096;
/** The ALPN name of the raw transport; its number is the major version. */
export const ALPN_RAW = "valise/1";
/** The protocol version this library speaks. */
export const VERSION = 1;

/** Whether `bytes` has one of the four sizes. */
export function isPadded(bytes: Uint8Array): boolean {
  return (PAYLOAD_SIZES as readonly number[]).includes(bytes.length);
}
