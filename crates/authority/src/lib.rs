//! A certificate authority for as long as a test or a load lasts: it knows the NATS servers of a data
//! centre and those who are on them, as `deploy/certificates.sh` makes one for good. Its certificates
//! prove nothing to anybody else, and all files go with it.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// The authority, and the directory with all it has made.
pub struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Where a certificate and its key are, both as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A name that none can have, or no key.
    #[error("certificates cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Nothing can be written to the system's temporary directory.
    #[error("files cannot be written: {0}")]
    File(#[from] io::Error),
}

impl Authority {
    /// A new one, which nobody knows.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn new() -> Result<Self, AuthorityError> {
        let directory = tempfile::Builder::new().prefix("valise-authority-").tempdir()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self { directory, issuer };
        std::fs::write(authority.ca(), authority.issuer.pem())?;
        Ok(authority)
    }

    /// Its own certificate, by which the others are known.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate for these DNS names and IP addresses. The files have the first one's name; another
    /// certificate for it replaces them.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn certificate<S: AsRef<str>>(&self, names: &[S]) -> Result<Files, AuthorityError> {
        let names: Vec<String> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        let file = names.first().map_or("nobody", String::as_str);
        let [certificate, key] =
            ["crt", "key"].map(|end| self.directory.path().join(format!("{file}.{end}")));
        let pair = KeyPair::generate()?;
        let signed = CertificateParams::new(names)?.signed_by(&pair, &self.issuer)?;
        std::fs::write(&certificate, signed.pem())?;
        std::fs::write(&key, pair.serialize_pem())?;
        Ok(Files { certificate, key })
    }

    /// What the configuration of `deploy/nats` wants to know of a server with this certificate: names of
    /// variables, and values as the configuration quotes them.
    pub fn of_server(&self, server: &Files) -> Vec<(&'static str, String)> {
        let quoted = |path: &Path| format!("\"{}\"", path.display());
        vec![
            ("VALISE_NATS_CA", quoted(&self.ca())),
            ("VALISE_NATS_CERTIFICATE", quoted(&server.certificate)),
            ("VALISE_NATS_KEY", quoted(&server.key)),
        ]
    }

    /// The lines of a relay's section `[cluster]` by which it shows this certificate.
    pub fn of_relay(&self, relay: &Files) -> String {
        let Files { certificate, key } = relay;
        format!("ca = {:?}\ncertificate = {certificate:?}\nkey = {key:?}\n", self.ca())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_there_as_long_as_the_authority() {
        let authority = Authority::new().expect("is made");
        let relay = authority.certificate(&["valise-relay"]).expect("is signed");
        let server = authority.certificate(&["localhost", "127.0.0.1"]).expect("is signed");
        assert_ne!(relay, server);
        let pem = std::fs::read_to_string(&relay.certificate).expect("is there");
        assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
        let lines = authority.of_relay(&relay);
        assert!(lines.contains("ca.pem") && lines.contains("valise-relay.key"), "{lines}");
        let variables = authority.of_server(&server);
        assert!(variables[1].1.ends_with("localhost.crt\""), "{variables:?}");
        drop(authority);
        assert!(!relay.key.exists());
    }

    #[test]
    fn a_name_that_none_can_have_is_refused() {
        let authority = Authority::new().expect("is made");
        let error = authority.certificate(&["käse"]).expect_err("is no DNS name");
        assert!(matches!(error, AuthorityError::Certificate(_)), "{error}");
    }
}
