//! The importer's user on the servers, as `valisectl migrate user` prints it: enough for a migration, and
//! nothing for another realm. With mutual TLS, as deployed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use valise_client::testing::{NatsPlan, TestNats, common_configuration};

use crate::stage::{Bus, Stage, said};
use crate::tool::{servers, tool};
use crate::users::User;

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

    /// The files of a certificate and of its key.
    fn make(&self, names: &[&str]) -> [PathBuf; 2] {
        let file = names[0];
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let paths = ["crt", "key"].map(|end| self.directory.path().join(format!("{file}.{end}")));
        std::fs::write(&paths[0], certificate.pem()).unwrap();
        std::fs::write(&paths[1], key.serialize_pem()).unwrap();
        paths
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Servers that know this importer's user.
    fn servers(&self, entry: &str) -> Option<TestNats> {
        let [certificate, key] = self.make(&["localhost", "127.0.0.1"]);
        let quoted = |path: &Path| format!("\"{}\"", path.display());
        let relay = "{ user: \"valise-relay\" }";
        let both = format!("users: [ {relay}, {} ]", entry.trim());
        let common = common_configuration().replace(&format!("users: [ {relay} ]"), &both);
        assert!(common.contains("valise-importer"));
        let plan = NatsPlan {
            deployed: true,
            variables: vec![
                ("VALISE_NATS_CA", quoted(&self.ca())),
                ("VALISE_NATS_CERTIFICATE", quoted(&certificate)),
                ("VALISE_NATS_KEY", quoted(&key)),
            ],
            common: Some(std::array::from_fn(|_| common.clone())),
            ..NatsPlan::default()
        };
        servers(plan)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_importer_is_confined_to_its_realm() {
    // Without servers there is nothing to test; whoever has them says so once.
    if valise_client::testing::nats_binary().is_none() {
        drop(servers(NatsPlan::default()));
        return;
    }
    let files = Files::new();
    let [relay, importer] = [files.make(&["valise-relay"]), files.make(&["valise-importer"])];
    let stage = Stage::with(|realm| {
        let entry = tool().args(["migrate", "user", "--realm", realm]).output().unwrap();
        assert!(entry.status.success(), "{}", said(&entry));
        let nats = files.servers(&String::from_utf8(entry.stdout).unwrap()).unwrap();
        let ca = files.ca();
        let more = format!("ca = {ca:?}\ncertificate = {:?}\nkey = {:?}\n", relay[0], relay[1]);
        let option = |name: &str, path: &Path| [format!("--{name}"), path.display().to_string()];
        let options = [
            option("ca", &ca),
            option("certificate", &importer[0]),
            option("certificate-key", &importer[1]),
        ];
        Bus { nats: nats.into(), more, certificate: options.concat() }
    });
    let mut user = User::join(&stage.supernode, 1).await;
    user.fill(&stage.supernode, 30).await;
    let planned = stage.plan();
    assert!(planned.status.success(), "{}", said(&planned));
    let mut moving = stage.import();
    moving.until("everything has moved", |said| said["shards"]["moved"] == 256);
    user.finds_everything(&stage.node, 0..30).await;

    // As the importer, but elsewhere.
    let connect = async_nats::ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(files.ca())
        .add_client_certificate(importer[0].clone(), importer[1].clone())
        .request_timeout(Some(Duration::from_secs(2)));
    let client = connect.connect(stage.nats.urls()).await.unwrap();
    let elsewhere = format!("m.{}.13.{}.f", "09".repeat(20), "01".repeat(16));
    client.request(elsewhere, "x".into()).await.unwrap_err();
    let mut everything = client.subscribe("live.>").await.unwrap();
    client.flush().await.unwrap();
    user.fill_frames(&stage.node, 30, 33).await;
    let heard = futures_util::StreamExt::next(&mut everything);
    let heard = tokio::time::timeout(Duration::from_secs(2), heard).await;
    assert!(!matches!(heard, Ok(Some(_))), "it hears what is stored");
}
