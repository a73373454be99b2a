//! The certificate of a relay that was given none: a leaf for this machine's own names, signed by
//! a CA of its own. The CA's key signs once and is thrown away, so nobody can use it later.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::identity::{StateDirectory, StateError};
use crate::tls::{self, CertificateFiles};

/// Why there is no development certificate.
#[derive(Debug, thiserror::Error)]
pub enum DevelopmentError {
    /// It could not be made.
    #[error("cannot make a development certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// It could not be kept.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The development certificate and the CA to trust for it.
#[derive(Debug, Clone)]
pub struct Development {
    /// What the relay serves.
    pub files: CertificateFiles,
    /// The CA's certificate, in PEM form.
    pub ca: PathBuf,
}

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const CA: &str = "dev-ca.pem";
const LEAF: &str = "dev-leaf.pem";
const KEY: &str = "dev-leaf.key";
const DAY: Duration = Duration::from_secs(86_400);
const VALID: Duration = Duration::from_secs(365 * 86_400);
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// Makes the certificate, unless there is one that is good for another month.
///
/// # Errors
/// [`DevelopmentError`] when it cannot be made or written.
pub fn certificate(state: &StateDirectory) -> Result<Development, DevelopmentError> {
    let files = CertificateFiles { certificate: state.file(LEAF), key: state.file(KEY) };
    let development = Development { files, ca: state.file(CA) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let good_until = tls::not_after_of_file(&development.files.certificate).unwrap_or(0);
    let needed_until = i64::try_from((now + RENEW_BEFORE).as_secs()).unwrap_or(i64::MAX);
    if good_until < needed_until || !development.files.key.exists() || !development.ca.exists() {
        make(state, now)?;
    }
    Ok(development)
}

fn make(state: &StateDirectory, now: Duration) -> Result<(), DevelopmentError> {
    let epoch = date_time_ymd(1970, 1, 1);
    let (not_before, not_after) = (epoch + (now - DAY), epoch + (now + VALID));

    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, "Valise development CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (ca.not_before, ca.not_after) = (not_before, not_after);
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;

    let mut leaf = CertificateParams::new(NAMES.map(str::to_owned))?;
    leaf.distinguished_name.push(DnType::CommonName, "Valise development relay");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.use_authority_key_identifier_extension = true;
    (leaf.not_before, leaf.not_after) = (not_before, not_after);
    let leaf_key = KeyPair::generate()?;
    let leaf_certificate = leaf.signed_by(&leaf_key, &Issuer::new(ca, ca_key))?;

    // The key first: a leaf without its key would be taken for complete.
    state.write(KEY, leaf_key.serialize_pem().as_bytes())?;
    state.write(CA, ca_certificate.pem().as_bytes())?;
    state.write(LEAF, leaf_certificate.pem().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Tls;

    #[test]
    fn it_is_made_once_and_can_be_served() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(&directory.path().join("state")).unwrap();
        let development = certificate(&state).unwrap();
        let first = std::fs::read(&development.files.certificate).unwrap();
        Tls::load(development.files).unwrap();
        let again = certificate(&state).unwrap();
        assert_eq!(std::fs::read(&again.files.certificate).unwrap(), first);
        std::fs::remove_file(&again.ca).unwrap();
        let anew = certificate(&state).unwrap();
        assert_ne!(std::fs::read(&anew.files.certificate).unwrap(), first);
    }
}
