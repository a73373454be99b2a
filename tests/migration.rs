//! A supernode that moves, and an importer that comes to its port: the real relay, real clients, and real
//! TLS, question by question. What an importer makes of the answers is tested in crates/ctl.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(unreachable_pub, dead_code)] // the harness is that of tests/wire

#[path = "wire/relay.rs"]
mod relay;
#[path = "wire/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay::Relay;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use valise::identity::{StateDirectory, export_node, retire_node};
use valise::migration::peer::{KEY_FILE, client_config};
use valise::migration::{PeerKey, message};
use valise::relay::today;
use valise::store::Carried;
use valise_migration::real::{Real, RealCursor, RealRequest};
use valise_migration::wire::{
    Answer, FromImporter, FromSupernode, MESSAGE_BYTES_MAX, Passing, Question, Users, VERSION,
    Welcome,
};
use valise_migration::{Boot, Entry, Ledger, Migration, Position, Refusal, Request, Shard, Stage};
use valise_proto::{ClientPacket, MovePhase, Reason, ServerPacket, Signal, SignedRealmRecord};
use wire::{Via, Wire, payload};

const PATIENCE: Duration = Duration::from_secs(20);
const NODE: &str = "c.example:443";

/// The relays of these tests stand on their own disks.
fn beneath() -> Option<(String, Arc<dyn std::any::Any + Send + Sync>)> {
    None
}

/// A supernode with a port for this importer.
async fn supernode(key: &PeerKey) -> Relay {
    supernode_in(tempfile::tempdir().unwrap(), key).await
}

async fn supernode_in(directory: tempfile::TempDir, key: &PeerKey) -> Relay {
    let section = format!(
        "[migration]\nlisten = \"127.0.0.1:0\"\nimporter = \"{}\"\n\n[admin]\nlisten = \"127.0.0.1:0\"\n",
        key.pin()
    );
    Relay::configured_in(directory, &section).await
}

fn own_key() -> PeerKey {
    let place = tempfile::tempdir().unwrap();
    PeerKey::open_or_make(&place.path().join("importer.pem")).unwrap()
}

/// An importer's connection.
struct Importer {
    stream: TlsStream<TcpStream>,
    asked: u32,
    /// What the supernode wants passed on.
    passes: Vec<(u64, Passing)>,
}

impl Importer {
    async fn connect(relay: &Relay, key: &PeerKey) -> Self {
        let stream = dial(relay.running().migration_address().unwrap(), relay, key).await.unwrap();
        Self { stream, asked: 0, passes: Vec::new() }
    }

    async fn greeted(relay: &Relay, key: &PeerKey) -> (Self, Welcome) {
        let mut importer = Self::connect(relay, key).await;
        let realm = *relay.realm().as_bytes();
        match importer.ask(Question::Hello { version: VERSION, realm }).await {
            Answer::Welcome(welcome) => (importer, welcome),
            other => panic!("no welcome: {other:?}"),
        }
    }

    async fn say(&mut self, message: FromImporter) {
        message::write(&mut self.stream, &message).await.unwrap();
    }

    async fn hear(&mut self) -> FromSupernode {
        let read = message::read(&mut self.stream, MESSAGE_BYTES_MAX);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap().expect("it has ended")
    }

    async fn ask(&mut self, question: Question) -> Answer {
        self.asked += 1;
        self.say(FromImporter::Ask(self.asked, question)).await;
        loop {
            match self.hear().await {
                FromSupernode::Answer(number, answer) => {
                    assert_eq!(number, self.asked);
                    return answer;
                }
                FromSupernode::Pass(number, passing) => self.passes.push((number, passing)),
            }
        }
    }

    async fn tell(&mut self, shard: u8, boot: Boot, request: RealRequest) -> Result<(), Refusal> {
        match self.ask(Question::Tell(shard, boot, request)).await {
            Answer::Told(told) => told,
            other => panic!("not told: {other:?}"),
        }
    }

    async fn users(&mut self) -> Users {
        match self.ask(Question::Users).await {
            Answer::Users(users) => users,
            other => panic!("no users: {other:?}"),
        }
    }

    async fn pass(&mut self) -> (u64, Passing) {
        if !self.passes.is_empty() {
            return self.passes.remove(0);
        }
        match self.hear().await {
            FromSupernode::Pass(number, passing) => (number, passing),
            FromSupernode::Answer(..) => panic!("nothing was asked"),
        }
    }

