//! Where the prost types end: one check per field on the way in, one encoder per packet on the way
//! out. Nothing behind this file sees an unchecked packet.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::limits::PACKET_BYTES_MAX;
use crate::packet::{
    Attach, ClientPacket, Deliver, Hello, Issue, Join, Post, Posted, Refused, ServerPacket, Signal,
    TokenKind, Welcome,
};
use crate::pb::client_packet::Packet as PbClient;
use crate::pb::server_packet::Packet as PbServer;
use crate::{CloseReason, IdError, PacketBuffer, PacketPayload, Reason, SignedRealmRecord, pb};

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

impl<P: PacketPayload> ClientPacket<P> {
    /// Decodes one packet, without its length prefix. The payload shares the packet's memory where
    /// it is most of it.
    ///
    /// # Errors
    /// [`PacketError`] when it is malformed; packets of unknown kinds are [`ClientPacket::Unknown`].
    pub fn decode(packet: Bytes) -> Result<Self, PacketError> {
        let packet_bytes = packet.len();
        let Some(packet) = pb::ClientPacket::decode(packet)?.packet else {
            return Ok(Self::Unknown);
        };
        Ok(match packet {
            PbClient::Hello(hello) => Self::Hello(Hello {
                version: hello.version,
                features: hello.features,
                realm_epoch: hello.realm_epoch,
                member_token: optional(&hello.member_token)?,
            }),
            PbClient::Join(join) => Self::Join(Box::new(Join {
                request: join.request,
                owner_key: join.owner_key[..].try_into()?,
                signature: join.signature[..].try_into()?,
                join_token: optional(&join.join_token)?,
                without_channel: join.without_channel,
            })),
            PbClient::Attach(attach) => Self::Attach(Box::new(Attach {
                request: attach.request,
                member_token: attach.member_token[..].try_into()?,
                owner_key: attach.owner_key[..].try_into()?,
                signature: attach.signature[..].try_into()?,
                without_channel: attach.without_channel,
            })),
            PbClient::Detach(detach) => {
                Self::Detach { request: detach.request, attachment: detach.attachment }
            }
            PbClient::Issue(issue) => Self::Issue(Issue {
                request: issue.request,
                kind: u8::try_from(issue.kind).ok().and_then(TokenKind::from_number),
                attachment: issue.attachment,
                count: issue.count,
                days: issue.days,
                rate_class: issue.rate_class,
            }),
            PbClient::Post(post) => Self::Post(Post {
                request: post.request,
                frame_id: post.frame_id[..].try_into()?,
                capabilities: fixed_list(&post.capabilities)?,
                ttl_hours: post.ttl_hours,
                payload: P::from_packet(keepable(post.payload, packet_bytes)),
            }),
            PbClient::Signal(signal) => Self::Signal(Signal {
                capabilities: fixed_list(&signal.capabilities)?,
                payload: P::from_packet(keepable(signal.payload, packet_bytes)),
            }),
            PbClient::Ack(ack) => Self::Ack { attachment: ack.attachment, n: ack.n },
            PbClient::Ping(ping) => Self::Ping { request: ping.request },
            PbClient::Pong(pong) => Self::Pong { request: pong.request },
        })
    }

    /// Appends the packet with its length prefix.
    pub fn encode(&self, out: &mut PacketBuffer) {
        let packet = match self {
            Self::Hello(hello) => PbClient::Hello(pb::Hello {
                version: hello.version,
                features: hello.features,
                realm_epoch: hello.realm_epoch,
                member_token: bytes_or_empty(
                    hello.member_token.as_ref().map(|t| &t.as_bytes()[..]),
                ),
            }),
            Self::Join(join) => PbClient::Join(pb::Join {
                request: join.request,
                owner_key: copied(join.owner_key.as_bytes()),
                signature: copied(join.signature.as_bytes()),
                join_token: bytes_or_empty(join.join_token.as_ref().map(|t| &t.as_bytes()[..])),
                without_channel: join.without_channel,
            }),
            Self::Attach(attach) => PbClient::Attach(pb::Attach {
                request: attach.request,
                member_token: copied(attach.member_token.as_bytes()),
                owner_key: copied(attach.owner_key.as_bytes()),
                signature: copied(attach.signature.as_bytes()),
                without_channel: attach.without_channel,
            }),
            Self::Detach { request, attachment } => {
                PbClient::Detach(pb::Detach { request: *request, attachment: *attachment })
            }
            Self::Issue(issue) => PbClient::Issue(pb::Issue {
                request: issue.request,
                kind: issue.kind.map_or(0, |kind| i32::from(kind as u8)),
                attachment: issue.attachment,
                count: issue.count,
                days: issue.days,
                rate_class: issue.rate_class,
            }),
            Self::Post(post) => {
                let head = pb::Post {
                    request: post.request,
                    frame_id: copied(post.frame_id.as_bytes()),
                    capabilities: post.capabilities.iter().map(|t| copied(t.as_bytes())).collect(),
                    ttl_hours: post.ttl_hours,
                    payload: Bytes::new(),
                };
                return put_with_payload(out, tags::POST, &head, tags::POST_PAYLOAD, &post.payload);
            }
            Self::Signal(signal) => {
                let head = pb::Signal {
                    capabilities: signal
                        .capabilities
                        .iter()
                        .map(|t| copied(t.as_bytes()))
                        .collect(),
                    payload: Bytes::new(),
                };
                let (tag, field) = (tags::SIGNAL, tags::SIGNAL_PAYLOAD);
                return put_with_payload(out, tag, &head, field, &signal.payload);
            }
            Self::Ack { attachment, n } => {
                PbClient::Ack(pb::Ack { attachment: *attachment, n: *n })
            }
            Self::Ping { request } => PbClient::Ping(pb::Ping { request: *request }),
            Self::Pong { request } => PbClient::Pong(pb::Pong { request: *request }),
            Self::Unknown => return put(out, &pb::ClientPacket { packet: None }),
        };
        put(out, &pb::ClientPacket { packet: Some(packet) });
    }
}

