//! Nodes of a realm that moves here from a supernode: each shard is served only once its ledger says
//! that it is the data centre's.

use std::path::Path;
use std::sync::Arc;

use valise::app::{Running, StartError};
use valise::config::{Config, Layer, Surroundings};
use valise::identity::{STORE, read_shard_key};
use valise::store::ShardKey;
use valise::store::jetstream::{BusOptions, Center, Changed, ShardImport};
use valise_client::OwnerKeyPair;
use valise_migration::ledger::Seal;
use valise_migration::{Boot, Ledger, Migration};
use valise_proto::{
    ClientPacket, PublicationId, PublishBundle, PutId, PutSlot, Reason, ServerPacket, SlotId,
    TokenKind,
};

use crate::import::change;
use crate::nats;
use crate::nodes::further_node;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload};

/// Opens a shard's ledger; then makes the shard the data centre's.
struct Owner(ShardImport, Ledger<valise_migration::real::Real>);

impl Owner {
    async fn open(center: &Arc<Center>, shard: u8) -> Self {
        let mut importer = ShardImport::new(Arc::clone(center), shard);
        importer.read_ledger().await.unwrap();
        let ledger = Ledger::open(None, Migration(1), Boot(1)).unwrap();
        assert_eq!(change(&mut importer, None, ledger).await.unwrap(), Changed::Done);
        Self(importer, ledger)
    }

    async fn activate(mut self) {
        let end = self.1.importing().unwrap();
        let seal = Seal { migration: self.1.migration, version: self.1.version, end };
        let owned = self.1.activate(seal).unwrap();
        assert_eq!(change(&mut self.0, Some(self.1), owned).await.unwrap(), Changed::Done);
    }
}

async fn slots(wire: &mut Wire, ids: &[SlotId]) -> Result<usize, Reason> {
    let request = wire.next_request();
    wire.say(&ClientPacket::GetSlots { request, slot_ids: ids.to_vec() }).await;
    match wire.receive().await {
        ServerPacket::Slots { payloads, .. } => Ok(payloads.len()),
        ServerPacket::Refused(refused) => Err(refused.reason.unwrap()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marked_node_serves_a_shard_from_its_activation_on() {
    let Some(nats) = nats::shared() else { return };
    let first = Relay::start().await;
    // As if it had been a supernode.
    std::fs::create_dir(first.state_directory().join(STORE)).unwrap();
    let (directory, port, _) = further_node(&first);
    let marked = Relay::at(directory, ([127, 0, 0, 1], port).into(), "").await;
    let options = BusOptions { servers: nats.urls(), tls: None };
    let center = Arc::new(Center::open(&options, &first.realm()).await.unwrap());
    let key = ShardKey::new(&read_shard_key(&marked.state_directory()).unwrap());

    let owner = OwnerKeyPair::generate();
    let mailbox = owner.mailbox(&marked.realm());
    let shard = key.shard(&mailbox);
    let mut wire = Wire::open(&marked, Via::Raw).await;
    let member = wire.join(&owner).await;
    let capability = marked.token(TokenKind::Post, &mailbox, 30);
    let mut sender = Wire::open(&marked, Via::Raw).await;

    let refused = wire.make_attach(&owner, &member);
    let is_moved = |answer: &ServerPacket<_>| matches!(answer, ServerPacket::Refused(refused) if refused.reason == Some(Reason::Moved));
    let answer = wire.say_attach(refused).await;
    assert!(is_moved(&answer), "{answer:?}");
    assert_eq!(sender.post(1, &[capability], payload(1)).await, [Some(Reason::Moved)]);
    let take = marked.token(TokenKind::Take, &mailbox, 30);
    let request = sender.next_request();
    sender.say(&ClientPacket::TakeBundle { request, take_token: take }).await;
    assert_eq!(sender.refused().await, Reason::Moved);
    assert_eq!(slots(&mut sender, &[SlotId::new([3; 32])]).await, Err(Reason::Moved));
    let put = PutSlot {
        request: sender.next_request(),
        slot_token: marked.token(TokenKind::Slot, &mailbox, 30),
        slot_id: SlotId::new([3; 32]),
        put_id: PutId::new([3; 16]),
        payload: payload(3),
    };
    sender.say(&ClientPacket::PutSlot(Box::new(put))).await;
    assert_eq!(sender.refused().await, Reason::Moved);

    // Importing is not enough.
    let opened = Owner::open(&center, shard).await;
    assert_eq!(sender.post(2, &[capability], payload(2)).await, [Some(Reason::Moved)]);
    opened.activate().await;
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while sender.post(3, &[capability], payload(3)).await != [Some(Reason::Accepted)] {
        assert!(std::time::Instant::now() < give_up, "it is never served");
    }
    let (attachment, before) = {
        let mut wire = Wire::open(&marked, Via::Raw).await;
        let (attachment, before) = wire.attach_and_catch_up(&owner, &member).await;
        let publish = PublishBundle {
            request: wire.next_request(),
            attachment,
            publication_id: PublicationId::new([1; 16]),
            replace: false,
            last_resort: None,
            items: vec![payload(1)],
        };
        wire.say(&ClientPacket::PublishBundle(Box::new(publish))).await;
        let answer = wire.receive().await;
        assert!(matches!(answer, ServerPacket::Published { items: 1, .. }), "{answer:?}");
        (attachment, before)
    };
    assert_eq!((attachment, before.len()), (0, 1));
    assert_eq!(before[0].payload, payload(3));

    // Of several slots, those before the first one that is elsewhere.
    let slot_of = |in_shard: bool| {
        let mut ids = (0_u64..).map(|n| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            SlotId::new(id)
        });
        ids.find(|id| (key.slot_shard(id) == shard) == in_shard).unwrap()
    };
    assert_eq!(slots(&mut sender, &[slot_of(true), slot_of(false)]).await, Ok(1));

    // One that does not know of ledgers ends where there are any, and does not start there.
    let mut behind = Wire::open(&first, Via::Raw).await;
    let answer = behind.post(4, &[capability], payload(4)).await;
    assert_eq!(answer, [Some(Reason::Busy)]);
    assert!(first.running().store_failed().await.contains("export-node"));
    let state = first.state_directory();
    let kept = tempfile::tempdir().unwrap();
    let copy = kept.path().join("state");
    copy_keys(&state, &copy);
    let error = start(&copy, &nats.urls()).await;
    assert!(error.contains("valise export-node"), "{error}");
}

fn copy_keys(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(to, private).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() && entry.file_name() != "lock" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

async fn start(state: &Path, servers: &[String]) -> String {
    let mut flags = Layer::default();
    flags.relay.listen = Some(vec!["127.0.0.1:0".to_owned()]);
    flags.relay.state_directory = Some(state.display().to_string());
    flags.admin.listen = Some("off".to_owned());
    flags.cluster.servers = Some(servers.to_vec());
    let surroundings = Surroundings { variables: Vec::new(), descriptors: 4_096 };
    let config = Config::load(None, flags, &surroundings).unwrap();
    match Running::start(&config).await {
        Err(error @ StartError::Cluster(_)) => error.to_string(),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it started"),
    }
}
