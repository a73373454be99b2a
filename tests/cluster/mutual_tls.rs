//! Mutual TLS between relays and servers, with the configuration that is deployed.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use valise::app::{Running, StartError};
use valise::config::{Config, Layer, Surroundings};

use valise_client::testing::NatsPlan;

use crate::nats;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload};

/// A certificate authority, and whom it knows.
struct Files {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        Self { directory, authority }
    }

    fn make(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let [cert, private] =
            ["crt", "key"].map(|end| self.directory.path().join(format!("{file}.{end}")));
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        (cert, private)
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }
}

fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_and_its_servers_know_each_other() {
    let files = Files::new();
    let (certificate, key) = files.make("server", &["localhost", "127.0.0.1"]);
    let variables = vec![
        ("VALISE_NATS_CA", quoted(&files.ca())),
        ("VALISE_NATS_CERTIFICATE", quoted(&certificate)),
        ("VALISE_NATS_KEY", quoted(&key)),
    ];
    let plan = NatsPlan { deployed: true, variables, ..NatsPlan::default() };
    let Some(nats) = nats::planned(plan) else { return };
    let section = |certificate: &Path, key: &Path| {
        format!(
            "{}ca = {:?}\ncertificate = {certificate:?}\nkey = {key:?}\n",
            nats.section(),
            files.ca()
        )
    };
    let (certificate, key) = files.make("relay", &["valise-relay"]);
    let section_of_relay = section(&certificate, &key);
    let relay = Relay::on_servers(tempfile::tempdir().unwrap(), &section_of_relay).await;
    let (mut owner, mine) = Wire::serve(&relay, Via::Raw).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    sender.post(1, &[mine.capability], payload(1)).await;
    assert_eq!(owner.delivered().await.payload, payload(1));

    // Somebody else's certificate is no relay's, and none is none.
    let (certificate, key) = files.make("stranger", &["somebody"]);
    assert!(matches!(refused(&section(&certificate, &key)).await, StartError::Cluster(_)));
    let strangers = Files::new();
    let (certificate, key) = strangers.make("relay", &["valise-relay"]);
    assert!(matches!(refused(&section(&certificate, &key)).await, StartError::Cluster(_)));
    assert!(matches!(refused(&nats.section()).await, StartError::Cluster(_)));
}

async fn refused(section: &str) -> StartError {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("valise.toml");
    std::fs::write(&file, section).unwrap();
    let mut flags = Layer::default();
    flags.relay.listen = Some(vec!["127.0.0.1:0".to_owned()]);
    flags.relay.state_directory = Some(directory.path().join("state").display().to_string());
    flags.admin.listen = Some("off".to_owned());
    let surroundings = Surroundings { variables: Vec::new(), descriptors: 4_096 };
    let config = Config::load(Some(&file), flags, &surroundings).unwrap();
    match Running::start(&config).await {
        Err(error) => error,
        Ok(_) => panic!("it started"),
    }
}
