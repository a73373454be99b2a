//! Who is let in again, by whom, and what becomes of what was written meanwhile.

use tokio::sync::oneshot;
use valise_client::testing::TestRelay;

use super::agreement::{at_rest, group_of, two};
use super::common::{Person, introduce};
use crate::api::Command;
use crate::engine::commits::Wanted;
use crate::engine::core::Core;
use crate::engine::effect::{Effect, Job};
use crate::engine::records::state;
use crate::identity::{AccountId, DeviceId, RootKey};
use crate::mls::{self, Change, Device, Group, MlsError};
use crate::vault::Transaction;
use crate::wire::{self, group_info::Kind};

/// Somebody whom nobody knows.
fn stranger() -> Device {
    let seed = valise_client::random::bytes();
    let key = Device::public_key(&seed);
    let credential = RootKey::generate().certify(AccountId([9; 32]), DeviceId([9; 16]), &key);
    Device::new(credential, &seed)
}

/// A Welcome to a group with this id that somebody has made anew.
fn welcome(by: &Device, id: &[u8], kind: Kind, home: &str, package: &[u8]) -> Vec<u8> {
    let info = wire::GroupInfo {
        kind: kind as i32,
        name: "Trip".to_owned(),
        home: home.to_owned(),
        slot_token: Vec::new(),
        slot_token_ms: 0,
    };
    let (name, hpke_key) = ("maker".to_owned(), vec![2; 32]);
    let member = wire::Member { name, hpke_key, ..Default::default() };
    let mut group = Group::create(by, id.try_into().unwrap(), &info, &member).unwrap();
    let change = Change { add: vec![package.to_vec()], ..Default::default() };
    let prepared = group.prepare(by, change).unwrap();
    prepared.welcome.unwrap()
}

fn package(core: &mut Core, tx: &Transaction<'_>) -> Vec<u8> {
    core.new_key_package(tx, vec![5; 60], false).unwrap()
}

fn device_of(person: &Person) -> Device {
    at_rest(person, |core, _| core.device.clone())
}

