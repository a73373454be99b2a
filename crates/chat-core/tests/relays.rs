//! No relay is contacted that the user was not asked about.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::forge::{self, Me, Sibling};
use common::{Person, introduce, link};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use valise_chat_core::api::{Command, Joined, MessageKind, MessageState, Relay};
use valise_chat_core::wire;
use valise_client::testing::TestRelay;
use valise_proto::RelayAddress;

/// The way to a relay, on which connections are counted.
struct Gate {
    address: RelayAddress,
    opened: Arc<AtomicUsize>,
}

impl Gate {
    async fn before(relay: &TestRelay) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let behind = (relay.address().host.clone(), relay.address().port);
        let opened = Arc::new(AtomicUsize::new(0));
        let counted = opened.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let behind = behind.clone();
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(behind).await.unwrap();
                    tokio::io::copy_bidirectional(&mut from, &mut to).await.ok();
                });
            }
        });
        Self { address: RelayAddress { port, ..relay.address().clone() }, opened }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

async fn allow(person: &Person, relay: &RelayAddress, allow: bool) {
    let relay = relay.to_string();
    person.ask::<Option<()>>(Command::AllowRelay { relay, allow }).await;
}

async fn relays(person: &Person) -> Vec<(String, bool)> {
    let relays: Vec<Relay> = person.ask(Command::Relays {}).await;
    relays.into_iter().filter(|relay| !relay.own).map(|r| (r.relay, r.allowed)).collect()
}

async fn refusal(person: &Person, command: Command) -> String {
    let refusal = person.engine().call(command).await.unwrap_err();
    assert_eq!(refusal.code, "new_relay", "{refusal}");
    refusal.message
}