impl<P: PacketPayload> ServerPacket<P> {
    /// Decodes one packet, without its length prefix. The payload shares the packet's memory.
    ///
    /// # Errors
    /// [`PacketError`] when it is malformed; packets of unknown kinds are [`ServerPacket::Unknown`].
    pub fn decode(packet: Bytes) -> Result<Self, PacketError> {
        let Some(packet) = pb::ServerPacket::decode(packet)?.packet else {
            return Ok(Self::Unknown);
        };
        Ok(match packet {
            PbServer::Welcome(welcome) => {
                let record = welcome.realm_record.ok_or(PacketError::Missing("realm record"))?;
                Self::Welcome(Box::new(Welcome {
                    versions: welcome.versions,
                    features: welcome.features,
                    realm_record: SignedRealmRecord {
                        record: record.record,
                        signature: record.signature[..].try_into()?,
                    },
                    nonce: welcome.nonce[..].try_into()?,
                    signing_key: welcome.signing_key[..].try_into()?,
                    signature: welcome.signature[..].try_into()?,
                }))
            }
            PbServer::Joined(joined) => Self::Joined {
                request: joined.request,
                member_token: joined.member_token[..].try_into()?,
            },
            PbServer::Attached(attached) => {
                Self::Attached { request: attached.request, attachment: attached.attachment }
            }
            PbServer::Detached(detached) => Self::Detached { request: detached.request },
            PbServer::Issued(issued) => {
                Self::Issued { request: issued.request, tokens: fixed_list(&issued.tokens)? }
            }
            PbServer::Posted(posted) => Self::Posted(Posted {
                request: posted.request,
                frame_id: posted.frame_id[..].try_into()?,
                outcomes: posted.outcomes.iter().map(|number| Reason::from_wire(*number)).collect(),
                retry_after_ms: posted.retry_after_ms,
            }),
            PbServer::Refused(refused) => Self::Refused(Refused {
                request: refused.request,
                reason: Reason::from_wire(refused.reason),
                retry_after_ms: refused.retry_after_ms,
            }),
            PbServer::Deliver(deliver) => Self::Deliver(Deliver {
                attachment: deliver.attachment,
                n: deliver.n,
                frame_id: deliver.frame_id[..].try_into()?,
                payload: P::from_packet(deliver.payload),
            }),
            PbServer::Signaled(signaled) => Self::Signaled {
                attachment: signaled.attachment,
                payload: P::from_packet(signaled.payload),
            },
            PbServer::CaughtUp(caught_up) => Self::CaughtUp { attachment: caught_up.attachment },
            PbServer::Replaced(replaced) => Self::Replaced { attachment: replaced.attachment },
            PbServer::Restarting(restarting) => Self::Restarting {
                reconnect_in_ms: restarting.reconnect_in_ms,
                try_for_ms: restarting.try_for_ms,
            },
            PbServer::Closing(closing) => Self::Closing(CloseReason::from_wire(closing.reason)),
            PbServer::Ping(ping) => Self::Ping { request: ping.request },
            PbServer::Pong(pong) => Self::Pong { request: pong.request },
        })
    }

