//! The importer's user on the servers, as `valisectl migrate user` prints it: enough for a migration, and
//! nothing for another realm. With mutual TLS, as deployed.

use std::path::Path;
use std::time::Duration;

use valise_authority::Authority;
use valise_client::testing::{NatsPlan, TestNats, common_configuration};

use crate::stage::{Bus, Stage, said};
use crate::tool::{servers, tool};
use crate::users::User;

/// Servers that know this importer's user.
fn servers_with(authority: &Authority, entry: &str) -> Option<TestNats> {
    let relay = "{ user: \"valise-relay\" }";
    let both = format!("users: [ {relay}, {} ]", entry.trim());
    let common = common_configuration().replace(&format!("users: [ {relay} ]"), &both);
    assert!(common.contains("valise-importer"));
    let server = authority.certificate(&["localhost", "127.0.0.1"]).unwrap();
    servers(NatsPlan {
        deployed: true,
        variables: authority.of_server(&server),
        common: Some(std::array::from_fn(|_| common.clone())),
        ..NatsPlan::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_importer_is_confined_to_its_realm() {
    // Without servers there is nothing to test; whoever has them says so once.
    if valise_client::testing::nats_binary().is_none() {
        drop(servers(NatsPlan::default()));
        return;
    }
    let authority = Authority::new().unwrap();
    let [relay, importer] =
        ["valise-relay", "valise-importer"].map(|name| authority.certificate(&[name]).unwrap());
    let stage = Stage::with(|realm| {
        let entry = tool().args(["migrate", "user", "--realm", realm]).output().unwrap();
        assert!(entry.status.success(), "{}", said(&entry));
        let nats = servers_with(&authority, &String::from_utf8(entry.stdout).unwrap()).unwrap();
        let more = authority.of_relay(&relay);
        let option = |name: &str, path: &Path| [format!("--{name}"), path.display().to_string()];
        let options = [
            option("ca", &authority.ca()),
            option("certificate", &importer.certificate),
            option("certificate-key", &importer.key),
        ];
        Bus { nats: nats.into(), more, certificate: options.concat() }
    });
    let mut user = User::join(&stage.supernode, 1).await;
    user.fill(&stage.supernode, 30).await;
    stage.until_planned();
    let mut moving = stage.import();
    moving.until("everything has moved", |said| said["shards"]["moved"] == 256);
    user.finds_everything(&stage.node, 0..30).await;

    // As the importer, but elsewhere.
    let connect = async_nats::ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(authority.ca())
        .add_client_certificate(importer.certificate.clone(), importer.key.clone())
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