    /// Starts every log, as the data centre's ledgers allow.
    async fn prepare(&mut self, boot: Boot) -> Ledger<Real> {
        let ledger = Ledger::open(None, Migration(1), boot).unwrap();
        for shard in 0..=u8::MAX {
            let existing = RealCursor::start();
            self.tell(shard, boot, Request::Begin { ledger, existing }).await.unwrap();
        }
        ledger
    }

    /// Reads a shard's log to its end.
    async fn read(&mut self, shard: u8) -> (RealCursor, BTreeMap<Position, Entry<Real>>) {
        let (mut cursor, mut entries) = (RealCursor::start(), BTreeMap::new());
        loop {
            let answer = self.ask(Question::Fetch(shard, cursor.next)).await;
            let Answer::Lines(own, lines) = answer else { panic!("no lines: {answer:?}") };
            assert_eq!(own, Some(cursor.digest), "the log up to here");
            if lines.is_empty() {
                return (cursor, entries);
            }
            for line in lines {
                entries.insert(cursor.next, line.entry);
                cursor = cursor.after(&line.entry);
            }
        }
    }

    /// Cuts a shard over, as if the data centre had imported all of it.
    async fn cut(&mut self, shard: u8, boot: Boot, ledger: Ledger<Real>) {
        let Ledger { migration, version, .. } = ledger;
        self.tell(shard, boot, Request::Seal { migration, version }).await.unwrap();
        let (end, entries) = self.read(shard).await;
        assert_eq!(entries.values().last(), Some(&Entry::Sealed));
        let ledger = Ledger { stage: Stage::Owned(end), ..ledger };
        self.tell(shard, boot, Request::Show { ledger, own: None }).await.unwrap();
    }
}

