//! Who may speak on the migration's port: a supernode and an importer know each other by the SHA-256 of
//! their public keys, and by nothing else. TLS 1.3 only, both sides show a certificate, and each proves
//! in the handshake that it has the key of it. Names, dates and issuers of certificates mean nothing.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName as Issuer, OtherError, ServerConfig,
    SignatureScheme,
};

/// The file of a supernode's key in its state directory.
pub const KEY_FILE: &str = "migration.pem";

/// What is spoken on the port, for ALPN.
const PROTOCOL: &[u8] = b"valise-migration/1";

/// SHA-256 of a certificate's `SubjectPublicKeyInfo`; in hex where people see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a certificate.
    ///
    /// # Errors
    /// [`PinError::Unreadable`].
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PinError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| PinError::Unreadable)?;
        let hash = digest(&SHA256, parsed.public_key().raw);
        Ok(Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes")))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(PinError::NoPin)
    }
}

/// Why a peer is not the one that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Another key.
    #[error("the peer has the key {shown}, and {pinned} is pinned")]
    Other {
        /// What it has shown.
        shown: Pin,
        /// Whom it should have been.
        pinned: Pin,
    },
    /// No certificate that can be read.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// Not the text of a pin.
    #[error("a pin is 64 hex digits: SHA-256 of a public key")]
    NoPin,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system refuses.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Others could read it.
    #[error("{} has mode {mode:04o}: others could read the key; chmod go= it", .path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It does not hold a certificate and its key.
    #[error(
        "{} does not hold a private key and its certificate in PEM; restore it from a backup, or \
         remove it: another key is made then, with another pin", .0.display()
    )]
    Damaged(PathBuf),
}

/// A key and its certificate, which nobody has signed but itself.
pub struct PeerKey {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pin: Pin,
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({}, redacted)", self.pin)
    }
}

impl PeerKey {
    /// The key in this file, which is made, of mode 0600, where there is none. Safe beside another
    /// process that does the same: both have one key then.
    ///
    /// # Errors
    /// [`KeyError`] says what to do.
    pub fn open_or_make(path: &Path) -> Result<Self, KeyError> {
        if let Some(key) = Self::open(path)? {
            return Ok(key);
        }
        make(path)?;
        Self::open(path)?.ok_or_else(|| KeyError::Damaged(path.into()))
    }

    /// The key in this file, if it is there.
    ///
    /// # Errors
    /// [`KeyError`] says what to do.
    pub fn open(path: &Path) -> Result<Option<Self>, KeyError> {
        let failed = |source| KeyError::File { path: path.into(), action: "read", source };
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::OpenToOthers { path: path.into(), mode });
        }
        let mut pem = Vec::new();
        file.read_to_end(&mut pem).map_err(failed)?;
        let damaged = || KeyError::Damaged(path.into());
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(|_| damaged())?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| damaged())?;
        let pin = Pin::of(&certificate).map_err(|_| damaged())?;
        let peer = Self { certificate, key, pin };
        // Whether the two belong together.
        server_config(&peer, &pin).map_err(|_| damaged())?;
        Ok(Some(peer))
    }

    /// What the other side has to know of it.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.certificate.clone()], self.key.clone_key())
    }
}

fn make(path: &Path) -> Result<(), KeyError> {
    const WHY: &str = "a name and a key of our own make a certificate";
    let failed = |action| move |source| KeyError::File { path: path.into(), action, source };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect(WHY);
    let mut params = CertificateParams::new([]).expect(WHY);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "valise migration");
    let certificate = params.self_signed(&key).expect(WHY);
    let text = format!("{}{}", key.serialize_pem(), certificate.pem());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    // A temporary file is made with mode 0600.
    let made = tempfile::Builder::new().prefix(".new-").tempfile_in(directory);
    let mut made = made.map_err(failed("make a file beside"))?;
    made.write_all(text.as_bytes()).map_err(failed("write"))?;
    made.as_file().sync_all().map_err(failed("sync"))?;
    match made.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("make")(error.error))
        }
        // Somebody else has made one just now, or this is it.
        _ => File::open(directory).and_then(|at| at.sync_all()).map_err(failed("sync")),
    }
}

/// TLS for a supernode that lets this importer in and nobody else.
///
/// # Errors
/// rustls', where key and certificate do not belong together.
pub fn server_config(own: &PeerKey, importer: &Pin) -> Result<ServerConfig, rustls::Error> {
    let (provider, (chain, key)) = (provider(), own.chain());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Pinned { pin: *importer, provider }))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Each connection proves the keys itself.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// TLS for an importer that speaks to this supernode and to nobody else. What name it dials it by does
/// not matter.
///
/// # Errors
/// rustls', where key and certificate do not belong together.
pub fn client_config(own: &PeerKey, supernode: &Pin) -> Result<ClientConfig, rustls::Error> {
    let (provider, (chain, key)) = (provider(), own.chain());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { pin: *supernode, provider }))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// Hybrid key exchange first, as for clients: what is moved is ciphertext, but who has it is not.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519];
    Arc::new(provider)
}

/// Compares the pin, and leaves the proof that the peer has the key to rustls.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let pinned = self.pin;
        let judged = Pin::of(certificate).and_then(|shown| {
            if shown == pinned { Ok(()) } else { Err(PinError::Other { shown, pinned }) }
        });
        judged.map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    /// TLS 1.2 is not offered: nobody comes here.
    fn refuse() -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::refuse()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[Issuer] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::refuse()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

#[cfg(test)]
mod tests;
