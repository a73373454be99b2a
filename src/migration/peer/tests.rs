//! Real TLS between a supernode and whoever comes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

fn key() -> PeerKey {
    let place = tempfile::tempdir().unwrap();
    PeerKey::open_or_make(&place.path().join("key.pem")).unwrap()
}

/// What each side makes of the other: the first byte of either arrives, or an error does.
async fn meet(server: ServerConfig, client: ClientConfig) -> [Result<(), String>; 2] {
    let (near, far) = tokio::io::duplex(1 << 16);
    let serve = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        stream.write_all(&[1]).await?;
        stream.flush().await?;
        stream.read_u8().await.map(drop)
    };
    let name = ServerName::try_from("somewhere.example").unwrap();
    let dial = async {
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
        stream.write_all(&[1]).await?;
        stream.flush().await?;
        stream.read_u8().await.map(drop)
    };
    let (served, dialled): (io::Result<()>, io::Result<()>) = tokio::join!(serve, dial);
    [served, dialled].map(|end| end.map_err(|error| error.to_string()))
}

#[tokio::test]
async fn who_is_pinned_meets() {
    let (supernode, importer) = (key(), key());
    let server = server_config(&supernode, &importer.pin()).unwrap();
    let client = client_config(&importer, &supernode.pin()).unwrap();
    assert_eq!(meet(server, client).await, [Ok(()), Ok(())]);
}

#[tokio::test]
async fn another_supernode_is_named_and_told_nothing() {
    let (supernode, importer, other) = (key(), key(), key());
    let server = server_config(&supernode, &importer.pin()).unwrap();
    let client = client_config(&importer, &other.pin()).unwrap();
    let [served, dialled] = meet(server, client).await;
    let dialled = dialled.unwrap_err();
    let expected =
        format!("the peer has the key {}, and {} is pinned", supernode.pin(), other.pin());
    assert!(dialled.contains(&expected), "{dialled}");
    served.unwrap_err();
}

#[tokio::test]
async fn another_importer_is_named_and_let_out() {
    let (supernode, importer, other) = (key(), key(), key());
    let server = server_config(&supernode, &importer.pin()).unwrap();
    let client = client_config(&other, &supernode.pin()).unwrap();
    let [served, dialled] = meet(server, client).await;
    let served = served.unwrap_err();
    let expected =
        format!("the peer has the key {}, and {} is pinned", other.pin(), importer.pin());
    assert!(served.contains(&expected), "{served}");
    dialled.unwrap_err();
}

/// The right certificate in the hands of somebody who has not its key.
#[tokio::test]
async fn a_certificate_alone_is_worth_nothing() {
    let (supernode, importer, thief) = (key(), key(), key());
    let server = server_config(&supernode, &importer.pin()).unwrap();
    let mut client = client_config(&thief, &supernode.pin()).unwrap();
    let signer = default_provider().key_provider.load_private_key(thief.key.clone_key()).unwrap();
    let shown = rustls::sign::CertifiedKey::new(vec![importer.certificate.clone()], signer);
    client.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown));
    let [served, _] = meet(server, client).await;
    let served = served.unwrap_err();
    assert!(served.contains("invalid peer certificate"), "{served}");
}

#[tokio::test]
async fn who_shows_no_certificate_is_let_out() {
    let (supernode, importer) = (key(), key());
    let server = server_config(&supernode, &importer.pin()).unwrap();
    let mut client = client_config(&importer, &supernode.pin()).unwrap();
    client.client_auth_cert_resolver = Arc::new(NoCertificate);
    let [served, dialled] = meet(server, client).await;
    assert!(served.unwrap_err().contains("sent no certificates"));
    dialled.unwrap_err();
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let (supernode, importer) = (key(), key());
    let server = server_config(&supernode, &importer.pin()).unwrap();
    // The relay is built without TLS 1.2, so an old hello is written by hand: no extensions at all.
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let mut hello = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    hello.extend(body);
    near.write_all(&hello).await.unwrap();
    let refused = TlsAcceptor::from(Arc::new(server)).accept(far).await.err().unwrap().to_string();
    assert!(refused.contains("incompatible"), "{refused}");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_key_is_made_once_and_is_private() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("key.pem");
    assert!(PeerKey::open(&path).unwrap().is_none());
    let made = PeerKey::open_or_make(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(PeerKey::open_or_make(&path).unwrap().pin(), made.pin());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left beside it");
    let shown = format!("{made:?}");
    assert_eq!(shown, format!("PeerKey({}, redacted)", made.pin()));
    assert_eq!(made.pin().to_string().parse::<Pin>().unwrap(), made.pin());
    for wrong in ["", "0a", &format!("{}0", made.pin()), &"0g".repeat(32)] {
        assert_eq!(wrong.parse::<Pin>(), Err(PinError::NoPin), "{wrong}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(PeerKey::open(&path), Err(KeyError::OpenToOthers { mode: 0o640, .. })));
}

#[test]
fn what_is_damaged_is_not_replaced() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("key.pem");
    PeerKey::open_or_make(&path).unwrap();
    let one = fs::read_to_string(&path).unwrap();
    let other = place.path().join("other.pem");
    PeerKey::open_or_make(&other).unwrap();
    let two = fs::read_to_string(&other).unwrap();
    let (key, _) = one.split_at(one.find("-----BEGIN CERTIFICATE").unwrap());
    let (_, certificate) = two.split_at(two.find("-----BEGIN CERTIFICATE").unwrap());
    for damaged in ["", key, &format!("{key}{certificate}")] {
        fs::write(&path, damaged).unwrap();
        assert!(matches!(PeerKey::open_or_make(&path), Err(KeyError::Damaged(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    }
}
