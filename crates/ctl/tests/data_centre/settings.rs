//! Servers that are set up otherwise, and who may ask them.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use valise_client::testing::{NatsPlan, common_configuration};

use crate::tool::{Checked, check, servers, tool};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_by_which_frames_are_lost_or_seen_are_found() {
    // The second server syncs later, and all have an account that hears what is pushed.
    let spied = common_configuration()
        .replace(
            "users: [ { user: \"valise-relay\" } ]",
            "users: [ { user: \"valise-relay\" } ]\n    exports: [ { stream: \"live.>\" } ]",
        )
        .replace(
            "  RELAY {",
            "  SPY {\n    users: [ { user: \"spy\" } ]\n    imports: [ { stream: { account: RELAY, \
             subject: \"live.>\" } } ]\n  }\n  RELAY {",
        );
    assert!(spied.contains("SPY") && spied.contains("exports: [ { stream"), "{spied}");
    let lazy = spied.replace("sync_interval: always", "sync_interval: \"2m\"");
    let common = Some([spied.clone(), lazy, spied]);
    let Some(nats) = servers(NatsPlan { common, ..NatsPlan::default() }) else { return };
    let spy = async_nats::ConnectOptions::with_user_and_password("spy".into(), String::new());
    let spy = spy.name("spy").connect(nats.urls()).await.unwrap();
    let subscription = spy.subscribe("live.>").await.unwrap();
    spy.flush().await.unwrap();
    // Servers that have just started on a busy machine may leave a question without an answer: all is found
    // in one check, and nobody says in which.
    let wrong = [
        ("server_setting", "n1: sync_interval"),
        ("account_setting", "n0: exports"),
        ("account_setting", "n2: exports"),
        ("foreign_account", "SPY"),
        ("foreign_connection", "spy"),
        ("foreign_subscription", "live.>"),
        // No relay has ever been there.
        ("stream_missing", "streams"),
    ];
    let checked = crate::tool::until(&nats, "what is wrong is found", |checked| {
        wrong.iter().all(|(kind, subject)| checked.has(kind, subject))
    });
    assert!(!checked.has("server_setting", "n0"), "{checked:#?}");
    drop((subscription, spy));
}

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
        std::fs::write(directory.path().join("ca"), authority.pem()).unwrap();
        Self { directory, authority }
    }

    fn make(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let path = |end| self.directory.path().join(format!("{file}.{end}"));
        std::fs::write(path("crt"), certificate.pem()).unwrap();
        std::fs::write(path("private"), key.serialize_pem()).unwrap();
        (path("crt"), path("private"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_is_known_by_his_certificate() {
    let files = Files::new();
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    let (certificate, key) = files.make("server", &["localhost", "127.0.0.1"]);
    let ca = files.directory.path().join("ca");
    let variables = vec![
        ("VALISE_NATS_CA", quoted(&ca)),
        ("VALISE_NATS_CERTIFICATE", quoted(&certificate)),
        ("VALISE_NATS_KEY", quoted(&key)),
    ];
    let plan = NatsPlan { deployed: true, variables, ..NatsPlan::default() };
    let Some(nats) = servers(plan) else { return };
    let with = |(certificate, key): (PathBuf, PathBuf)| {
        let mut command = tool();
        command.args(["check", "cluster", "--json", "--cluster", &nats.urls().join(",")]);
        command.arg("--operator-certificate").arg(certificate).arg("--operator-key").arg(key);
        Checked::of(&command.arg("--ca").arg(&ca).output().unwrap())
    };
    let operator = files.make("operator", &["valise-operator"]);
    let give_up = std::time::Instant::now() + crate::tool::PATIENCE;
    loop {
        let checked = with(operator.clone());
        let kinds: Vec<String> = checked.found().into_iter().map(|(kind, _)| kind).collect();
        // Only what a relay would make is missing.
        if kinds == ["stream_missing"] {
            break;
        }
        assert!(std::time::Instant::now() < give_up, "{checked:#?}");
    }
    let relay = with(files.make("relay", &["valise-relay"]));
    assert_eq!(relay.code, 78, "{relay:#?}");
    assert!(relay.said.contains("is not an operator's"), "{}", relay.said);
    let stranger = with(files.make("stranger", &["somebody"]));
    assert_eq!(stranger.code, 77, "{stranger:#?}");
    let without = check(&nats, &[]);
    assert_eq!(without.code, 78, "{without:#?}");
    assert!(without.said.contains("--ca"), "{}", without.said);
}
