//! TLS as Valise uses it: version 1.3 only, X25519MLKEM768 first, no resumption, no early data, no
//! key log. The certificate names the channel and nothing else; trust comes from the realm, which
//! `opening` checks before anything is sent.

use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::TransportKind;

/// The TLS configuration of this library, for who speaks the protocol by hand. It takes every certificate: trust comes from
/// [`verify`](crate::verify), which has to follow. Shared: ten thousand connections have two of them.
pub fn config(transport: TransportKind) -> Arc<ClientConfig> {
    static RAW: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| build(valise_proto::ALPN));
    static WEBSOCKET: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| build(b"http/1.1"));
    match transport {
        TransportKind::Raw => RAW.clone(),
        TransportKind::WebSocket => WEBSOCKET.clone(),
    }
}

fn build(alpn: &[u8]) -> Arc<ClientConfig> {
    let provider = Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..default_provider()
    });
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Takes every certificate, but insists that the relay holds its private key: without that check
/// of the handshake's signature, a certificate could be copied and would name nothing.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Never offered; if it were reached all the same, it is refused.
        Err(rustls::Error::InvalidCertificate(CertificateError::BadSignature))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
