//! A member of a group who uses the account of somebody known, under another root key.

#![allow(clippy::unwrap_used)]

mod common;

use common::forge::{self, Me};
use common::{Person, introduce};
use prost::Message as _;
use valise_chat_core::api::{Command, Joined, Member, MessageKind, MessageState};
use valise_chat_core::identity::{AccountId, RootKey, SignedRecord};
use valise_chat_core::mls::Device;
use valise_chat_core::wire;
use valise_client::testing::TestRelay;
use valise_proto::RelayAddress;

/// Somebody with a root key of its own, who says that an account of somebody else's is its own.
async fn impostor(name: &str, account: &str, relay: &RelayAddress) -> Person {
    let person = Person::new(name, relay).await.stop().await;
    let account = AccountId::from_text(account).unwrap();
    forge::me(&person, |me: &mut Me| {
        let root = RootKey::from_seed(&me.root_seed[..].try_into().unwrap());
        let signature_seed = me.signature_seed[..].try_into().unwrap();
        let device = wire::DeviceRecord {
            device: me.device.clone(),
            signature_key: Device::public_key(&signature_seed).to_vec(),
            hpke_key: me.hpke_public.clone(),
            name: "a laptop".to_owned(),
            since_ms: 1,
        };
        let record = SignedRecord::first(&root, account, device, [7; 32]).unwrap();
        me.account = account.as_bytes().to_vec();
        me.signed_record = wire::SignedRecord::from(record).encode_to_vec();
        // Its key packages were certified for another account.
        me.bundle_published = false;
        me.bundle_ms = 0;
    });
    person.start().await
}

async fn notices(person: &Person, conversation: i64) -> Vec<String> {
    let messages = person.messages(conversation).await.into_iter();
    messages.filter(|m| m.kind == MessageKind::Notice).map(|m| m.text).collect()
}

async fn member_like_bob(person: &Person, conversation: i64) -> Member {
    person
        .until("a member", async || {
            let members: Vec<Member> = person.ask(Command::Members { conversation }).await;
            members.into_iter().find(|member| member.name.contains("Bob"))
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_in_a_group_is_named_as_one() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let carol = Person::new("Carol", &address).await;
    let (with_bob, _) = introduce(&alice, &bob).await;
    introduce(&alice, &carol).await;
    let account = alice.contact("Bob").await.account;
    alice
        .ask::<Option<()>>(Command::MarkVerified { account: account.clone(), verified: true })
        .await;
    // Carol does not know Bob, and takes another for him.
    let false_bob = impostor("Bob", &account, &address).await;
    introduce(&carol, &false_bob).await;
    assert_eq!(carol.contact("Bob").await.account, account);

    // A group that Alice is in when the impostor comes.
    let members = vec![carol.contact("Alice").await.account];
    let create = Command::GroupCreate { name: "Before".to_owned(), members };
    let before = carol.ask::<Joined>(create).await.conversation;
    let at_alice = alice.conversation("Before").await.number;
    let add = Command::GroupAdd { conversation: before, account: account.clone() };
    carol.ask::<Option<()>>(add).await;
    // And one that she is brought into.
    let members = vec![carol.contact("Alice").await.account, account.clone()];
    let create = Command::GroupCreate { name: "After".to_owned(), members };
    carol.ask::<Joined>(create).await;
    let brought = alice.conversation("After").await.number;

    for conversation in [at_alice, brought] {
        let member = member_like_bob(&alice, conversation).await;
        assert_eq!(member.name, "somebody who claims to be Bob");
        assert!(member.other_key && !member.verified, "{member:?}");
        let told = alice
            .until("the notice", async || {
                let told = notices(&alice, conversation).await;
                let told: Vec<_> =
                    told.into_iter().filter(|t| t.contains("another account key")).collect();
                (!told.is_empty()).then_some(told)
            })
            .await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("it can read") && told[0].contains("leave the group"), "{told:?}");
    }
    // Nothing of it is shown, and what is said to the group reaches everyone.
    let at_false = false_bob.conversation("Before").await.number;
    let lie = false_bob.send(at_false, "I am Bob").await;
    false_bob.ask::<Option<()>>(Command::Rename { name: "Robert".to_owned() }).await;
    false_bob.state(at_false, lie, MessageState::Relayed).await;
    let said = alice.send(at_alice, "who is this?").await;
    alice.state(at_alice, said, MessageState::Delivered).await;
    assert_eq!(alice.texts(at_alice, 1).await, ["who is this?"]);
    // The contact is as it was.
    let contact = alice.contact("Bob").await;
    assert!(contact.verified && !contact.identity_reset, "{contact:?}");
    alice.send(with_bob, "there is somebody who says to be you").await;
    bob.texts(bob.conversation("Alice").await.number, 1).await;
    // It can be removed like anybody.
    let remove = Command::GroupRemove { conversation: at_alice, account };
    alice.ask::<Option<()>>(remove).await;
    let last = notices(&alice, at_alice).await.pop().unwrap();
    assert!(last.starts_with("somebody who claims to be Bob is no longer"), "{last}");
}

/// Who was a stranger in a group is somebody else than the person met later.
#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_is_found_when_the_real_one_is_met() {
    let relay = TestRelay::spawn().unwrap();
    let address = relay.address().clone();
    let alice = Person::new("Alice", &address).await;
    let bob = Person::new("Bob", &address).await;
    let carol = Person::new("Carol", &address).await;
    introduce(&alice, &carol).await;
    let dora = Person::new("Dora", &address).await;
    introduce(&dora, &bob).await;
    let account = dora.contact("Bob").await.account;
    let false_bob = impostor("Bob", &account, &address).await;
    introduce(&carol, &false_bob).await;
    let members = vec![carol.contact("Alice").await.account, account];
    let create = Command::GroupCreate { name: "G".to_owned(), members };
    carol.ask::<Joined>(create).await;
    let group = alice.conversation("G").await.number;
    let member = member_like_bob(&alice, group).await;
    assert!(!member.other_key, "nothing is known of that account yet: {member:?}");
    introduce(&alice, &bob).await;
    alice
        .until("the notice", async || {
            let told = notices(&alice, group).await;
            told.last()?.contains("another account key").then_some(())
        })
        .await;
    assert!(member_like_bob(&alice, group).await.other_key);
}
