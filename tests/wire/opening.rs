//! Welcome, Hello, and what is not TLS 1.3.

use valise_proto::limits::TOKEN_DAYS_MAX;
use valise_proto::{
    ClientPacket, CloseReason, Hello, PutSlot, Revoke, ServerPacket, TokenKind, statement,
};

use valise::relay::Patience;

use crate::on_both_transports;
use crate::relay::{ESTABLISHMENT, Relay};
use crate::standing::{publication, put_id, slot_id};
use crate::wire::{Via, Wire, hello, payload, tls};

on_both_transports!(
    welcome_proves_the_realm_on_this_channel,
    hello_opens,
    hello_version_unsupported,
    hello_twice_out_of_order,
    anything_before_hello_out_of_order,
    ping_pong,
    establishment_timeout,
    hello_with_a_member_token_may_wait,
    hello_with_a_revoked_member_token_may_not,
);

async fn welcome_proves_the_realm_on_this_channel(via: Via) {
    let relay = Relay::start().await;
    let first = Wire::connect(&relay, via).await;
    let second = Wire::connect(&relay, via).await;
    assert_ne!(first.nonce, second.nonce, "every connection has its own nonce");
    let welcome = &first.welcome;
    let record = welcome.realm_record.verify(&relay.realm()).unwrap();
    assert!(record.lists(&welcome.signing_key, u32::from(valise::relay::today())));
    let statement =
        statement::welcome(&relay.realm(), &first.channel, &first.nonce, &welcome.versions, 0);
    assert!(welcome.signing_key.verifies(&statement, &welcome.signature));
}

async fn hello_opens(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::connect(&relay, via).await;
    wire.say(&hello()).await;
    wire.ping().await;
}

async fn hello_version_unsupported(via: Via) {
    let relay = Relay::start().await;
    for (version, features) in [(2, 0), (0, 0), (1, 1)] {
        let mut wire = Wire::connect(&relay, via).await;
        let hello = Hello { version, features, realm_epoch: 0, member_token: None };
        wire.say(&ClientPacket::Hello(hello)).await;
        wire.closed_with(CloseReason::VersionUnsupported).await;
    }
}

async fn hello_twice_out_of_order(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    wire.say(&hello()).await;
    wire.closed_with(CloseReason::OutOfOrder).await;
}

async fn anything_before_hello_out_of_order(via: Via) {
    let relay = Relay::start().await;
    let mailbox = valise_client::OwnerKeyPair::generate().mailbox(&relay.realm());
    let token = |kind| relay.token(kind, &mailbox, 1);
    let (slot_token, take_token) = (token(TokenKind::Slot), token(TokenKind::Take));
    let (slot_id, put_id, request) = (slot_id(1), put_id(1), 1);
    let revoke = Revoke { request, attachment: 0, token: take_token };
    let put = PutSlot { request, slot_token, slot_id, put_id, payload: payload(1) };
    let publish = publication(0, 1, vec![payload(1)]);
    let packets = [
        ClientPacket::Ping { request },
        ClientPacket::Unknown,
        ClientPacket::Revoke(Box::new(revoke)),
        ClientPacket::PutSlot(Box::new(put)),
        ClientPacket::GetSlots { request, slot_ids: vec![slot_id] },
        ClientPacket::PublishBundle(Box::new(publish)),
        ClientPacket::TakeBundle { request, take_token },
    ];
    for packet in packets {
        let mut wire = Wire::connect(&relay, via).await;
        wire.say(&packet).await;
        wire.closed_with(CloseReason::OutOfOrder).await;
    }
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(wire.get([1]).await, [None], "nothing of it was carried out");
}

async fn ping_pong(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    for _ in 0..3 {
        wire.ping().await;
    }
    wire.say(&ClientPacket::Pong { request: 7 }).await;
    wire.ping().await;
}

