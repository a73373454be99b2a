//! A certificate for a relay on this machine: a CA and one leaf for localhost, made once. It is for
//! browsers and curl; Valise's own clients trust the realm, not a CA (certs/README.md).
//!
//! The CA's key is used for the one leaf and then forgotten, so nobody can sign with it, and its
//! name constraints let it speak for this machine only. Renewal makes both anew.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::{IdentityError, StateDirectory};

/// The development CA's certificate, in the state directory.
pub const DEVELOPMENT_CA: &str = "dev-ca.pem";

/// The certificate signed by it, in the state directory.
pub const DEVELOPMENT_LEAF: &str = "dev-leaf.pem";

/// That certificate's private key, in the state directory.
pub const DEVELOPMENT_LEAF_KEY: &str = "dev-leaf.key";

/// What this machine is called by itself.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const DAY: Duration = Duration::from_secs(86_400);

/// Below the 398 days that browsers accept.
const VALID: Duration = Duration::from_secs(365 * DAY.as_secs());

/// A certificate with less than this left is made anew.
const RENEWAL: Duration = Duration::from_secs(30 * DAY.as_secs());

/// Makes the development certificate unless there is one that is good for another 30 days. Returns
/// the path of its CA.
///
/// # Errors
/// [`IdentityError::State`] if a file cannot be read or written, or is open to other users.
pub fn development_certificate(directory: &StateDirectory) -> Result<PathBuf, IdentityError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ensure(directory, now)
}

/// `now` is the time since 1970-01-01.
fn ensure(directory: &StateDirectory, now: Duration) -> Result<PathBuf, IdentityError> {
    let [ca, leaf, key] = [DEVELOPMENT_CA, DEVELOPMENT_LEAF, DEVELOPMENT_LEAF_KEY]
        .map(|name| directory.read(name).map(Option::unwrap_or_default));
    if !is_good(&ca?, &leaf?, &key?, now + RENEWAL) {
        let made = Made::new(now);
        directory.write(DEVELOPMENT_LEAF_KEY, made.leaf_key.as_bytes())?;
        directory.write(DEVELOPMENT_LEAF, made.leaf.as_bytes())?;
        directory.write(DEVELOPMENT_CA, made.ca.as_bytes())?;
    }
    Ok(directory.file(DEVELOPMENT_CA))
}

/// Whether the leaf is the CA's, names this machine, lasts until then, and has this key. Whatever
/// is missing or damaged is not good, and is made again.
fn is_good(ca: &[u8], leaf: &[u8], key: &[u8], until: Duration) -> bool {
    let (Ok(ca), Ok(leaf), Ok(key)) = (
        CertificateDer::from_pem_slice(ca),
        CertificateDer::from_pem_slice(leaf),
        PrivateKeyDer::from_pem_slice(key),
    ) else {
        return false;
    };
    let provider = default_provider();
    let mut roots = RootCertStore::empty();
    let Ok(parsed) = ParsedCertificate::try_from(&leaf) else { return false };
    roots.add(ca).is_ok()
        && verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            &[],
            UnixTime::since_unix_epoch(until),
            provider.signature_verification_algorithms.all,
        )
        .is_ok()
        && NAMES.iter().all(|name| {
            let name = ServerName::try_from(*name).expect("these names are well formed");
            verify_server_name(&parsed, &name).is_ok()
        })
        && CertifiedKey::from_der(vec![leaf.clone()], key, &provider).is_ok()
}

/// In PEM, all three.
struct Made {
    ca: String,
    leaf: String,
    leaf_key: String,
}

impl Made {
    fn new(now: Duration) -> Self {
        const WHY: &str = "names and keys of our own make a certificate";
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect(WHY);
        let ca = CertifiedIssuer::self_signed(ca_params(now), key()).expect(WHY);
        let leaf_key = key();
        let leaf = leaf_params(now).signed_by(&leaf_key, &ca).expect(WHY);
        Self { ca: ca.pem(), leaf: leaf.pem(), leaf_key: leaf_key.serialize_pem() }
    }
}

fn ca_params(now: Duration) -> CertificateParams {
    // Two CAs of one name, the old and the new, would be confused by who has both.
    let mut number = [0; 4];
    rand::fill(&mut number).expect("the system's random source works");
    let name = format!("Valise development CA {:08x}", u32::from_be_bytes(number));
    let mut params = params(&name, now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("localhost".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([127, 0, 0, 0], [255, 0, 0, 0])),
            GeneralSubtree::IpAddress(CidrSubnet::V6(
                std::net::Ipv6Addr::LOCALHOST.octets(),
                [0xff; 16],
            )),
        ],
        excluded_subtrees: Vec::new(),
    });
    params
}

