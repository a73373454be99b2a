//! Where the prost types end: one check per field on the way in, one encoder per packet on the way
//! out. Nothing behind this file sees an unchecked packet.

mod client;
mod server;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::limits::PACKET_BYTES_MAX;
use crate::{IdError, PacketBuffer, PacketPayload, Reason};

/// A packet that is not one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PacketError {
    /// Not protobuf, or not of our types.
    #[error("the packet does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A field of fixed length has another one.
    #[error(transparent)]
    Field(#[from] IdError),
    /// A message that must be there is not.
    #[error("the packet lacks its {0}")]
    Missing(&'static str),
}

/// Field numbers of valise.proto that [`put_with_payloads`] writes; the round-trip tests compare
/// them with what prost reads.
mod tags {
    pub(super) const POST: u32 = 7;
    pub(super) const POST_PAYLOAD: u32 = 5;
    pub(super) const SIGNAL: u32 = 8;
    pub(super) const SIGNAL_PAYLOAD: u32 = 2;
    pub(super) const SIGNALED: u32 = 8;
    pub(super) const SIGNALED_PAYLOAD: u32 = 2;
    pub(super) const DELIVER: u32 = 9;
    pub(super) const DELIVER_PAYLOAD: u32 = 4;
    pub(super) const PUT_SLOT: u32 = 10;
    pub(super) const PUT_SLOT_PAYLOAD: u32 = 5;
    pub(super) const TAKEN: u32 = 11;
    pub(super) const TAKEN_PAYLOAD: u32 = 2;
    pub(super) const SLOTS: u32 = 23;
    pub(super) const SLOTS_PAYLOADS: u32 = 2;
    pub(super) const PUBLISH_BUNDLE: u32 = 12;
    pub(super) const LAST_RESORT: u32 = 5;
    pub(super) const ITEMS: u32 = 6;
    pub(super) const BUNDLE_ITEM: u32 = 12;
    pub(super) const BUNDLE_ITEM_PAYLOAD: u32 = 3;
}

/// A number no reason of this version has, for outcomes that were read as unknown.
const UNKNOWN_REASON: i32 = i32::MAX;

fn reason_number(reason: Option<Reason>) -> i32 {
    reason.map_or(UNKNOWN_REASON, Reason::to_wire)
}

fn put(out: &mut PacketBuffer, packet: &impl Message) {
    let len = packet.encoded_len();
    debug_assert!(len <= PACKET_BYTES_MAX, "a packet of {len} bytes");
    let buffer = out.encoder();
    buffer.reserve(encoded_len_varint(len as u64) + len);
    encode_varint(len as u64, buffer);
    packet.encode_raw(buffer);
}

/// Encodes the packet `tag { head, payloads }` without a copy of a payload but the one into the
/// buffer: protobuf fields may stand in any order, so the payloads are appended to the encoded head,
/// each with its field number. `None` is written as an empty one.
fn put_with_payloads<P: PacketPayload>(
    out: &mut PacketBuffer,
    tag: u32,
    head: &impl Message,
    payloads: &[(u32, Option<&P>)],
) {
    let len_of = |payload: &Option<&P>| payload.map_or(0, PacketPayload::len);
    let payloads_len: usize = payloads
        .iter()
        .map(|(field, payload)| {
            key_len(*field) + encoded_len_varint(len_of(payload) as u64) + len_of(payload)
        })
        .sum();
    let inner = head.encoded_len() + payloads_len;
    let len = key_len(tag) + encoded_len_varint(inner as u64) + inner;
    debug_assert!(len <= PACKET_BYTES_MAX, "a packet of {len} bytes");
    let buffer = out.encoder();
    buffer.reserve(encoded_len_varint(len as u64) + len);
    encode_varint(len as u64, buffer);
    encode_key(tag, WireType::LengthDelimited, buffer);
    encode_varint(inner as u64, buffer);
    head.encode_raw(buffer);
    for (field, payload) in payloads {
        let buffer = out.encoder();
        encode_key(*field, WireType::LengthDelimited, buffer);
        encode_varint(len_of(payload) as u64, buffer);
        if let Some(payload) = payload {
            let before = buffer.len();
            payload.write(out);
            debug_assert_eq!(
                out.len(),
                before + payload.len(),
                "PacketPayload::write wrote another length"
            );
        }
    }
}

/// A payload that may be kept for long: what waits in a mailbox must not keep a thousand
/// capabilities alive, so it leaves a packet that is more than twice its size.
fn keepable(payload: Bytes, packet_bytes: usize) -> Bytes {
    if packet_bytes > 2 * payload.len() { copied(&payload) } else { payload }
}

fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn optional_payload<P: PacketPayload>(bytes: Bytes) -> Option<P> {
    (!bytes.is_empty()).then(|| P::from_packet(bytes))
}

fn bytes_or_empty(bytes: Option<&[u8]>) -> Bytes {
    bytes.map_or_else(Bytes::new, copied)
}

fn optional<'a, T: TryFrom<&'a [u8], Error = IdError>>(
    bytes: &'a Bytes,
) -> Result<Option<T>, IdError> {
    if bytes.is_empty() { Ok(None) } else { T::try_from(&bytes[..]).map(Some) }
}

fn fixed_list<'a, T: TryFrom<&'a [u8], Error = IdError>>(
    list: &'a [Bytes],
) -> Result<Vec<T>, IdError> {
    list.iter().map(|bytes| T::try_from(&bytes[..])).collect()
}