async fn dial(
    address: SocketAddr,
    relay: &Relay,
    key: &PeerKey,
) -> std::io::Result<TlsStream<TcpStream>> {
    let own = PeerKey::open(&relay.state_directory().join(KEY_FILE)).unwrap().unwrap();
    let config = client_config(key, &own.pin()).unwrap();
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// A node of the data centre is made, as far as the realm's record knows.
fn export(state: &Path) {
    export_node(state, NODE, today().into()).unwrap();
}

async fn wait_for_move(wire: &mut Wire, phase: MovePhase) -> valise_proto::Move {
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        if let Some(found) = wire.moves().iter().find(|one| one.phase == Some(phase)) {
            return found.clone();
        }
        // Deliveries, and whatever else there is.
        wire.receive_soon(Duration::from_millis(25)).await;
    }
    panic!("nobody was told {phase:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_who_it_is_and_how_its_shards_are() {
    let key = own_key();
    let relay = supernode(&key).await;
    let (mut importer, welcome) = Importer::greeted(&relay, &key).await;
    assert_eq!((welcome.version, welcome.realm), (VERSION, *relay.realm().as_bytes()));
    let (signature, record) = welcome.record.split_at(64);
    let signature = signature.try_into().unwrap();
    let record = SignedRealmRecord { signature, record: Bytes::copy_from_slice(record) };
    let record = record.verify(&relay.realm()).unwrap();
    assert_eq!(record.epoch, welcome.epoch.0);
    let Answer::Reports(reports) = importer.ask(Question::Reports).await else { panic!("none") };
    assert_eq!(reports.len(), 256);
    assert!(reports.iter().all(|report| report.shard == Shard::Plain));
    let Answer::Report(one) = importer.ask(Question::Report(7)).await else { panic!("none") };
    assert_eq!((one.boot, one.shard), (welcome.boot, Shard::Plain));
    let refused = importer
        .tell(
            7,
            Boot(1),
            Request::Seal { migration: Migration(1), version: valise_migration::Version(1) },
        )
        .await;
    assert_eq!(refused, Err(Refusal::OtherBoot));
    assert_eq!(relay.metric("valise_migration_shards{state=\"plain\"}"), 256.0);
    assert_eq!(relay.metric("valise_migration_importers"), 1.0);
    drop(importer);
    relay.until("valise_migration_importers", |importers| importers == 0.0).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_nonsense_are_let_out() {
    let key = own_key();
    let relay = supernode(&key).await;
    // Another key, another realm, no hello, too long a message.
    let mut stranger = Importer::connect(&relay, &own_key()).await;
    assert!(stranger.stream.read_u8().await.is_err());
    let mut lost = Importer::connect(&relay, &key).await;
    lost.say(FromImporter::Ask(1, Question::Hello { version: VERSION, realm: [1; 20] })).await;
    assert!(matches!(lost.hear().await, FromSupernode::Answer(1, Answer::Welcome(_))));
    assert!(lost.stream.read_u8().await.is_err());
    let mut rude = Importer::connect(&relay, &key).await;
    drop(message::write(&mut rude.stream, &FromImporter::Passed(1, 1)).await);
    assert!(rude.stream.read_u8().await.is_err());
    let (mut long, _) = Importer::greeted(&relay, &key).await;
    let question = FromImporter::Ask(1, Question::Record(vec![0; 100_000].into()));
    // It may be let go before it has said all of it.
    drop(message::write(&mut long.stream, &question).await);
    assert!(long.stream.read_u8().await.is_err());
    relay.until("valise_migration_importers", |importers| importers == 0.0).await;
    relay.finish().await;
}

/// A shard from its first entry to a post that is passed on, and the clients with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_moves_and_its_clients_are_told() {
    let key = own_key();
    let relay = supernode(&key).await;
    export(&relay.state_directory());
    let (mut wire, mine) = Wire::serve(&relay, Via::Raw).await;
    let mut sender = Wire::open(&relay, Via::WebSocket).await;
    let before = sender.post(1, &[mine.capability], payload(1)).await;
    assert_eq!(before, [Some(Reason::Accepted)]);

    let (mut importer, welcome) = Importer::greeted(&relay, &key).await;
    let boot = welcome.boot;
    // Clients dial what the record lists, which is read anew.
    let lead =
        |endpoint: &str| Question::Lead { endpoints: vec![endpoint.to_owned()], per_second: 500 };
    let told = importer.ask(lead("elsewhere.example:443")).await;
    assert_eq!(told, Answer::Told(Err(Refusal::OutOfOrder)));
    assert_eq!(importer.ask(lead(NODE)).await, Answer::Told(Ok(())));
    let prepare = wait_for_move(&mut wire, MovePhase::Prepare).await;
    assert_eq!(prepare.endpoints, [NODE]);
    let record = prepare.realm_record.unwrap().verify(&relay.realm()).unwrap();
    assert!(record.endpoints.contains(&NODE.to_owned()) && record.epoch > welcome.epoch.0);

    let ledger = importer.prepare(boot).await;
    let shard = shard_of(&mut importer, *mine.mailbox.as_bytes()).await;
    let after = sender.post(2, &[mine.capability], payload(2)).await;
    assert_eq!(after, [Some(Reason::Accepted)]);
    importer.cut(shard, boot, ledger).await;
    assert_eq!(relay.metric("valise_migration_shards{state=\"forward\"}"), 1.0);
    assert_eq!(relay.metric("valise_migration_shards{state=\"local\"}"), 255.0);
    assert!(relay.metric("valise_migration_entries_exported_total") > 0.0);
    let go = wait_for_move(&mut wire, MovePhase::Go).await;
    assert_eq!(go.endpoints, [NODE]);
    assert!(
        go.realm_record.is_some()
            && sender.moves().iter().all(|one| one.phase != Some(MovePhase::Go))
    );
    assert_eq!(importer.users().await, Users { connections: 2, attachments: 1, passing: 0 });

    // A post is passed on, and answered as the importer says; a signal goes nowhere.
    sender
        .say(&ClientPacket::Signal(Signal {
            capabilities: vec![mine.capability],
            payload: payload(9),
        }))
        .await;
    sender.say_post(3, &[mine.capability], payload(3)).await;
    let (post, passed) = importer.pass().await;
    assert_eq!((passed.shard, passed.mailbox), (shard, *mine.mailbox.as_bytes()));
    let entry = Entry::Appended { mailbox: passed.mailbox, frame: *wire::frame_id(3).as_bytes() };
    let Ok(Carried::Frame(frame)) = Carried::decode(&entry, &passed.record) else { panic!("none") };
    assert_eq!((frame.frame_id, frame.accepted.0), (wire::frame_id(3), 0));
    assert_eq!(importer.users().await.passing, 1);
    importer.say(FromImporter::Passed(post, Reason::Accepted.number())).await;
    assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    assert_eq!(relay.metric("valise_migration_posts_passed_total"), 1.0);
    assert_eq!(relay.metric("valise_signals_dropped_total{reason=\"not_attached\"}"), 1.0);

    // What is under way when the connection ends is busy; then it is served elsewhere.
    sender.say_post(4, &[mine.capability], payload(4)).await;
    importer.pass().await;
    drop(importer);
    assert_eq!(sender.posted().await.outcomes, [Some(Reason::Busy)]);
    let moved = sender.post(5, &[mine.capability], payload(5)).await;
    assert_eq!(moved, [Some(Reason::Moved)]);
    assert_eq!(relay.metric("valise_migration_posts_unanswered_total"), 1.0);
}

/// The shard in whose log a mailbox's frame is.
async fn shard_of(importer: &mut Importer, of: [u8; 16]) -> u8 {
    for shard in 0..=u8::MAX {
        let (_, entries) = importer.read(shard).await;
        let is_there = |entry: &Entry<Real>| matches!(entry, Entry::Appended { mailbox, .. } if *mailbox == of);
        if entries.values().any(is_there) {
            return shard;
        }
    }
    panic!("the frame is in no log");
}

/// A supernode that is stopped in the middle serves what it has not moved when the importer is back, and
/// keeps the data centre in its record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_in_the_middle_keeps_the_nodes_in_the_record() {
    let key = own_key();
    let mut relay = supernode(&key).await;
    export(&relay.state_directory());
    relay.restart().await;
    let (_, welcome) = Importer::greeted(&relay, &key).await;
    let (signature, record) = welcome.record.split_at(64);
    let signature = signature.try_into().unwrap();
    let record = SignedRealmRecord { signature, record: Bytes::copy_from_slice(record) };
    let record = record.verify(&relay.realm()).unwrap();
    assert!(record.endpoints.contains(&NODE.to_owned()), "{:?}", record.endpoints);
    relay.finish().await;
}

