//! compiles: its length is all there is to know
use opaque::payload::Payload;
use valise_proto::PacketPayload;

fn main() {
    let payload = Payload::from_packet(bytes::Bytes::from_static(b"sealed"));
    assert_eq!(payload.len(), 6);
    assert!(!payload.is_empty());
    assert_eq!(payload.clone().len(), 6);
    assert_eq!(format!("{payload:?}"), "Payload(6 bytes)");
}