/// Pings do not help a stranger: it must attach or post.
async fn establishment_timeout(via: Via) {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { establishment: ESTABLISHMENT, ..Patience::default() });
    let began = std::time::Instant::now();
    let mut wire = Wire::open(&relay, via).await;
    let mut pongs = 0;
    loop {
        match wire.receive_soon(ESTABLISHMENT / 20).await {
            None => wire.say(&ClientPacket::Ping { request: 1 }).await,
            Some(Some(ServerPacket::Pong { .. })) => pongs += 1,
            Some(Some(ServerPacket::Closing(reason))) => {
                assert_eq!(reason, Some(CloseReason::EstablishmentTimeout));
                break;
            }
            Some(other) => panic!("neither pong nor closed: {other:?}"),
        }
    }
    assert!(pongs > 0 && began.elapsed() >= ESTABLISHMENT, "{pongs} in {:?}", began.elapsed());
    assert_eq!(wire.receive_or_end().await, None);
}

async fn hello_with_a_member_token_may_wait(via: Via) {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { establishment: ESTABLISHMENT, ..Patience::default() });
    let owner = valise_client::OwnerKeyPair::generate();
    let mailbox = owner.mailbox(&relay.realm());
    let days = i32::try_from(TOKEN_DAYS_MAX).unwrap();
    let member = relay.token(TokenKind::Member, &mailbox, days);
    let mut wire = Wire::connect(&relay, via).await;
    let hello = Hello { version: 1, features: 0, realm_epoch: 0, member_token: Some(member) };
    wire.say(&ClientPacket::Hello(hello)).await;
    tokio::time::sleep(ESTABLISHMENT + ESTABLISHMENT / 10).await;
    wire.ping().await;
}

async fn hello_with_a_revoked_member_token_may_not(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    owner.revoke(mine.attachment, &mine.member).await;
    relay.running().set_patience(Patience { establishment: ESTABLISHMENT, ..Patience::default() });
    let mut wire = Wire::connect(&relay, via).await;
    let member_token = Some(mine.member);
    wire.say(&ClientPacket::Hello(Hello { version: 1, features: 0, realm_epoch: 0, member_token }))
        .await;
    wire.closed_with(CloseReason::EstablishmentTimeout).await;
}

#[tokio::test]
async fn the_negotiated_group_is_the_hybrid() {
    let relay = Relay::start().await;
    let tcp = tokio::net::TcpStream::connect(relay.socket()).await.unwrap();
    let tls = tls(tcp, valise_proto::ALPN).await.unwrap();
    let group = tls.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
}

/// A ClientHello that offers TLS 1.2 alone is answered by an alert, not by a handshake.
#[tokio::test]
async fn tls_1_2_is_refused() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let relay = Relay::start().await;
    let mut tcp = tokio::net::TcpStream::connect(relay.socket()).await.unwrap();
    let mut hello = vec![0x03, 0x03];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let extensions = [
        &[0x00, 0x0a, 0, 4, 0, 2, 0, 0x17][..],
        &[0x00, 0x0d, 0, 4, 0, 2, 4, 3],
        &[0x00, 0x0b, 0, 2, 1, 0],
    ]
    .concat();
    hello.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    hello.extend(extensions);
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend(u16::try_from(hello.len() + 4).unwrap().to_be_bytes());
    record.extend([1, 0]);
    record.extend(u16::try_from(hello.len()).unwrap().to_be_bytes());
    record.extend(hello);
    tcp.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    // An alert record (21) of level fatal (2), protocol_version (70): RFC 8446, section 6.
    assert_eq!(answer[0], 21);
    assert_eq!(&answer[answer.len() - 2..], &[2, 70]);
    relay.until_closed("tls_failed", 1.0).await;
}

#[tokio::test]
async fn a_page_says_what_this_host_is() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let relay = Relay::start().await;
    let pages = [
        ("GET", "/", "200"),
        ("GET", "/.well-known/valise", "200"),
        ("GET", "/.well-known/security.txt", "404"),
        ("GET", "/v1/relay", "426"),
        ("GET", "/v1/frames", "404"),
        ("POST", "/", "405"),
    ];
    for (method, path, status) in pages {
        let tcp = tokio::net::TcpStream::connect(relay.socket()).await.unwrap();
        let mut tls = tls(tcp, b"http/1.1").await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await.unwrap();
        assert_eq!(&answer[9..12], status, "{method} {path}");
    }
}