    /// Appends the packet with its length prefix.
    pub fn encode(&self, out: &mut PacketBuffer) {
        let packet = match self {
            Self::Welcome(welcome) => PbServer::Welcome(pb::Welcome {
                versions: welcome.versions.clone(),
                features: welcome.features,
                realm_record: Some(pb::SignedRealmRecord {
                    record: welcome.realm_record.record.clone(),
                    signature: copied(welcome.realm_record.signature.as_bytes()),
                }),
                nonce: copied(welcome.nonce.as_bytes()),
                signing_key: copied(welcome.signing_key.as_bytes()),
                signature: copied(welcome.signature.as_bytes()),
            }),
            Self::Joined { request, member_token } => PbServer::Joined(pb::Joined {
                request: *request,
                member_token: copied(member_token.as_bytes()),
            }),
            Self::Attached { request, attachment } => {
                PbServer::Attached(pb::Attached { request: *request, attachment: *attachment })
            }
            Self::Detached { request } => PbServer::Detached(pb::Detached { request: *request }),
            Self::Issued { request, tokens } => PbServer::Issued(pb::Issued {
                request: *request,
                tokens: tokens.iter().map(|token| copied(token.as_bytes())).collect(),
            }),
            Self::Posted(posted) => PbServer::Posted(pb::Posted {
                request: posted.request,
                frame_id: copied(posted.frame_id.as_bytes()),
                outcomes: posted.outcomes.iter().map(|o| reason_number(*o)).collect(),
                retry_after_ms: posted.retry_after_ms,
            }),
            Self::Refused(refused) => PbServer::Refused(pb::Refused {
                request: refused.request,
                reason: reason_number(refused.reason),
                retry_after_ms: refused.retry_after_ms,
            }),
            Self::Deliver(deliver) => {
                let head = pb::Deliver {
                    attachment: deliver.attachment,
                    n: deliver.n,
                    frame_id: copied(deliver.frame_id.as_bytes()),
                    payload: Bytes::new(),
                };
                let (tag, field) = (tags::DELIVER, tags::DELIVER_PAYLOAD);
                return put_with_payload(out, tag, &head, field, &deliver.payload);
            }
            Self::Signaled { attachment, payload } => {
                let head = pb::Signaled { attachment: *attachment, payload: Bytes::new() };
                return put_with_payload(
                    out,
                    tags::SIGNALED,
                    &head,
                    tags::SIGNALED_PAYLOAD,
                    payload,
                );
            }
            Self::CaughtUp { attachment } => {
                PbServer::CaughtUp(pb::CaughtUp { attachment: *attachment })
            }
            Self::Replaced { attachment } => {
                PbServer::Replaced(pb::Replaced { attachment: *attachment })
            }
            Self::Restarting { reconnect_in_ms, try_for_ms } => {
                PbServer::Restarting(pb::Restarting {
                    reconnect_in_ms: *reconnect_in_ms,
                    try_for_ms: *try_for_ms,
                })
            }
            Self::Closing(reason) => {
                PbServer::Closing(pb::Closing { reason: reason.map_or(0, CloseReason::to_wire) })
            }
            Self::Ping { request } => PbServer::Ping(pb::Ping { request: *request }),
            Self::Pong { request } => PbServer::Pong(pb::Pong { request: *request }),
            Self::Unknown => return put(out, &pb::ServerPacket { packet: None }),
        };
        put(out, &pb::ServerPacket { packet: Some(packet) });
    }
}

/// Field numbers of valise.proto that [`put_with_payload`] writes; the round-trip tests compare
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

/// Encodes the packet `tag { head, payload }` without a copy of the payload but the one into the
/// buffer: protobuf fields may stand in any order, so the payload is appended to the encoded head.
fn put_with_payload<P: PacketPayload>(
    out: &mut PacketBuffer,
    tag: u32,
    head: &impl Message,
    payload_field: u32,
    payload: &P,
) {
    let payload_len = payload.len();
    let inner = head.encoded_len()
        + key_len(payload_field)
        + encoded_len_varint(payload_len as u64)
        + payload_len;
    let len = key_len(tag) + encoded_len_varint(inner as u64) + inner;
    debug_assert!(len <= PACKET_BYTES_MAX, "a packet of {len} bytes");
    let buffer = out.encoder();
    buffer.reserve(encoded_len_varint(len as u64) + len);
    encode_varint(len as u64, buffer);
    encode_key(tag, WireType::LengthDelimited, buffer);
    encode_varint(inner as u64, buffer);
    head.encode_raw(buffer);
    encode_key(payload_field, WireType::LengthDelimited, buffer);
    encode_varint(payload_len as u64, buffer);
    let before = buffer.len();
    payload.write(out);
    debug_assert_eq!(out.len(), before + payload_len, "PacketPayload::write wrote another length");
}

/// A payload that may be kept for long: what waits in a mailbox must not keep a thousand
/// capabilities alive, so it leaves a packet that is more than twice its size.
fn keepable(payload: Bytes, packet_bytes: usize) -> Bytes {
    if packet_bytes > 2 * payload.len() { copied(&payload) } else { payload }
}

fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
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
