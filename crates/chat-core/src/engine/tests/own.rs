//! An account's own devices, and those that were.

use data_encoding::BASE64;
use tokio::time::timeout;
use valise_client::testing::TestRelay;

use super::common::{PATIENCE, Person, introduce, options, passphrase};
use super::{open_link, post};
use crate::api::{Command, Event, Exported, Link, LinkRequest};
use crate::engine::{self, Engine};
use crate::identity::{DeviceId, InviteLink};
use crate::seal::{HpkeKeyPair, HpkePublicKey, greeting};
use crate::vault::Passphrase;
use crate::wire;

fn request(secret: &[u8; 16], device: [u8; 16], relay: &str) -> wire::Greeting {
    let record = wire::DeviceRecord {
        device: device.to_vec(),
        signature_key: valise_client::random::bytes::<32>().to_vec(),
        hpke_key: HpkeKeyPair::generate().public().0.to_vec(),
        name: "phone".to_owned(),
        since_ms: 1,
    };
    let address = wire::Address { relay: relay.to_owned(), capability: vec![1; 60] };
    let card = wire::DeviceCard {
        device: device.to_vec(),
        address: Some(address),
        take_token: vec![2; 60],
        bundle_key: vec![3; 32],
    };
    let request = wire::LinkRequest {
        proof: super::super::link::proof(secret, &record),
        device: Some(record),
        card: Some(card),
    };
    wire::Greeting { body: Some(wire::greeting::Body::LinkRequest(request)), invite: Vec::new() }
}

/// Whoever has the link too cannot change what the user has compared.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_of_a_device_stands() {
    let relay = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann", relay.address()).await;
    let link = ann.ask::<Link>(Command::LinkDevice { join_code: None }).await.link;
    let offer = open_link(&link).await;
    let link: InviteLink = link.parse().unwrap();
    let key = HpkePublicKey(offer.hpke_key.as_slice().try_into().unwrap());
    let to = offer.address.unwrap();
    let ask = async |device: [u8; 16]| {
        let payloads = greeting::seal(&key, &request(link.secret(), device, &to.relay)).unwrap();
        post(&to, &payloads).await;
    };
    let pending = async || ann.ask::<Vec<LinkRequest>>(Command::LinkRequests {}).await;
    ask([9; 16]).await;
    let first = ann.until("a request", async || pending().await.pop()).await;
    assert_eq!(first.words.len(), 6);
    ask([9; 16]).await;
    ask([8; 16]).await;
    let all =
        ann.until("another device", async || Some(pending().await).filter(|all| all.len() > 1));
    let all = all.await;
    assert_eq!(all.len(), 2);
    let same = all.iter().find(|found| found.device == DeviceId([9; 16]).to_text()).unwrap();
    assert_eq!(same.words, first.words);
}

/// Whoever cannot be reached while an account comes back is not forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_on_until_everyone_is_reached() {
    let relay = TestRelay::spawn().unwrap();
    let mut elsewhere = TestRelay::spawn().unwrap();
    let ann = Person::new("Ann", relay.address()).await;
    let bob = Person::new("Bob", elsewhere.address()).await;
    ann.ask::<Option<()>>(Command::AskRelays { ask: false }).await;
    introduce(&ann, &bob).await;
    ann.contact("Bob").await;
    ann.settle().await;
    let export = Command::Export { passphrase: "paper".to_owned() };
    let file = BASE64.decode(ann.ask::<Exported>(export).await.file.as_bytes()).unwrap();
    ann.stop().await;
    elsewhere.kill().unwrap();
    let back = Person::offline("Ann");
    let paper = Passphrase::from("paper");
    engine::restore(&back.path(), &passphrase(), &file, &paper, None, &options()).await.unwrap();
    let engine = Engine::open(&back.path(), &passphrase(), options()).unwrap();
    let mut events = engine.events();
    let told = async {
        loop {
            if let Event::Notice { text } = events.recv().await.unwrap()
                && text.contains("cannot be reached")
            {
                return;
            }
        }
    };
    timeout(PATIENCE, told).await.unwrap();
    engine.close().await;
    elsewhere.restart().unwrap();
    let back = back.start().await;
    let with_bob = back.conversation("Bob").await.number;
    back.send(with_bob, "it is me").await;
    let at_bob = bob.conversation("Ann").await.number;
    assert_eq!(bob.texts(at_bob, 1).await, ["it is me"]);
}
