//! What a relay says, to and from the wire.

use bytes::Bytes;
use prost::Message;

use super::{
    PacketError, copied, fixed_list, optional_payload, put, put_with_payloads, reason_number, tags,
};
use crate::packet::{Deliver, Move, MovePhase, Posted, Refused, ServerPacket, Welcome};
use crate::pb::server_packet::Packet as PbServer;
use crate::{CloseReason, PacketBuffer, PacketPayload, Reason, SignedRealmRecord, pb};

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
                    realm_record: signed_record(record)?,
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
            PbServer::Revoked(revoked) => Self::Revoked { request: revoked.request },
            PbServer::Stored(stored) => Self::Stored { request: stored.request },
            PbServer::Taken(taken) => {
                Self::Taken { request: taken.request, payload: P::from_packet(taken.payload) }
            }
            PbServer::Slots(slots) => Self::Slots {
                request: slots.request,
                payloads: slots.payloads.into_iter().map(optional_payload).collect(),
            },
            PbServer::Published(published) => {
                Self::Published { request: published.request, items: published.items }
            }
            PbServer::BundleItem(item) => Self::BundleItem {
                request: item.request,
                last_resort: item.last_resort,
                payload: P::from_packet(item.payload),
            },
            PbServer::BundleLow(low) => {
                Self::BundleLow { attachment: low.attachment, items: low.items }
            }
            PbServer::CaughtUp(caught_up) => Self::CaughtUp { attachment: caught_up.attachment },
            PbServer::Replaced(replaced) => Self::Replaced { attachment: replaced.attachment },
            PbServer::Restarting(restarting) => Self::Restarting {
                reconnect_in_ms: restarting.reconnect_in_ms,
                try_for_ms: restarting.try_for_ms,
            },
            PbServer::Move(moved) => Self::Move(Box::new(Move {
                phase: MovePhase::from_number(moved.phase),
                realm_record: moved.realm_record.map(signed_record).transpose()?,
                endpoints: moved.endpoints,
                spread_ms: moved.spread_ms,
            })),
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
                realm_record: Some(pb_record(&welcome.realm_record)),
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
                let payload = (tags::DELIVER_PAYLOAD, Some(&deliver.payload));
                return put_with_payloads(out, tags::DELIVER, &head, &[payload]);
            }
            Self::Signaled { attachment, payload } => {
                let head = pb::Signaled { attachment: *attachment, payload: Bytes::new() };
                let payload = (tags::SIGNALED_PAYLOAD, Some(payload));
                return put_with_payloads(out, tags::SIGNALED, &head, &[payload]);
            }
            Self::Revoked { request } => PbServer::Revoked(pb::Revoked { request: *request }),
            Self::Stored { request } => PbServer::Stored(pb::Stored { request: *request }),
            Self::Taken { request, payload } => {
                let head = pb::Taken { request: *request, payload: Bytes::new() };
                let payload = (tags::TAKEN_PAYLOAD, Some(payload));
                return put_with_payloads(out, tags::TAKEN, &head, &[payload]);
            }
            Self::Slots { request, payloads } => {
                let head = pb::Slots { request: *request, payloads: Vec::new() };
                let payloads: Vec<_> =
                    payloads.iter().map(|p| (tags::SLOTS_PAYLOADS, p.as_ref())).collect();
                return put_with_payloads(out, tags::SLOTS, &head, &payloads);
            }
            Self::Published { request, items } => {
                PbServer::Published(pb::Published { request: *request, items: *items })
            }
            Self::BundleItem { request, last_resort, payload } => {
                let head = pb::BundleItem {
                    request: *request,
                    last_resort: *last_resort,
                    payload: Bytes::new(),
                };
                let payload = (tags::BUNDLE_ITEM_PAYLOAD, Some(payload));
                return put_with_payloads(out, tags::BUNDLE_ITEM, &head, &[payload]);
            }
            Self::BundleLow { attachment, items } => {
                PbServer::BundleLow(pb::BundleLow { attachment: *attachment, items: *items })
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
            Self::Move(moved) => PbServer::Move(pb::Move {
                phase: moved.phase.map_or(0, |phase| phase as i32),
                realm_record: moved.realm_record.as_ref().map(pb_record),
                endpoints: moved.endpoints.clone(),
                spread_ms: moved.spread_ms,
            }),
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

fn signed_record(record: pb::SignedRealmRecord) -> Result<SignedRealmRecord, PacketError> {
    let signature = record.signature[..].try_into()?;
    Ok(SignedRealmRecord { record: record.record, signature })
}

fn pb_record(record: &SignedRealmRecord) -> pb::SignedRealmRecord {
    pb::SignedRealmRecord {
        record: record.record.clone(),
        signature: copied(record.signature.as_bytes()),
    }
}
