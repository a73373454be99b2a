//! Packets at random, and a second reader of `valise.proto` that shares no code with the crate.

// Every test file takes what it needs, and is a crate of its own.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::sync::LazyLock;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use valise_proto::{
    Attach, ClientPacket, CloseReason, Deliver, FrameId, Hello, Issue, Join, Move, MovePhase,
    Nonce, OwnerKey, PacketBuffer, Post, Posted, PublicationId, PublishBundle, PutId, PutSlot,
    Reason, Refused, Revoke, ServerPacket, Signal, Signature, SignedRealmRecord, SigningKey,
    SlotId, Token, TokenKind, Welcome,
};

pub type Client = ClientPacket<Bytes>;
pub type Server = ServerPacket<Bytes>;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let files = protox::compile(["valise/v1/valise.proto"], ["proto"]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
});

/// Everything valise.proto defines.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The description of `valise.v1.NAME` as the .proto file gives it.
pub fn message(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(&format!("valise.v1.{name}")).unwrap()
}

/// Reads a packet with the second reader.
pub fn read_dynamic(name: &str, packet: &[u8]) -> DynamicMessage {
    DynamicMessage::decode(message(name), packet).unwrap()
}

/// A client packet without its length prefix.
pub fn client_body(packet: &Client) -> Bytes {
    let mut out = PacketBuffer::default();
    packet.encode(&mut out);
    without_prefix(&out.take())
}

/// A server packet without its length prefix.
pub fn server_body(packet: &Server) -> Bytes {
    let mut out = PacketBuffer::default();
    packet.encode(&mut out);
    without_prefix(&out.take())
}

/// Checks that the length prefix says what follows, and takes it off.
fn without_prefix(framed: &Bytes) -> Bytes {
    let mut rest = &framed[..];
    let declared = prost::encoding::decode_varint(&mut rest).unwrap();
    assert_eq!(declared, rest.len() as u64, "the length prefix");
    framed.slice(framed.len() - rest.len()..)
}

/// Any client packet, also ones that the relay would refuse.
pub fn client_packet() -> BoxedStrategy<Client> {
    prop_oneof![
        (any::<u32>(), any::<u64>(), any::<u64>(), option::of(token())).prop_map(
            |(version, features, realm_epoch, member_token)| {
                Client::Hello(Hello { version, features, realm_epoch, member_token })
            }
        ),
        (any::<u32>(), owner_key(), signature(), option::of(token()), any::<bool>()).prop_map(
            |(request, owner_key, signature, join_token, without_channel)| {
                Client::Join(Box::new(Join {
                    request,
                    owner_key,
                    signature,
                    join_token,
                    without_channel,
                }))
            }
        ),
        (any::<u32>(), token(), owner_key(), signature(), any::<bool>()).prop_map(
            |(request, member_token, owner_key, signature, without_channel)| {
                Client::Attach(Box::new(Attach {
                    request,
                    member_token,
                    owner_key,
                    signature,
                    without_channel,
                }))
            }
        ),
        (any::<u32>(), any::<u32>())
            .prop_map(|(request, attachment)| Client::Detach { request, attachment }),
        (
            any::<u32>(),
            option::of(select(&TokenKind::ALL)),
            any::<u32>(),
            any::<u32>(),
            any::<u32>(),
            any::<u32>()
        )
            .prop_map(|(request, kind, attachment, count, days, rate_class)| {
                Client::Issue(Issue { request, kind, attachment, count, days, rate_class })
            }),
        (any::<u32>(), frame_id(), vec(token(), 0..40), any::<u32>(), payload()).prop_map(
            |(request, frame_id, capabilities, ttl_hours, payload)| {
                Client::Post(Post { request, frame_id, capabilities, ttl_hours, payload })
            }
        ),
        (vec(token(), 0..40), payload()).prop_map(|(capabilities, payload)| {
            Client::Signal(Signal { capabilities, payload })
        }),
        (any::<u32>(), any::<u64>()).prop_map(|(attachment, n)| Client::Ack { attachment, n }),
        (any::<u32>(), any::<u32>(), token()).prop_map(|(request, attachment, token)| {
            Client::Revoke(Box::new(Revoke { request, attachment, token }))
        }),
        (any::<u32>(), token(), any::<[u8; 32]>(), any::<[u8; 16]>(), payload()).prop_map(
            |(request, slot_token, slot_id, put_id, payload)| {
                let (slot_id, put_id) = (SlotId::new(slot_id), PutId::new(put_id));
                Client::PutSlot(Box::new(PutSlot { request, slot_token, slot_id, put_id, payload }))
            }
        ),
        (any::<u32>(), vec(any::<[u8; 32]>().prop_map(SlotId::new), 0..70))
            .prop_map(|(request, slot_ids)| Client::GetSlots { request, slot_ids }),
        (
            any::<u32>(),
            any::<u32>(),
            any::<[u8; 16]>(),
            any::<bool>(),
            option::of(full_payload()),
            vec(full_payload(), 0..10)
        )
            .prop_map(
                |(request, attachment, publication_id, replace, last_resort, items)| {
                    Client::PublishBundle(Box::new(PublishBundle {
                        request,
                        attachment,
                        publication_id: PublicationId::new(publication_id),
                        replace,
                        last_resort,
                        items,
                    }))
                }
            ),
        (any::<u32>(), token())
            .prop_map(|(request, take_token)| Client::TakeBundle { request, take_token }),
        any::<u32>().prop_map(|request| Client::Ping { request }),
        any::<u32>().prop_map(|request| Client::Pong { request }),
        Just(Client::Unknown),
    ]
    .boxed()
}

