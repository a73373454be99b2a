//! What is encoded is read back unchanged: by our own decoder, by a second reader of
//! `valise.proto`, and through the deframer however the stream is cut.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use bytes::Bytes;
use common::{
    Client, Server, client_body, client_packet, read_dynamic, server_body, server_packet,
};
use proptest::collection::vec;
use proptest::prelude::*;
use prost_reflect::prost::Message;
use valise_proto::limits::{
    LENGTH_PREFIX_BYTES_MAX, PACKET_BYTES_MAX, PAYLOAD_BYTES_MAX, TARGETS_MAX,
};
use valise_proto::{Deframer, FrameId, PacketBuffer, Post, Token};

proptest! {
    #[test]
    fn client_packets_round_trip(packet in client_packet()) {
        let body = client_body(&packet);
        prop_assert_eq!(&Client::decode(body.clone()).unwrap(), &packet);
        // The payload packets are encoded by hand: their field numbers and order are ours to get
        // wrong, and our own decoder alone would not see a number that both sides share.
        let read = read_dynamic("ClientPacket", &body);
        prop_assert_eq!(read.unknown_fields().count(), 0);
        prop_assert_eq!(Client::decode(read.encode_to_vec().into()).unwrap(), packet);
    }

    #[test]
    fn server_packets_round_trip(packet in server_packet()) {
        let body = server_body(&packet);
        prop_assert_eq!(&Server::decode(body.clone()).unwrap(), &packet);
        let read = read_dynamic("ServerPacket", &body);
        prop_assert_eq!(read.unknown_fields().count(), 0);
        prop_assert_eq!(Server::decode(read.encode_to_vec().into()).unwrap(), packet);
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_packets(
        packets in vec(client_packet(), 0..12),
        cuts in vec(1usize..3000, 1..40),
    ) {
        let mut stream = PacketBuffer::default();
        packets.iter().for_each(|packet| packet.encode(&mut stream));
        let stream = stream.take();
        let mut deframer = Deframer::default();
        let mut read = Vec::new();
        for mut chunk in pieces(&stream, &cuts) {
            while let Some(body) = deframer.next(&mut chunk).unwrap() {
                read.push(Client::decode(body).unwrap());
            }
            prop_assert!(chunk.is_empty(), "the deframer takes all it is given");
            prop_assert!(deframer.buffered() < LENGTH_PREFIX_BYTES_MAX + PACKET_BYTES_MAX);
        }
        prop_assert!(deframer.is_between_packets());
        prop_assert_eq!(read, packets);
    }
}

/// The stream in pieces of these lengths, again and again.
fn pieces<'a>(mut stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (piece, rest) = stream.split_at((*cut).min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

#[test]
fn the_largest_post_fits_into_a_packet() {
    let post = Client::Post(Post {
        request: u32::MAX,
        frame_id: FrameId::new([0xff; 16]),
        capabilities: vec![Token::new([0xff; 60]); TARGETS_MAX],
        ttl_hours: u32::MAX,
        payload: Bytes::from(vec![0xff; PAYLOAD_BYTES_MAX]),
    });
    let body = client_body(&post);
    assert!(body.len() <= PACKET_BYTES_MAX, "{} bytes", body.len());
    assert_eq!(Client::decode(body).unwrap(), post);
}

#[test]
fn payloads_come_last_so_that_the_encoding_is_canonical() {
    let post = Client::Post(Post {
        request: 7,
        frame_id: FrameId::new([1; 16]),
        capabilities: vec![Token::new([2; 60]); 3],
        ttl_hours: 24,
        payload: Bytes::from_static(b"sealed"),
    });
    let body = client_body(&post);
    assert_eq!(read_dynamic("ClientPacket", &body).encode_to_vec(), body);
}

#[test]
fn what_prost_omits_is_read_as_the_default() {
    // An empty payload is written with its length; other writers leave the field out.
    let post = Client::Post(Post {
        request: 0,
        frame_id: FrameId::new([0; 16]),
        capabilities: Vec::new(),
        ttl_hours: 0,
        payload: Bytes::new(),
    });
    let canonical = read_dynamic("ClientPacket", &client_body(&post)).encode_to_vec();
    assert_eq!(Client::decode(canonical.into()).unwrap(), post);
}

/// Whether the payload of a decoded post with so many targets lies in the packet's own memory.
fn shares_memory(targets: usize, payload: usize) -> bool {
    let body = client_body(&Client::Post(Post {
        request: 1,
        frame_id: FrameId::new([1; 16]),
        capabilities: vec![Token::new([2; 60]); targets],
        ttl_hours: 0,
        payload: Bytes::from(vec![3; payload]),
    }));
    let Client::Post(post) = Client::decode(body.clone()).unwrap() else { panic!("a post") };
    body.as_ptr_range().contains(&post.payload.as_ptr())
}

#[test]
fn a_payload_keeps_no_packet_alive_that_is_much_larger() {
    assert!(shares_memory(1, 512), "a plain post is not copied");
    assert!(shares_memory(8, 2048));
    assert!(!shares_memory(1024, 512), "62 KiB of capabilities");
    assert!(!shares_memory(1024, 8 * 1024));
}