fn leaf_params(now: Duration) -> CertificateParams {
    let mut params = params("Valise development relay", now);
    params.subject_alt_names = CertificateParams::new(NAMES.map(str::to_owned))
        .expect("these names are well formed")
        .subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn params(common_name: &str, now: Duration) -> CertificateParams {
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // A day of grace for clocks that are behind ours.
    params.not_before = epoch + now.saturating_sub(DAY);
    params.not_after = epoch + now + VALID;
    params
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn directory() -> (tempfile::TempDir, StateDirectory) {
        let dir = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(dir.path()).unwrap();
        (dir, directory)
    }

    fn files(directory: &StateDirectory) -> [Vec<u8>; 3] {
        [DEVELOPMENT_CA, DEVELOPMENT_LEAF, DEVELOPMENT_LEAF_KEY]
            .map(|name| directory.read(name).unwrap().unwrap())
    }

    #[test]
    fn it_is_made_once_and_lasts_a_year() {
        let (_dir, directory) = directory();
        assert_eq!(ensure(&directory, NOW).unwrap(), directory.file(DEVELOPMENT_CA));
        let made = files(&directory);
        let good = |at| is_good(&made[0], &made[1], &made[2], at);
        assert!(good(NOW) && good(NOW + VALID - DAY));
        assert!(!good(NOW + VALID + DAY));
        assert!(!good(NOW - DAY - DAY));
        ensure(&directory, NOW + VALID - RENEWAL - DAY).unwrap();
        assert_eq!(files(&directory), made);
    }

    #[test]
    fn it_is_renewed_with_less_than_thirty_days_left() {
        let (_dir, directory) = directory();
        ensure(&directory, NOW).unwrap();
        let made = files(&directory);
        let later = NOW + VALID - RENEWAL + DAY;
        ensure(&directory, later).unwrap();
        let [ca, leaf, key] = files(&directory);
        assert!(ca != made[0] && leaf != made[1] && key != made[2]);
        assert!(is_good(&ca, &leaf, &key, later + RENEWAL));
    }

    #[test]
    fn whatever_is_missing_damaged_or_mixed_is_made_again() {
        let (_other_dir, other) = directory();
        ensure(&other, NOW).unwrap();
        for name in [DEVELOPMENT_CA, DEVELOPMENT_LEAF, DEVELOPMENT_LEAF_KEY] {
            let foreign = other.read(name).unwrap().unwrap();
            for content in [&b""[..], b"no PEM", &foreign] {
                let (_dir, directory) = directory();
                ensure(&directory, NOW).unwrap();
                directory.write(name, content).unwrap();
                ensure(&directory, NOW).unwrap();
                let [ca, leaf, key] = files(&directory);
                assert!(is_good(&ca, &leaf, &key, NOW + RENEWAL), "{name}");
            }
        }
    }

    #[test]
    fn its_key_is_for_its_owner_alone_and_the_ca_key_is_nowhere() {
        let (dir, directory) = directory();
        development_certificate(&directory).unwrap();
        let mut names = Vec::new();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        assert_eq!(names, [DEVELOPMENT_CA, DEVELOPMENT_LEAF_KEY, DEVELOPMENT_LEAF, "lock"]);
        fs::set_permissions(
            dir.path().join(DEVELOPMENT_LEAF_KEY),
            PermissionsExt::from_mode(0o644),
        )
        .unwrap();
        assert!(matches!(development_certificate(&directory), Err(IdentityError::State(_))));
    }

    #[test]
    fn the_ca_speaks_for_this_machine_only() {
        let ca = CertifiedIssuer::self_signed(
            ca_params(NOW),
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        )
        .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        for (name, allowed) in
            [("localhost", true), ("127.9.9.9", true), ("example.org", false), ("192.0.2.1", false)]
        {
            let mut params = leaf_params(NOW);
            params.subject_alt_names =
                CertificateParams::new([name.to_owned()]).unwrap().subject_alt_names;
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let leaf = params.signed_by(&key, &ca).unwrap();
            let verified = verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(leaf.der()).unwrap(),
                &roots,
                &[],
                UnixTime::since_unix_epoch(NOW),
                default_provider().signature_verification_algorithms.all,
            );
            assert_eq!(verified.is_ok(), allowed, "{name}: {verified:?}");
        }
    }
}