/// Only a signed record without this relay ends its service: what a client claims does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_noted_and_a_record_fences() {
    let key = own_key();
    let relay = supernode(&key).await;
    let (mut wire, mine) = Wire::serve(&relay, Via::Raw).await;
    let (mut importer, welcome) = Importer::greeted(&relay, &key).await;

    let mut sender = Wire::open(&relay, Via::WebSocket).await;
    let mut stranger = Wire::connect(&relay, Via::Raw).await;
    let ClientPacket::Hello(hello) = wire::hello() else { panic!("no hello") };
    let hello = valise_proto::Hello { realm_epoch: welcome.epoch.0 + 1, ..hello };
    stranger.say(&ClientPacket::Hello(hello)).await;
    stranger.ping().await;
    assert_eq!(relay.metric("valise_newer_epochs_claimed_total"), 1.0);
    let note = format!("claims to know epoch {}", welcome.epoch.0 + 1);
    until_ready_says(&relay, "200", &note).await;
    let served = sender.post(1, &[mine.capability], payload(1)).await;
    assert_eq!(served, [Some(Reason::Accepted)]);

    // A record that is not of the realm, and one that is and lists this relay.
    let state = relay.state_directory();
    let forged = importer.ask(Question::Record(vec![7; 200].into())).await;
    assert_eq!(forged, Answer::Told(Err(Refusal::OutOfOrder)));
    export(&state);
    let newer = record_in(&state);
    assert_eq!(importer.ask(Question::Record(newer)).await, Answer::Told(Ok(())));
    let served = sender.post(2, &[mine.capability], payload(2)).await;
    assert_eq!(served, [Some(Reason::Accepted)]);

    // One that does not, of which this relay knows nothing else.
    let own = wire.welcome.signing_key;
    let known = std::fs::read(state.join("realm-record")).unwrap();
    retire_node(&state, &own, None, today().into()).unwrap();
    let without = record_in(&state);
    std::fs::write(state.join("realm-record"), known).unwrap();
    let fenced = importer.ask(Question::Record(without.clone())).await;
    assert_eq!(fenced, Answer::Told(Err(Refusal::Fenced)));
    assert_eq!(record_in(&state), without, "so that it does not start again");
    let refused = sender.post(3, &[mine.capability], payload(3)).await;
    assert_eq!(refused, [Some(Reason::Moved)]);
    let mut other = Wire::open(&relay, Via::Raw).await;
    let attach = other.make_attach(&mine.owner, &mine.member);
    let ServerPacket::Refused(refused) = other.say_attach(attach).await else { panic!("served") };
    assert_eq!(refused.reason, Some(Reason::Moved));
    until_ready_says(&relay, "503", "does not list this relay").await;
    // Clients are shown the record that says so.
    let go = wait_for_move(&mut wire, MovePhase::Go).await;
    assert_eq!(go.endpoints, [NODE]);
    let shown = go.realm_record.unwrap().verify(&relay.realm()).unwrap();
    assert!(!shown.lists(&own, today().into()));
}

/// In the middle of a move a supernode expects one newer record; it serves on, and starts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_does_not_end_its_service_is_not_kept() {
    let key = own_key();
    let mut relay = supernode(&key).await;
    let state = relay.state_directory();
    export(&state);
    relay.restart().await;
    let (wire, _) = Wire::serve(&relay, Via::Raw).await;
    let (mut importer, welcome) = Importer::greeted(&relay, &key).await;
    importer.prepare(welcome.boot).await;
    let file = state.join("realm-record");
    let known = std::fs::read(&file).unwrap();
    retire_node(&state, &wire.welcome.signing_key, None, today().into()).unwrap();
    let without = record_in(&state);
    std::fs::write(&file, &known).unwrap();
    assert_eq!(importer.ask(Question::Record(without)).await, Answer::Told(Ok(())));
    assert_eq!(std::fs::read(&file).unwrap(), known);
    drop((wire, importer));
    relay.restart().await;
}