fn notices(tx: &Transaction<'_>, conversation: i64) -> Vec<String> {
    let all = tx.children::<state::Message>(conversation).unwrap();
    all.into_iter().filter(|(_, m)| m.account.is_empty()).map(|(_, m)| m.text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_played_again_does_nothing() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = two(&relay).await;
    let (alice, bob) = (alice.stop().await, bob.stop().await);
    let rejoin = |group: Vec<u8>| {
        at_rest(&bob, |core, tx| wire::Rejoin {
            group,
            key_package: package(core, tx),
            record: Some(core.own_record().unwrap()),
        })
    };
    let (row, id) = at_rest(&alice, |_, tx| {
        let (row, stored) = group_of(tx, Kind::Group);
        (row, stored.id)
    });
    let (first, second) = (rejoin(id.clone()), rejoin(id));
    let acts = |rejoin: &wire::Rejoin| {
        at_rest(&alice, |core, tx| {
            core.rejoin_asked(tx, rejoin).unwrap();
            core.wanted.remove(&row).is_some_and(|wanted| wanted.len() == 1)
        })
    };
    assert!(acts(&first));
    assert!(!acts(&first), "the relay brings it again");
    // What another member has done already is not done again either.
    let reference = mls::package_reference(&second.key_package).unwrap();
    at_rest(&alice, |core, tx| core.remember_acted(tx, row, &[reference]).unwrap());
    assert!(!acts(&second));
    // It is a bounded number that is remembered.
    at_rest(&alice, |core, tx| {
        let many: Vec<_> = (0..600_u32).map(|n| n.to_be_bytes().to_vec()).collect();
        core.remember_acted(tx, row, &many).unwrap();
        assert_eq!(tx.count::<state::Acted>(row).unwrap(), 256);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_the_same_id_is_not_the_same_group() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = two(&relay).await;
    let (alice, bob) = (alice.stop().await, bob.stop().await);
    let by_alice = device_of(&alice);
    at_rest(&bob, |core, tx| {
        for kind in [Kind::Group, Kind::Direct] {
            let (row, mut stored) = group_of(tx, kind);
            stored.active = false;
            tx.put(row, &stored).unwrap();
            let other = if kind == Kind::Group { Kind::Direct } else { Kind::Group };
            let package = package(core, tx);
            let bad = welcome(&by_alice, &stored.id, other, &stored.home, &package);
            core.welcomed(tx, &bad, &[]).unwrap();
            assert!(!group_of(tx, kind).1.active, "of another kind");
        }
        let (row, stored) = group_of(tx, Kind::Direct);
        let package_of_bob = package(core, tx);
        let bad = welcome(&stranger(), &stored.id, Kind::Direct, &stored.home, &package_of_bob);
        core.welcomed(tx, &bad, &[]).unwrap();
        assert!(!tx.get::<state::Group>(row).unwrap().unwrap().active, "with somebody else");

        for kind in [Kind::Group, Kind::Direct] {
            let (_, stored) = group_of(tx, kind);
            let package = package(core, tx);
            let good = welcome(&by_alice, &stored.id, kind, &stored.home, &package);
            core.welcomed(tx, &good, &[]).unwrap();
            let (_, now) = group_of(tx, kind);
            assert!(now.active && now.conversation == stored.conversation);
            let told = notices(tx, now.conversation);
            assert!(told.iter().any(|text| text.ends_with("let in again by Alice.")), "{told:?}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_is_let_in_by_what_it_asked_with() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = two(&relay).await;
    let (alice, bob) = (alice.stop().await, bob.stop().await);
    let by_alice = device_of(&alice);
    at_rest(&bob, |core, tx| {
        let (row, _) = group_of(tx, Kind::Group);
        let (asked, other) = (package(core, tx), package(core, tx));
        core.lose_track(tx, row).unwrap();
        let mut stored: state::Group = tx.get(row).unwrap().unwrap();
        assert!(stored.lost_ms > 0);
        stored.rejoining = true;
        stored.rejoin_packages.push(mls::package_reference(&asked).unwrap());
        tx.put(row, &stored).unwrap();
        let is_lost = |tx: &Transaction<'_>| group_of(tx, Kind::Group).1.lost_ms > 0;
        let bad = welcome(&by_alice, &stored.id, Kind::Group, &stored.home, &other);
        core.welcomed(tx, &bad, &[]).unwrap();
        assert!(is_lost(tx));
        let good = welcome(&by_alice, &stored.id, Kind::Group, &stored.home, &asked);
        core.welcomed(tx, &good, &[]).unwrap();
        assert!(!is_lost(tx));

        // Nobody answers for a day: whoever adds the device may, as if it were new.
        core.lose_track(tx, row).unwrap();
        stored = tx.get(row).unwrap().unwrap();
        stored.lost_ms -= 25 * 60 * 60 * 1_000;
        tx.put(row, &stored).unwrap();
        let late = welcome(&by_alice, &stored.id, Kind::Group, &stored.home, &other);
        core.welcomed(tx, &late, &[]).unwrap();
        assert!(!is_lost(tx));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_said_in_the_new_state() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = two(&relay).await;
    let in_bob = bob.conversation("Trip").await.number;
    let (alice, bob) = (alice.stop().await, bob.stop().await);
    let by_alice = device_of(&alice);
    let send = |core: &mut Core, tx: &Transaction<'_>, text: &str| {
        let (reply, _) = oneshot::channel();
        let send = Command::Send { conversation: in_bob, text: text.to_owned(), key: None };
        core.command(tx, send, reply).unwrap();
    };
    let row = at_rest(&bob, |core, tx| {
        let (row, stored) = group_of(tx, Kind::Group);
        for text in ["sealed", "sealed too"] {
            send(core, tx, text);
        }
        core.is_caught_up = true;
        core.walked.insert(row);
        core.talk(tx).unwrap();
        assert!(tx.count::<state::Frame>(row).unwrap() > 0);
        core.lose_track(tx, row).unwrap();
        send(core, tx, "not sealed");
        let asked = package(core, tx);
        let mut lost: state::Group = tx.get(row).unwrap().unwrap();
        lost.rejoining = true;
        lost.rejoin_packages.push(mls::package_reference(&asked).unwrap());
        tx.put(row, &lost).unwrap();
        let good = welcome(&by_alice, &stored.id, Kind::Group, &stored.home, &asked);
        core.welcomed(tx, &good, &[]).unwrap();
        send(core, tx, "after");
        assert_eq!(tx.count::<state::Frame>(row).unwrap(), 0);
        row
    });
    at_rest(&bob, |_, tx| {
        let now: state::Group = tx.get(row).unwrap().unwrap();
        let mut said = Vec::new();
        for (_, outgoing) in tx.children::<state::Outgoing>(row).unwrap() {
            let Some(message) = tx.get::<state::Message>(outgoing.message).unwrap() else {
                continue;
            };
            assert_eq!((message.stream, message.counter), (now.stream.clone(), outgoing.counter));
            said.push(message.text);
        }
        assert_eq!(said, ["sealed", "sealed too", "not sealed", "after"]);
        let orphans = tx.all::<state::Delivery>().unwrap();
        assert!(orphans.iter().all(|(_, delivery)| delivery.group != row));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_put_in_its_own_place_unasked_asks() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = two(&relay).await;
    let (alice, bob) = (alice.stop().await, bob.stop().await);
    let package = at_rest(&bob, package);
    let commit = at_rest(&alice, |core, tx| {
        let (row, _) = group_of(tx, Kind::Group);
        let device = core.device.clone();
        let group = core.group(tx, row).unwrap();
        let own = group.own_leaf();
        let bob = group.roster().into_iter().find(|leaf| leaf.index != own).unwrap();
        let change = Change { add: vec![package], remove: vec![bob.index], ..Default::default() };
        group.prepare(&device, change).unwrap().commit
    });
    at_rest(&bob, |core, tx| {
        let (row, _) = group_of(tx, Kind::Group);
        let group = core.group(tx, row).unwrap();
        let keys = group.keys();
        let judged = group.judge(&commit).unwrap();
        let summary = group.apply(judged).unwrap();
        core.save(tx, row).unwrap();
        core.after_commit(tx, row, &summary, &keys, None).unwrap();
        let (_, now) = group_of(tx, Kind::Group);
        assert!(now.active && now.lost_ms > 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_right_to_write_slots_a_change_is_refused() {
    let (relay, elsewhere) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let alice = Person::new("Alice", relay.address()).await;
    let bob = Person::new("Bob", elsewhere.address()).await;
    alice.ask::<Option<()>>(Command::AskRelays { ask: false }).await;
    introduce(&alice, &bob).await;
    super::agreement::make_group(&alice, "Trip", &[&bob]).await;
    let (_alice, bob) = (alice.stop().await, bob.stop().await);
    at_rest(&bob, |core, tx| {
        let (row, stored) = group_of(tx, Kind::Group);
        // A member has taken the shared token away.
        let info =
            wire::GroupInfo { slot_token: Vec::new(), ..core.group(tx, row).unwrap().info() };
        let id = stored.id.as_slice().try_into().unwrap();
        let member = core.member(Vec::new());
        let mut group = Group::create(&core.device, id, &info, &member).unwrap();
        let add = vec![mls::key_package(&stranger(), &member, false).unwrap().bytes];
        group.prepare(&core.device, Change { add, ..Default::default() }).unwrap();
        group.merge_own().unwrap();
        core.unload(row);
        core.adopt(row, group);
        core.is_caught_up = true;
        core.walked.insert(row);
        let (reply, mut answer) = oneshot::channel();
        let ticket = Some(core.wait(reply));
        let name = Some("Other".to_owned());
        let wanted = Wanted { name, ticket, ..Default::default() };
        core.want(tx, row, wanted.clone()).unwrap();
        // Nobody waits for this one: it stays.
        core.want(tx, row, Wanted { ticket: None, ..wanted }).unwrap();
        assert_eq!(core.wanted[&row].len(), 1);
        let mut refused = None;
        for effect in core.take_effects() {
            match effect {
                Effect::Start(Job::Gather(..)) => panic!("a token of another relay is no help"),
                Effect::Answer(reply, given) => drop(reply.send(given)),
                _ => {}
            }
            refused = refused.or(answer.try_recv().ok());
        }
        assert_eq!(refused.unwrap().unwrap_err().code, "no_slot_token");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_late_is_told_once_a_day() {
    let relay = TestRelay::spawn().unwrap();
    let (_alice, bob) = two(&relay).await;
    let bob = bob.stop().await;
    at_rest(&bob, |core, tx| {
        let (row, stored) = group_of(tx, Kind::Group);
        for _ in 0..3 {
            core.unopened(tx, row, &MlsError::TooOld).unwrap();
        }
        let late = |text: &&String| text.contains("too late");
        assert_eq!(notices(tx, stored.conversation).iter().filter(late).count(), 1);
        let mut stored: state::Group = tx.get(row).unwrap().unwrap();
        stored.late_ms -= 24 * 60 * 60 * 1_000;
        tx.put(row, &stored).unwrap();
        core.unopened(tx, row, &MlsError::TooOld).unwrap();
        assert_eq!(notices(tx, stored.conversation).iter().filter(late).count(), 2);
    });
}
