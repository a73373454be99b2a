//! Through a SOCKS5 proxy: it resolves the name, and its refusals have their reasons.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use valise_client::proto::RelayAddress;
use valise_client::testing::TestRelay;
use valise_client::{ConnectError, Dial, SocksError, SocksProxy, TransportKind, connect};

/// What one client asked of the proxy.
#[derive(Debug, PartialEq)]
struct Asked {
    methods: Vec<u8>,
    login: Option<(String, String)>,
    host: String,
    port: u16,
}

/// What the proxy does.
#[derive(Clone, Copy)]
struct Manners {
    method: u8,
    login: u8,
    reply: u8,
}

const FRIENDLY: Manners = Manners { method: 0, login: 0, reply: 0 };

/// Serves one client and connects it to `relay`, whatever it asked for.
async fn proxy(manners: Manners, relay: u16) -> (u16, JoinHandle<Option<Asked>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), 5);
        let methods = bytes(&mut client).await;
        client.write_all(&[5, manners.method]).await.unwrap();
        let mut login = None;
        match manners.method {
            0 => {}
            2 => {
                // A client whose login does not fit leaves.
                let Ok(version) = client.read_u8().await else { return None };
                assert_eq!(version, 1);
                login = Some((text(&mut client).await, text(&mut client).await));
                client.write_all(&[1, manners.login]).await.unwrap();
            }
            _ => return None,
        }
        let mut head = [0; 4];
        client.read_exact(&mut head).await.ok()?;
        assert_eq!(head[..3], [5, 1, 0]);
        let host = match head[3] {
            1 => Ipv4Addr::from(client.read_u32().await.unwrap()).to_string(),
            3 => text(&mut client).await,
            other => panic!("address type {other}"),
        };
        let port = client.read_u16().await.unwrap();
        // The bound address may be a name, too.
        client.write_all(&[5, manners.reply, 0, 3, 1, b'x', 0, 1]).await.unwrap();
        if manners.reply == 0 {
            let mut relay = TcpStream::connect(("127.0.0.1", relay)).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut relay).await });
        }
        Some(Asked { methods, login, host, port })
    });
    (port, asked)
}

async fn bytes(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; client.read_u8().await.unwrap().into()];
    client.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn text(client: &mut TcpStream) -> String {
    String::from_utf8(bytes(client).await).unwrap()
}

fn through(relay: &RelayAddress, port: u16, credentials: Option<(&str, &str)>) -> Dial {
    let credentials = credentials.map(|(user, word)| (user.to_owned(), word.to_owned()));
    let proxy = SocksProxy { host: "127.0.0.1".to_owned(), port, credentials };
    let timeout = Duration::from_secs(5);
    Dial { proxy: Some(proxy), timeout, ..Dial::new(relay.clone()) }
}

#[tokio::test]
async fn the_proxy_resolves_the_name() {
    let relay = TestRelay::spawn().unwrap();
    let port = relay.address().port;
    // A name that no resolver here knows.
    let named = RelayAddress { host: "relay.invalid".to_owned(), ..relay.address().clone() };
    for transport in [TransportKind::Raw, TransportKind::WebSocket] {
        let (listens, asked) = proxy(FRIENDLY, port).await;
        let dial = Dial { transport, ..through(&named, listens, None) };
        let (connection, _incoming) = connect(&dial).await.unwrap();
        connection.ping().await.unwrap();
        let host = "relay.invalid".to_owned();
        let expected = Asked { methods: vec![0], login: None, host, port };
        assert_eq!(asked.await.unwrap(), Some(expected));
    }
}

#[tokio::test]
async fn a_proxy_may_ask_for_a_password() {
    let relay = TestRelay::spawn().unwrap();
    let port = relay.address().port;
    let (listens, asked) = proxy(Manners { method: 2, ..FRIENDLY }, port).await;
    let dial = through(relay.address(), listens, Some(("user", "word")));
    connect(&dial).await.unwrap().0.ping().await.unwrap();
    let login = Some(("user".to_owned(), "word".to_owned()));
    let host = "127.0.0.1".to_owned();
    assert_eq!(asked.await.unwrap(), Some(Asked { methods: vec![0, 2], login, host, port }));
}

#[tokio::test]
async fn what_the_proxy_refuses_is_named() {
    let relay = TestRelay::spawn().unwrap();
    let refused = async |manners, credentials| {
        let (listens, asked) = proxy(manners, 1).await;
        let error = connect(&through(relay.address(), listens, credentials)).await.err().unwrap();
        asked.await.unwrap();
        match error {
            ConnectError::Proxy(error) => error,
            other => panic!("not the proxy: {other}"),
        }
    };
    let login = Some(("user", "wrong"));
    let error = refused(Manners { method: 2, login: 1, ..FRIENDLY }, login).await;
    assert!(matches!(error, SocksError::Credentials), "{error}");
    let error = refused(Manners { method: 0xff, ..FRIENDLY }, login).await;
    assert!(matches!(error, SocksError::Method), "{error}");
    let error = refused(Manners { reply: 5, ..FRIENDLY }, None).await;
    assert!(matches!(error, SocksError::Reply(5)), "{error}");
    assert!(error.to_string().ends_with("connection refused"), "{error}");
    let long = "x".repeat(256);
    let error = refused(Manners { method: 2, ..FRIENDLY }, Some((&long, ""))).await;
    assert!(matches!(error, SocksError::TooLong), "{error}");
}
