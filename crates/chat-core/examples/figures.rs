//! What conversations cost, against a real relay: bytes of a one-line text, posts of a group message,
//! time and bytes to join large groups, memory of a client. `cargo run --release -p valise-chat-core
//! --example figures` is for 20 people with two devices each; `-- 500 1` for 500 people with one device
//! each (the relay's binary is found as in the tests; some minutes).

#![allow(clippy::print_stdout, clippy::unwrap_used)] // figures are its purpose

use std::time::{Duration, Instant};

use tempfile::TempDir;
use valise_chat_core::api::{Command, Contact, Joined, Link, LinkRequest, Status};
use valise_chat_core::engine::{self, Engine, NewProfile, Options};
use valise_chat_core::identity::{AccountId, DeviceId, RootKey};
use valise_chat_core::mls::{Change, Device, Group, key_package};
use valise_chat_core::seal::frame;
use valise_chat_core::vault::{Cost, Passphrase};
use valise_chat_core::wire::{self, group_info::Kind};
use valise_client::testing::TestRelay;
use valise_proto::RelayAddress;

#[tokio::main]
async fn main() {
    let number = |at, usual| std::env::args().nth(at).map_or(usual, |n| n.parse().unwrap());
    let (count, devices_each) = (number(1, 20), number(2, 2));
    text();
    for members in [2, 40, 100, 500] {
        sizes(members);
    }
    people(count, devices_each).await;
}

fn device(account: u16) -> (Device, wire::Member) {
    let root = RootKey::generate();
    let seed = valise_client::random::bytes();
    let mut id = [0; 32];
    id[..2].copy_from_slice(&account.to_be_bytes());
    let key = Device::public_key(&seed);
    let credential = root.certify(AccountId(id), DeviceId::random(), &key);
    let relay = format!("valise://relay.example.org:7443/{}", "a".repeat(32));
    let member = wire::Member {
        address: Some(wire::Address { relay, capability: vec![1; 60] }),
        name: format!("Person {account}"),
        hpke_key: vec![2; 32],
    };
    (Device::new(credential, &seed), member)
}

fn info() -> wire::GroupInfo {
    wire::GroupInfo {
        kind: Kind::Group as i32,
        name: "A group".to_owned(),
        home: format!("valise://relay.example.org:7443/{}", "a".repeat(32)),
        slot_token: vec![3; 60],
        slot_token_ms: 0,
    }
}

/// The layers of a one-line text.
fn text() {
    use prost::Message as _;
    let (device, member) = device(1);
    let mut group = Group::create(&device, [1; 16], &info(), &member).unwrap();
    let line = "See you at eight, in front of the old station.";
    let body = Some(wire::content::Body::Text(line.to_owned()));
    let content = wire::Content { sent_ms: 1_800_000_000_000, body, ..Default::default() };
    let content = content.encode_to_vec();
    let message = group.encrypt(&device, &content, &[0; 24]).unwrap();
    let envelope = wire::Envelope {
        stream: vec![0; 16],
        first_counter: 1,
        messages: vec![message.clone()],
        ..Default::default()
    };
    let envelope_len = envelope.encoded_len();
    let frame = frame::seal(&group.keys(), &envelope).unwrap();
    println!(
        "one-line text: {} bytes; content {}, MLS message {}, envelope {}, frame {}",
        line.len(),
        content.len(),
        message.len(),
        envelope_len,
        frame.len()
    );
}

/// A group made at once: what its newest member gets and needs.
fn sizes(members: u16) {
    let (founder, member) = device(0);
    let mut group = Group::create(&founder, [1; 16], &info(), &member).unwrap();
    let mut others = Vec::new();
    for number in 1..members {
        let (device, member) = device(number);
        others.push((key_package(&device, &member, false).unwrap(), device));
    }
    let add = others.iter().map(|(package, _)| package.bytes.clone()).collect();
    let start = Instant::now();
    let prepared = group.prepare(&founder, Change { add, ..Default::default() }).unwrap();
    group.merge_own().unwrap();
    let adding = start.elapsed();
    let welcome = prepared.welcome.unwrap();
    let (package, last) = others.pop().unwrap();
    let start = Instant::now();
    let mut joined = Group::join(&last, &welcome, package.entries).unwrap();
    let joining = start.elapsed();
    let state: usize = joined
        .changes()
        .iter()
        .map(|entry| entry.key.len() + entry.value.as_ref().map_or(0, Vec::len))
        .sum();
    let start = Instant::now();
    let update = joined.prepare(&last, Change::default()).unwrap();
    joined.merge_own().unwrap();
    let updating = start.elapsed();
    println!(
        "group of {members} devices: commit {} KB, welcome {} KB, add {} ms, join {} ms, state {} KB, \
         update commit {} KB in {} ms",
        prepared.commit.len() / 1_000,
        welcome.len() / 1_000,
        adding.as_millis(),
        joining.as_millis(),
        state / 1_000,
        update.commit.len() / 1_000,
        updating.as_millis()
    );
}

struct Person {
    _home: TempDir,
    engine: Engine,
}

