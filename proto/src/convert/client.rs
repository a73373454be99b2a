//! What a client says, to and from the wire.

use bytes::Bytes;
use prost::Message;

use super::{
    PacketError, bytes_or_empty, copied, fixed_list, keepable, optional, optional_payload, put,
    put_with_payloads, tags,
};
use crate::packet::{
    Attach, ClientPacket, Hello, Issue, Join, Post, PublishBundle, PutSlot, Revoke, Signal,
    TokenKind,
};
use crate::pb::client_packet::Packet as PbClient;
use crate::{PacketBuffer, PacketPayload, pb};

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
            PbClient::Revoke(revoke) => Self::Revoke(Box::new(Revoke {
                request: revoke.request,
                attachment: revoke.attachment,
                token: revoke.token[..].try_into()?,
            })),
            PbClient::PutSlot(put) => Self::PutSlot(Box::new(PutSlot {
                request: put.request,
                slot_token: put.slot_token[..].try_into()?,
                slot_id: put.slot_id[..].try_into()?,
                put_id: put.put_id[..].try_into()?,
                payload: P::from_packet(keepable(put.payload, packet_bytes)),
            })),
            PbClient::GetSlots(get) => {
                Self::GetSlots { request: get.request, slot_ids: fixed_list(&get.slot_ids)? }
            }
            PbClient::PublishBundle(publish) => Self::PublishBundle(Box::new(PublishBundle {
                request: publish.request,
                attachment: publish.attachment,
                publication_id: publish.publication_id[..].try_into()?,
                replace: publish.replace,
                last_resort: optional_payload(publish.last_resort),
                items: publish.items.into_iter().map(P::from_packet).collect(),
            })),
            PbClient::TakeBundle(take) => Self::TakeBundle {
                request: take.request,
                take_token: take.take_token[..].try_into()?,
            },
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
                let payload = (tags::POST_PAYLOAD, Some(&post.payload));
                return put_with_payloads(out, tags::POST, &head, &[payload]);
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
                let payload = (tags::SIGNAL_PAYLOAD, Some(&signal.payload));
                return put_with_payloads(out, tags::SIGNAL, &head, &[payload]);
            }
            Self::Revoke(revoke) => PbClient::Revoke(pb::Revoke {
                request: revoke.request,
                attachment: revoke.attachment,
                token: copied(revoke.token.as_bytes()),
            }),
            Self::PutSlot(put) => {
                let head = pb::PutSlot {
                    request: put.request,
                    slot_token: copied(put.slot_token.as_bytes()),
                    slot_id: copied(put.slot_id.as_bytes()),
                    put_id: copied(put.put_id.as_bytes()),
                    payload: Bytes::new(),
                };
                let payload = (tags::PUT_SLOT_PAYLOAD, Some(&put.payload));
                return put_with_payloads(out, tags::PUT_SLOT, &head, &[payload]);
            }
            Self::GetSlots { request, slot_ids } => PbClient::GetSlots(pb::GetSlots {
                request: *request,
                slot_ids: slot_ids.iter().map(|id| copied(id.as_bytes())).collect(),
            }),
            Self::PublishBundle(publish) => {
                let head = pb::PublishBundle {
                    request: publish.request,
                    attachment: publish.attachment,
                    publication_id: copied(publish.publication_id.as_bytes()),
                    replace: publish.replace,
                    last_resort: Bytes::new(),
                    items: Vec::new(),
                };
                let last_resort = publish.last_resort.iter().map(|p| (tags::LAST_RESORT, Some(p)));
                let items = publish.items.iter().map(|p| (tags::ITEMS, Some(p)));
                let payloads: Vec<_> = last_resort.chain(items).collect();
                return put_with_payloads(out, tags::PUBLISH_BUNDLE, &head, &payloads);
            }
            Self::TakeBundle { request, take_token } => PbClient::TakeBundle(pb::TakeBundle {
                request: *request,
                take_token: copied(take_token.as_bytes()),
            }),
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
