//! Mutual TLS between relays and servers, with the configuration that is deployed.

use valise::app::{Running, StartError};
use valise::config::{Config, Layer, Surroundings};
use valise::store::jetstream::BusError;

use valise_authority::Authority;
use valise_client::testing::NatsPlan;

use crate::nats;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_and_its_servers_know_each_other() {
    let authority = Authority::new().unwrap();
    let variables =
        authority.of_server(&authority.certificate(&["localhost", "127.0.0.1"]).unwrap());
    let plan = NatsPlan { deployed: true, variables, ..NatsPlan::default() };
    let Some(nats) = nats::planned(plan) else { return };
    let section = |signer: &Authority, name: &str| {
        // Whoever signs it: the servers are known by their own authority.
        let files = signer.certificate(&[name]).unwrap();
        format!("{}{}", nats.section(), authority.of_relay(&files))
    };
    let section_of_relay = section(&authority, "valise-relay");
    let relay = Relay::on_servers(tempfile::tempdir().unwrap(), &section_of_relay).await;
    let (mut owner, mine) = Wire::serve(&relay, Via::Raw).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    sender.post(1, &[mine.capability], payload(1)).await;
    assert_eq!(owner.delivered().await.payload, payload(1));

    // Somebody else's certificate is no relay's, and none is none. That is said, and not taken for servers
    // that are only starting.
    let strangers = Authority::new().unwrap();
    let somebody = section(&authority, "somebody");
    let forged = section(&strangers, "valise-relay");
    for section in [somebody, forged, nats.section()] {
        let error = refused(&section).await;
        assert!(matches!(error, StartError::Cluster(BusError::Shut(_))), "{error}");
    }
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