/// Waits until `/readyz` has this status and this text.
async fn until_ready_says(relay: &Relay, status: &str, text: &str) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let mut tcp = TcpStream::connect(relay.running().admin_address().unwrap()).await.unwrap();
        tcp.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        if answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text) {
            return;
        }
        assert!(Instant::now() < give_up, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An operator who signs a supernode out and says so with SIGHUP is obeyed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_signed_out_here_serves_nobody() {
    let relay = supernode(&own_key()).await;
    let (wire, mine) = Wire::serve(&relay, Via::Raw).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    let state = relay.state_directory();
    export(&state);
    relay.reload().unwrap();
    let served = sender.post(1, &[mine.capability], payload(1)).await;
    assert_eq!(served, [Some(Reason::Accepted)], "it is listed beside the node");
    retire_node(&state, &wire.welcome.signing_key, None, today().into()).unwrap();
    relay.reload().unwrap();
    let refused = sender.post(2, &[mine.capability], payload(2)).await;
    assert_eq!(refused, [Some(Reason::Moved)]);
    until_ready_says(&relay, "503", "does not list this relay").await;
}

/// Who says nothing holds nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_is_let_out() {
    let key = own_key();
    let relay = supernode(&key).await;
    let mut silent =
        TcpStream::connect(relay.running().migration_address().unwrap()).await.unwrap();
    let mut quiet = Importer::connect(&relay, &key).await;
    let ended = async {
        assert!(silent.read_u8().await.is_err());
        assert!(quiet.stream.read_u8().await.is_err());
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    relay.finish().await;
}

/// Posts go to the importer that came last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_importer_passes_posts_on() {
    let key = own_key();
    let relay = supernode(&key).await;
    let (_wire, mine) = Wire::serve(&relay, Via::Raw).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    sender.post(1, &[mine.capability], payload(1)).await;
    let (mut first, welcome) = Importer::greeted(&relay, &key).await;
    let ledger = first.prepare(welcome.boot).await;
    let shard = shard_of(&mut first, *mine.mailbox.as_bytes()).await;
    first.cut(shard, welcome.boot, ledger).await;
    sender.say_post(2, &[mine.capability], payload(2)).await;
    first.pass().await;
    let (mut second, _) = Importer::greeted(&relay, &key).await;
    assert_eq!(sender.posted().await.outcomes, [Some(Reason::Busy)], "under way to the first");
    for id in 3..6 {
        sender.say_post(id, &[mine.capability], payload(3)).await;
    }
    for _ in 3..6 {
        let (post, _) = second.pass().await;
        second.say(FromImporter::Passed(post, Reason::MailboxFull.number())).await;
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::MailboxFull)]);
    }
    // The first one may still ask.
    assert_eq!(first.users().await.attachments, 1);
}

/// The record of a state directory as it is told to others.
fn record_in(state: &Path) -> Bytes {
    let file = std::fs::read(state.join("realm-record")).unwrap();
    Bytes::copy_from_slice(&file[20..])
}

/// One key for the command and for the relay.
#[test]
fn a_key_is_made_where_there_is_a_realm() {
    let place = tempfile::tempdir().unwrap();
    let command = |args: &[&str]| {
        let mut valise = std::process::Command::new(env!("CARGO_BIN_EXE_valise"));
        valise.env_clear().env("HOME", place.path()).args(args).output().unwrap()
    };
    let state = place.path().join("state");
    let at = ["--state-directory", state.to_str().unwrap()];
    let none = command(&[&["migration-key"], &at[..]].concat());
    assert_eq!(none.status.code(), Some(66), "{none:?}");
    drop(StateDirectory::open(&state).map(|directory| {
        valise::identity::Identity::open(&directory, &["a.example:1".to_owned()], 20_000).unwrap()
    }));
    let [one, two] = [(); 2].map(|()| command(&[&["migration-key"], &at[..]].concat()));
    assert_eq!(one.status.code(), Some(0), "{one:?}");
    assert_eq!(one.stdout, two.stdout);
    let key = PeerKey::open(&state.join(KEY_FILE)).unwrap().unwrap();
    assert_eq!(String::from_utf8(one.stdout).unwrap(), format!("{}\n", key.pin()));
}