fn options() -> Options {
    let mut options = Options { cost: Cost::CHEAPEST, ..Options::default() };
    options.relays.allow_private = true;
    options
}

impl Person {
    async fn new(name: String, relay: &RelayAddress) -> Self {
        let home = TempDir::new().unwrap();
        let path = home.path().join("profile");
        let new = NewProfile {
            name,
            relay: relay.clone(),
            join_code: None,
            device_name: "one".to_owned(),
        };
        engine::create(&path, &Passphrase::from(""), new, &options()).await.unwrap();
        let engine = Engine::open(&path, &Passphrase::from(""), options()).unwrap();
        Self { _home: home, engine }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, command: Command) -> T {
        serde_json::from_value(self.engine.call(command).await.unwrap()).unwrap()
    }

    async fn second_device(&self) -> Self {
        let link = self.ask::<Link>(Command::LinkDevice { join_code: None }).await.link;
        let home = TempDir::new().unwrap();
        let path = home.path().join("profile");
        let at = path.clone();
        let linking = tokio::spawn(async move {
            engine::create_linked(&at, &Passphrase::from(""), &link, "two", options(), |_| {}).await
        });
        let request = loop {
            if let Some(request) =
                self.ask::<Vec<LinkRequest>>(Command::LinkRequests {}).await.pop()
            {
                break request;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let confirm = Command::ConfirmLink { device: request.device, accept: true };
        self.ask::<Option<()>>(confirm).await;
        linking.await.unwrap().unwrap();
        let engine = Engine::open(&path, &Passphrase::from(""), options()).unwrap();
        Self { _home: home, engine }
    }

    async fn texts(&self, title: &str) -> usize {
        let all: Vec<valise_chat_core::api::Conversation> =
            self.ask(Command::Conversations {}).await;
        let Some(found) = all.iter().find(|found| found.title == title) else { return 0 };
        let messages = Command::Messages { conversation: found.number, before: None, limit: 100 };
        let messages: Vec<valise_chat_core::api::Message> = self.ask(messages).await;
        messages.iter().filter(|message| !message.account.is_empty()).count()
    }
}

/// All of them come from one address, which a relay takes for a crowd.
const CROWD: &str = "[limits]\nconnects_per_second_per_prefix = 10000\nconnects_burst_per_prefix = 10000\n\
                     joins_per_minute_per_prefix = 100000\n";

/// A group of people with one or two devices each, over the relay.
async fn people(count: usize, devices_each: usize) {
    let mut relay = TestRelay::with_config(CROWD).unwrap();
    let address = relay.address().clone();
    let start = Instant::now();
    let founder = Person::new("Founder".to_owned(), &address).await;
    let mut devices = Vec::new();
    if devices_each > 1 {
        devices.push(founder.second_device().await);
    }
    for number in 1..count {
        let person = Person::new(format!("Person {number}"), &address).await;
        if devices_each > 1 {
            devices.push(person.second_device().await);
        }
        let link = founder.ask::<Link>(Command::Invite {}).await.link;
        person.ask::<Joined>(Command::Join { link, allow_relay: true }).await;
        devices.push(person);
    }
    println!("{count} people ({devices_each} each) met the founder in {:.1?}", start.elapsed());
    // Until their cards name all their devices.
    let members = loop {
        let contacts: Vec<Contact> = founder.ask(Command::Contacts {}).await;
        if contacts.len() + 1 == count {
            break contacts.into_iter().map(|contact| contact.account).collect();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = resident_mib();
    let start = Instant::now();
    let create = Command::GroupCreate { name: "Everyone".to_owned(), members };
    let group = founder.ask::<Joined>(create).await.conversation;
    let made = start.elapsed();
    all_have(&devices, 0, "the group").await;
    println!(
        "group of {} devices: made after {made:.1?}, joined by all after {:.1?}",
        devices.len() + 1,
        start.elapsed()
    );
    for round in 1..=3 {
        let start = Instant::now();
        let send = Command::Send { conversation: group, text: format!("text {round}"), key: None };
        founder.ask::<serde_json::Value>(send).await;
        all_have(&devices, round, "a text").await;
        println!("a text reached all {} other devices in {:.1?}", devices.len(), start.elapsed());
    }
    let status: Status = founder.ask(Command::Status {}).await;
    println!("still sending: {}", status.sending);
    println!(
        "memory of this process with {} engines: {before} MiB before the group, {} MiB now",
        devices.len() + 1,
        resident_mib()
    );
    relay.kill().unwrap();
}

async fn all_have(devices: &[Person], texts: usize, what: &str) {
    let until = Instant::now() + Duration::from_secs(120);
    for (number, device) in devices.iter().enumerate() {
        loop {
            let all: Vec<valise_chat_core::api::Conversation> =
                device.ask(Command::Conversations {}).await;
            let is_there = all.iter().any(|found| found.title == "Everyone");
            if is_there && device.texts("Everyone").await >= texts {
                break;
            }
            assert!(Instant::now() < until, "device {number} has not {what}: {all:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}
