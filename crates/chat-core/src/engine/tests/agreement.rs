//! How members agree on commits when somebody among them, or the relay, is hostile: whoever cannot
//! follow is let in again, and nobody is drawn aside.

use valise_client::testing::TestRelay;
use valise_client::{SlotPut, random};
use valise_proto::{PutId, SlotId, Token};

use super::common::{Person, introduce, passphrase};
use crate::api::{Command, Joined};
use crate::engine::core::Core;
use crate::engine::records::state;
use crate::vault::{Transaction, Vault, VaultError};
use crate::wire::group_info::Kind;

/// A profile whose engine does not run, as the engine would load it. What is done is kept.
pub(super) fn at_rest<R>(
    person: &Person,
    work: impl FnOnce(&mut Core, &Transaction<'_>) -> R,
) -> R {
    let mut vault = Vault::open(&person.path(), &passphrase()).unwrap();
    let done = vault.write(|tx| {
        let mut core = Core::load(tx).unwrap();
        Ok::<_, VaultError>(work(&mut core, tx))
    });
    done.unwrap()
}

/// The only group of this kind.
pub(super) fn group_of(tx: &Transaction<'_>, kind: Kind) -> (i64, state::Group) {
    let mut all = tx.all::<state::Group>().unwrap();
    all.retain(|(_, stored)| stored.kind == kind as u32);
    assert_eq!(all.len(), 1);
    all.pop().unwrap()
}

pub(super) async fn make_group(founder: &Person, name: &str, members: &[&Person]) -> i64 {
    let mut accounts = Vec::new();
    for member in members {
        accounts.push(founder.contact(&member.name).await.account);
    }
    let create = Command::GroupCreate { name: name.to_owned(), members: accounts };
    let made = founder.ask::<Joined>(create).await.conversation;
    for member in members {
        member.conversation(name).await;
    }
    made
}

/// Alice and Bob in a group that Alice has made.
pub(super) async fn two(relay: &TestRelay) -> (Person, Person) {
    let alice = Person::new("Alice", relay.address()).await;
    let bob = Person::new("Bob", relay.address()).await;
    introduce(&alice, &bob).await;
    make_group(&alice, "Trip", &[&bob]).await;
    (alice, bob)
}

pub(super) async fn rename(person: &Person, conversation: i64, name: &str) {
    let rename = Command::GroupRename { conversation, name: name.to_owned() };
    person.ask::<Option<()>>(rename).await;
}

pub(super) async fn put(relay: &TestRelay, token: &Token, slot: SlotId, value: bytes::Bytes) {
    let (connection, _incoming) = valise_client::connect(&relay.dial()).await.unwrap();
    let put_id = PutId::new(random::bytes());
    let put = connection.put_slot(token, slot, put_id, value).await.unwrap();
    assert_eq!(put, SlotPut::Stored);
    connection.close().await;
}