/// Any server packet.
pub fn server_packet() -> BoxedStrategy<Server> {
    prop_oneof![
        (
            vec(any::<u32>(), 0..5),
            any::<u64>(),
            vec(any::<u8>(), 0..300),
            signature(),
            any::<[u8; 32]>(),
            any::<[u8; 32]>(),
            signature()
        )
            .prop_map(|(versions, features, record, by_root, nonce, key, signature)| {
                Server::Welcome(Box::new(Welcome {
                    versions,
                    features,
                    realm_record: SignedRealmRecord { record: record.into(), signature: by_root },
                    nonce: Nonce::new(nonce),
                    signing_key: SigningKey::new(key),
                    signature,
                }))
            }),
        (any::<u32>(), token())
            .prop_map(|(request, member_token)| Server::Joined { request, member_token }),
        (any::<u32>(), any::<u32>())
            .prop_map(|(request, attachment)| Server::Attached { request, attachment }),
        any::<u32>().prop_map(|request| Server::Detached { request }),
        (any::<u32>(), vec(token(), 0..100))
            .prop_map(|(request, tokens)| Server::Issued { request, tokens }),
        (any::<u32>(), frame_id(), vec(reason(), 0..1024), any::<u32>()).prop_map(
            |(request, frame_id, outcomes, retry_after_ms)| {
                Server::Posted(Posted { request, frame_id, outcomes, retry_after_ms })
            }
        ),
        (any::<u32>(), reason(), any::<u32>()).prop_map(|(request, reason, retry_after_ms)| {
            Server::Refused(Refused { request, reason, retry_after_ms })
        }),
        (any::<u32>(), any::<u64>(), frame_id(), payload()).prop_map(
            |(attachment, n, frame_id, payload)| {
                Server::Deliver(Deliver { attachment, n, frame_id, payload })
            }
        ),
        (any::<u32>(), payload())
            .prop_map(|(attachment, payload)| Server::Signaled { attachment, payload }),
        any::<u32>().prop_map(|attachment| Server::CaughtUp { attachment }),
        any::<u32>().prop_map(|request| Server::Revoked { request }),
        any::<u32>().prop_map(|request| Server::Stored { request }),
        (any::<u32>(), payload()).prop_map(|(request, payload)| Server::Taken { request, payload }),
        (any::<u32>(), vec(option::of(full_payload()), 0..10))
            .prop_map(|(request, payloads)| Server::Slots { request, payloads }),
        (any::<u32>(), any::<u32>())
            .prop_map(|(request, items)| Server::Published { request, items }),
        (any::<u32>(), any::<bool>(), payload()).prop_map(|(request, last_resort, payload)| {
            Server::BundleItem { request, last_resort, payload }
        }),
        (any::<u32>(), any::<u32>())
            .prop_map(|(attachment, items)| Server::BundleLow { attachment, items }),
        any::<u32>().prop_map(|attachment| Server::Replaced { attachment }),
        (any::<u32>(), any::<u32>()).prop_map(|(reconnect_in_ms, try_for_ms)| {
            Server::Restarting { reconnect_in_ms, try_for_ms }
        }),
        (
            option::of(select(&MovePhase::ALL)),
            option::of((vec(any::<u8>(), 0..300), signature())),
            vec("[a-z.]{1,20}:[0-9]{1,5}", 0..5),
            any::<u32>()
        )
            .prop_map(|(phase, record, endpoints, spread_ms)| {
                let realm_record = record.map(|(record, signature)| SignedRealmRecord {
                    record: record.into(),
                    signature,
                });
                Server::Move(Box::new(Move { phase, realm_record, endpoints, spread_ms }))
            }),
        option::of(select(CloseReason::ALL)).prop_map(Server::Closing),
        any::<u32>().prop_map(|request| Server::Ping { request }),
        any::<u32>().prop_map(|request| Server::Pong { request }),
        Just(Server::Unknown),
    ]
    .boxed()
}

fn token() -> impl Strategy<Value = Token> {
    vec(any::<u8>(), Token::LEN).prop_map(|bytes| Token::try_from(&bytes[..]).unwrap())
}

fn signature() -> impl Strategy<Value = Signature> {
    vec(any::<u8>(), Signature::LEN).prop_map(|bytes| Signature::try_from(&bytes[..]).unwrap())
}

fn owner_key() -> impl Strategy<Value = OwnerKey> {
    any::<[u8; 32]>().prop_map(OwnerKey::new)
}

fn frame_id() -> impl Strategy<Value = FrameId> {
    any::<[u8; 16]>().prop_map(FrameId::new)
}

fn reason() -> impl Strategy<Value = Option<Reason>> {
    option::of(select(Reason::ALL))
}

/// Where an empty one means that there is none.
fn full_payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 1..300).prop_map(Bytes::from)
}

/// Short payloads with any content, and each padded size: the lengths change the prefixes.
fn payload() -> impl Strategy<Value = Bytes> {
    let padded = select(&valise_proto::limits::PAYLOAD_SIZES[..]);
    prop_oneof![
        3 => vec(any::<u8>(), 0..300).prop_map(Bytes::from),
        1 => (padded, any::<u8>()).prop_map(|(len, byte)| vec![byte; len].into()),
    ]
}