/// The notices of a conversation that name a relay's address.
async fn asked(person: &Person, conversation: i64, relay: &RelayAddress) -> usize {
    let messages = person.messages(conversation).await;
    let step = format!("valise-chat relays allow {relay}");
    messages.iter().filter(|m| m.kind == MessageKind::Notice && m.text.contains(&step)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_a_new_relay_waits_until_the_user_allows_it() {
    let (one, other) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let gate = Gate::before(&other).await;
    let alice = Person::new("Alice", one.address()).await;
    let bob = Person::new("Bob", &gate.address).await;
    let link = alice.invite().await;
    let with_alice = bob.join(&link).await;
    bob.send(with_alice, "from over there").await;
    let with_bob = alice.conversation("Bob").await.number;
    assert_eq!(alice.texts(with_bob, 1).await, ["from over there"]);
    bob.settle().await;
    // Nobody else goes through the gate now.
    let bob = bob.stop().await;
    let before = gate.opened();
    let said = alice.send(with_bob, "who sees me?").await;
    let alice = alice.stop().await.start().await;
    let settle = Command::Settle { timeout_ms: 1_500 };
    alice.ask::<serde_json::Value>(settle).await;
    assert_eq!(gate.opened(), before, "nothing was contacted");
    let waiting = alice.conversation("Bob").await.waiting.unwrap();
    assert!(waiting.contains("Bob") && waiting.contains(&gate.address.to_string()), "{waiting}");
    assert_eq!(asked(&alice, with_bob, &gate.address).await, 1);
    assert_eq!(relays(&alice).await, [(gate.address.to_string(), false)]);

    allow(&alice, &gate.address, true).await;
    alice.state(with_bob, said, MessageState::Relayed).await;
    assert!(gate.opened() > before);
    assert_eq!(alice.conversation("Bob").await.waiting, None);
    let bob = bob.start().await;
    assert_eq!(bob.texts(with_alice, 2).await[1], "who sees me?");
    // It is remembered, and can be taken back.
    let alice = alice.stop().await.start().await;
    assert_eq!(relays(&alice).await, [(gate.address.to_string(), true)]);
    allow(&alice, &gate.address, false).await;
    alice.send(with_bob, "and now?").await;
    alice.until("it waits", async || alice.conversation("Bob").await.waiting.map(|_| ())).await;
    alice.ask::<Option<()>>(Command::AskRelays { ask: false }).await;
    assert_eq!(bob.texts(with_alice, 3).await[2], "and now?", "any relay is contacted now");
    alice.ask::<Option<()>>(Command::AskRelays { ask: true }).await;
    assert_eq!(relays(&alice).await, [(gate.address.to_string(), true)], "what was used stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_names_all_its_relays_before_they_are_contacted() {
    let (one, other) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let gate = Gate::before(&other).await;
    let alice = Person::new("Alice", one.address()).await;
    let phone = link(&alice, "phone").await;
    alice.settle().await;
    phone.settle().await;
    let alice = alice.stop().await;
    // As if the phone's mailbox were at the other relay.
    forge::change(&alice, |sibling: &mut Sibling| {
        let mut card = wire::DeviceCard::decode(sibling.card.as_slice()).unwrap();
        card.address.as_mut().unwrap().relay = gate.address.to_string();
        sibling.card = card.encode_to_vec();
    });
    let alice = alice.start().await;
    let link = alice.invite().await;
    let join = |allow_relay| Command::Join { link: link.clone(), allow_relay };
    let bob = Person::new("Bob", one.address()).await;
    let text = refusal(&bob, join(false)).await;
    assert!(text.contains(&format!("127.0.0.1:{}", gate.address.port)), "{text}");
    assert_eq!(gate.opened(), 0);
    // Whoever says yes to everything has not seen what the card names.
    let carol = Person::new("Carol", other.address()).await;
    let text = refusal(&carol, join(false)).await;
    assert!(text.contains(&format!("127.0.0.1:{}", one.address().port)), "{text}");
    let dora = Person::new("Dora", one.address()).await;
    refusal(&dora, join(true)).await;
    assert_eq!(gate.opened(), 0);
    // The second word is about what the first refusal has named.
    bob.ask::<Joined>(join(true)).await;
    assert!(gate.opened() > 0);
    assert_eq!(relays(&bob).await, [(gate.address.to_string(), true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_with_members_at_new_relays_ask_too() {
    let (one, other) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let alice = Person::new("Alice", one.address()).await;
    let bob = Person::new("Bob", one.address()).await;
    let carol = Person::new("Carol", other.address()).await;
    introduce(&alice, &bob).await;
    let link = carol.invite().await;
    alice.join(&link).await;
    carol.conversation("Alice").await;
    allow(&carol, one.address(), true).await;
    let account = alice.contact("Carol").await.account;
    alice
        .until("Carol's card", async || {
            let words = Command::Verify { account: account.clone() };
            alice.engine().call(words).await.ok().map(|_| ())
        })
        .await;
    let members = vec![alice.contact("Bob").await.account];
    let create = Command::GroupCreate { name: "Both".to_owned(), members };
    let in_alice = alice.ask::<Joined>(create).await.conversation;
    let add = Command::GroupAdd { conversation: in_alice, account };
    allow(&alice, other.address(), false).await;
    let text = refusal(&alice, add.clone()).await;
    assert!(text.contains(&other.address().to_string()), "{text}");
    allow(&alice, other.address(), true).await;
    alice.ask::<Option<()>>(add).await;
    let in_carol = carol.conversation("Both").await.number;
    let in_bob = bob.conversation("Both").await.number;
    bob.until("Carol", async || (bob.conversation("Both").await.members == 3).then_some(())).await;
    // Bob never met Carol's relay: his words wait for her, and only for her.
    bob.send(in_bob, "hello both").await;
    assert_eq!(alice.texts(in_alice, 1).await, ["hello both"]);
    bob.until("why it waits", async || bob.conversation("Both").await.waiting).await;
    assert_eq!(asked(&bob, in_bob, other.address()).await, 1);
    allow(&bob, other.address(), true).await;
    assert_eq!(carol.texts(in_carol, 1).await, ["hello both"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_before_the_question_goes_on() {
    let (one, other) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let alice = Person::new("Alice", one.address()).await;
    let bob = Person::new("Bob", other.address()).await;
    let with_alice = bob.join(&alice.invite().await).await;
    let with_bob = alice.conversation("Bob").await.number;
    let alice = alice.stop().await;
    forge::me(&alice, |me: &mut Me| me.relay_policy = 0);
    forge::clear::<forge::AskedRelay>(&alice);
    let alice = alice.start().await;
    alice.send(with_bob, "as ever").await;
    assert_eq!(bob.texts(with_alice, 1).await, ["as ever"]);
    assert_eq!(relays(&alice).await, [(other.address().to_string(), true)]);
}
