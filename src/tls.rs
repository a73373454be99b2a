//! TLS 1.3 and nothing else: hybrid key exchange preferred, no tickets, no early data, no key log.
//! The rest of the relay sees an [`Encrypted`] stream and the channel it is bound to.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{NamedGroup, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use valise_proto::{ALPN, Channel};

/// A stream after its handshake.
pub type Encrypted = TlsStream<TcpStream>;

/// Where a certificate comes from. PEM files both; the certificate file holds the chain, leaf first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain.
    pub certificate: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
}

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; check tls.certificate and tls.key")]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: rustls::pki_types::pem::Error,
    },
    /// The chain has no certificate.
    #[error("{0} holds no certificate in PEM form")]
    Empty(PathBuf),
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("{path} cannot be used: {source}; the key must belong to the first certificate")]
    Unusable {
        /// The certificate file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The leaf cannot be parsed.
    #[error("the certificate in {0} cannot be parsed")]
    Parse(PathBuf),
}

/// The certificate in force. A connection takes it once, so it knows which one it was served.
pub struct Tls {
    files: CertificateFiles,
    current: ArcSwap<Served>,
}

struct Served {
    config: Arc<ServerConfig>,
    channel: Channel,
    not_after_unix: i64,
}

impl Tls {
    /// Loads the certificate.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn load(files: CertificateFiles) -> Result<Self, TlsError> {
        let served = Served::load(&files)?;
        Ok(Self { files, current: ArcSwap::from_pointee(served) })
    }

    /// Loads the files again. Connections keep what they were served; new ones get the new one.
    ///
    /// # Errors
    /// [`TlsError`]; the certificate in force then stays in force.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(Served::load(&self.files)?));
        Ok(())
    }

    /// When the certificate in force ends, in seconds since 1970-01-01.
    pub fn not_after_unix(&self) -> i64 {
        self.current.load().not_after_unix
    }

    /// The handshake of one connection. Not cancel-safe: a cancelled one has lost its connection.
    ///
    /// # Errors
    /// The peer's or the network's fault.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<(Encrypted, Channel)> {
        let served = self.current.load_full();
        let stream = TlsAcceptor::from(Arc::clone(&served.config)).accept(tcp).await?;
        Ok((stream, served.channel))
    }
}

impl Served {
    fn load(files: &CertificateFiles) -> Result<Self, TlsError> {
        let path = &files.certificate;
        let chain = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|source| TlsError::Read { path: path.clone(), source })?;
        let leaf = chain.first().ok_or_else(|| TlsError::Empty(path.clone()))?;
        let channel = Channel::of_certificate(leaf);
        let not_after_unix = not_after(leaf).ok_or_else(|| TlsError::Parse(path.clone()))?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|source| TlsError::Read { path: files.key.clone(), source })?;
        let config = config(chain, key)
            .map_err(|source| TlsError::Unusable { path: path.clone(), source })?;
        Ok(Self { config: Arc::new(config), channel, not_after_unix })
    }
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut provider = default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519];
    provider.cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The name of the key exchange a stream negotiated.
pub fn group_name(stream: &Encrypted) -> &'static str {
    let group = stream.get_ref().1.negotiated_key_exchange_group();
    match group.map(rustls::crypto::SupportedKxGroup::name) {
        Some(NamedGroup::X25519MLKEM768) => "X25519MLKEM768",
        Some(NamedGroup::X25519) => "X25519",
        _ => "other",
    }
}

/// The end of a certificate's validity.
fn not_after(leaf: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
