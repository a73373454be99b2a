//! A client of a realm that is being moved: parts of it are served here, parts there, and each place
//! says `moved` of what is not its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::time::timeout;
use valise_client::proto::{
    ClientPacket, FrameId, MovePhase, Reason, ServerPacket, SlotId, Token, TokenKind,
};
use valise_client::{
    Client, Connection, ConversationId, Dial, OwnerKeyPair, RequestError, Settlement, StreamId,
    Update, Visit, VisitError, enroll,
};

use crate::check_frames;
use crate::stage::{CHAT, Manners, Node, Realm, Scene, until};

const SOON: Duration = Duration::from_secs(20);

/// Nodes a and b of a realm, and nobody connected.
async fn nodes() -> (Arc<Realm>, Node, Node) {
    let listeners = [
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let own = listeners.iter().map(|l| l.local_addr().unwrap().to_string());
    let realm = Realm::new(own.collect());
    let [a, b] = listeners.map(|listener| Node::serve(listener, Arc::clone(&realm)));
    (realm, a, b)
}

fn ids(node: &Node) -> Vec<FrameId> {
    node.posted().into_iter().map(|(id, _)| id).collect()
}

/// It may have been away when it was told to go.
#[tokio::test]
async fn a_mailbox_that_is_served_elsewhere_is_attached_there() {
    let (realm, a, b) = nodes().await;
    a.behave(Manners::Moved);
    let (client, mut updates) = Client::start(realm.dial(&a));
    let mailbox = client.serve(Arc::new(OwnerKeyPair::generate()), Token::new([7; 60]));
    let mut told = Vec::new();
    loop {
        let update = timeout(SOON, updates.next()).await.unwrap().unwrap();
        if matches!(update, Update::CaughtUp { .. }) {
            break;
        }
        told.push(update);
    }
    assert!(matches!(told[0], Update::Realm(_)));
    let there = Update::Prefers(Some(b.endpoint()));
    assert_eq!(told[1..], [Update::Connected, there], "no error, and nothing is lost");
    assert_eq!((a.connections(), b.connections()), (1, 1));
    let (held, attachment) = client.attachment(mailbox, Duration::ZERO).await.unwrap();
    let tokens = held.issue(attachment, TokenKind::Post, 1, 1, 0).await.unwrap();
    assert_eq!(tokens, [Token::new([b.port as u8; 60])]);
}

/// Two attaches under way in two places would take the mailbox from each other.
#[tokio::test]
async fn a_client_is_attached_in_one_place_at_a_time() {
    let (realm, a, b) = nodes().await;
    a.behave(Manners::Moved);
    b.behave(Manners::HoldsAttaches);
    let (client, mut updates) = Client::start(realm.dial(&a));
    client.serve(Arc::new(OwnerKeyPair::generate()), Token::new([7; 60]));
    until(|| b.attaches() == 1).await;
    // While it dialled there, it may have asked here again; what is under way comes.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = a.attaches();
    a.behave(Manners::Good);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((a.attaches(), b.attaches()), (before, 1), "it waits for the answer");
    b.release();
    let caught_up =
        async { while !matches!(updates.next().await.unwrap(), Update::CaughtUp { .. }) {} };
    timeout(SOON, caught_up).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((a.attaches(), b.attaches()), (before, 1), "and stays there");
}

#[tokio::test]
async fn a_client_that_is_turned_away_everywhere_goes_on_trying() {
    let (realm, a, b) = nodes().await;
    a.behave(Manners::Moved);
    b.behave(Manners::Moved);
    let (client, mut updates) = Client::start(realm.dial(&a));
    client.serve(Arc::new(OwnerKeyPair::generate()), Token::new([7; 60]));
    until(|| a.attaches() + b.attaches() >= 8).await;
    let tries = a.attaches() + b.attaches();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(a.attaches() + b.attaches() < tries + 20, "less and less often");
    b.behave(Manners::Good);
    let caught_up = async {
        loop {
            match updates.next().await.unwrap() {
                Update::CaughtUp { .. } => return,
                Update::Realm(_) | Update::Connected | Update::Prefers(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(SOON, caught_up).await.unwrap();
}

/// The data centre ends no attachment at the supernode, which says nothing of it either.
#[tokio::test]
async fn a_move_needs_no_farewell() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    scene.realm.is_quiet.store(true, Ordering::Relaxed);
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
    until(|| a.state().connections[0].is_closed()).await;
}

#[tokio::test]
async fn a_post_goes_where_its_mailbox_is_served() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    // One frame for three mailboxes: two of them have moved.
    let other = ConversationId(2);
    let targets = [1, 2, 3].map(|mailbox| Token::new([mailbox; 60]));
    scene.client.open(other, StreamId::new([2; 16]), targets.to_vec(), 1);
    a.behave(Manners::Serves(1));
    scene.client.send(other, Bytes::from_static(b"one")).unwrap();
    for _ in 0..3 {
        let Update::Settled(settled) = scene.next().await else { panic!("something else") };
        assert_eq!(settled.fate, Settlement::Accepted);
    }
    assert_eq!((ids(&a).len(), ids(&b).len()), (1, 1));
    assert_eq!(ids(&a), ids(&b), "the same frame");
    assert_eq!(capabilities(&b), [targets[1..].to_vec()], "and only where it was turned away");
    // What comes later goes there at once, over the same connection.
    for _ in 0..2 {
        scene.client.send(other, Bytes::from_static(b"more")).unwrap();
        for _ in 0..3 {
            assert!(matches!(scene.next().await, Update::Settled(_)));
        }
    }
    assert_eq!(capabilities(&a)[1..], [targets[..1].to_vec(), targets[..1].to_vec()]);
    assert_eq!((a.connections(), b.connections(), b.attaches()), (1, 1, 0));
}

fn capabilities(node: &Node) -> Vec<Vec<Token>> {
    let of = |packet: &ClientPacket<Bytes>| match packet {
        ClientPacket::Post(post) => Some(post.capabilities.clone()),
        _ => None,
    };
    node.state().said.iter().filter_map(of).collect()
}

/// Nothing says which of the places is the other side.
#[tokio::test]
async fn the_place_that_serves_a_mailbox_is_found_among_several() {
    let mut listeners = Vec::new();
    for _ in 0..4 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let own = listeners.iter().map(|l| l.local_addr().unwrap().to_string());
    let realm = Realm::new(own.collect());
    let serve = |listener| Node::serve(listener, Arc::clone(&realm));
    let all: Vec<Node> = listeners.into_iter().map(serve).collect();
    all[..3].iter().for_each(|node| node.behave(Manners::Moved));
    let (client, _updates) = Client::start(realm.dial(&all[0]));
    client.open(CHAT, StreamId::random(), vec![Token::new([8; 60])], 1);
    for count in 1..3 {
        client.send(CHAT, Bytes::from_static(b"text")).unwrap();
        timeout(SOON, client.settled()).await.unwrap();
        assert_eq!(all[3].posted().len(), count);
    }
    assert!(all.iter().all(|node| node.connections() == 1), "each was asked once");
    assert_eq!((all[1].posted().len(), all[2].posted().len()), (1, 1));
}

/// The lane's order is kept, whichever side accepts, and however often it changes.
#[tokio::test]
async fn a_lane_stays_in_order_while_its_mailbox_moves_to_and_fro() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    let turns = [
        (Manners::Moved, Manners::Good),
        (Manners::Good, Manners::Moved),
        (Manners::Moved, Manners::Moved),
        (Manners::Moved, Manners::Good),
    ];
    for (here, there) in turns {
        a.behave(here);
        b.behave(there);
        for _ in 0..3 {
            scene.client.send(CHAT, Bytes::from_static(b"text")).unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    timeout(SOON, scene.client.settled()).await.unwrap();
    check_frames([&a, &b], 12);
    // Nothing newer was said anywhere before what came before it was accepted.
    let mut next = 1;
    while next <= 12 {
        let Update::Settled(settled) = scene.next().await else { panic!("something else") };
        assert_eq!((settled.counters.start, settled.fate), (next, Settlement::Accepted));
        next = settled.counters.end;
    }
}

/// A supernode goes on taking posts for what has moved, and passes them on: who never asks elsewhere
/// would use it for ever.
#[tokio::test]
async fn a_second_connection_that_is_told_to_go_is_given_up() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.behave(Manners::Moved);
    scene.send().await;
    a.behave(Manners::Good);
    scene.send().await;
    assert_eq!((a.posted().len(), b.posted().len()), (1, 2), "nobody has said anything");
    b.go(&[a.endpoint()]);
    until(|| b.state().connections[0].is_closed()).await;
    scene.send().await;
    scene.send().await;
    assert_eq!((a.posted().len(), b.posted().len()), (3, 2));
    assert_eq!((a.connections(), b.connections()), (1, 1));
}

/// The one that is held for the move is used for what has moved before the client.
#[tokio::test]
async fn what_is_held_is_used() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.say_move(MovePhase::Prepare, &[b.endpoint()]);
    until(|| b.connections() == 1).await;
    a.behave(Manners::Moved);
    scene.send().await;
    assert_eq!((b.connections(), b.posted().len()), (1, 1));
    // A post that it owes an outcome is awaited through the move.
    b.behave(Manners::Holds);
    scene.client.send(CHAT, Bytes::from_static(b"text")).unwrap();
    until(|| b.posted().len() == 2).await;
    a.go(&[b.endpoint()]);
    until(|| b.attaches() == 1).await;
    b.behave(Manners::Good);
    b.release();
    timeout(SOON, scene.client.settled()).await.unwrap();
    assert_eq!((b.connections(), b.posted().len()), (1, 2), "and not repeated");
}

#[tokio::test]
async fn a_connection_that_was_held_and_is_lost_is_opened_again() {
    let scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.say_move(MovePhase::Prepare, &[b.endpoint()]);
    for count in 1..4 {
        until(|| b.connections() == count).await;
        until(|| b.state().said.len() == count).await;
        b.say(ServerPacket::Closing(None));
    }
    assert_eq!((a.connections(), a.attaches()), (1, 1));
}

#[tokio::test]
async fn what_is_asked_is_asked_where_it_is_served() {
    let scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.behave(Manners::Moved);
    let slots = [SlotId::new([1; 32])];
    let read =
        scene.client.ask(Duration::ZERO, async |connection| connection.get_slots(&slots).await);
    assert_eq!(read.await.unwrap(), [None]);
    assert_eq!((a.connections(), b.connections(), b.attaches()), (1, 1, 0));
    // A post for three: one is served here, and two are not.
    a.behave(Manners::Serves(1));
    let targets = [1, 2, 3].map(|mailbox| Token::new([mailbox; 60]));
    let payload = Bytes::from(vec![0; 512]);
    let id = FrameId::new([9; 16]);
    let posted = scene.client.post(Duration::ZERO, id, &targets, 0, payload).await.unwrap();
    assert_eq!(posted.outcomes, [Some(Reason::Accepted); 3]);
    assert_eq!(capabilities(&a).last().unwrap()[..], targets);
    assert_eq!(capabilities(&b).last().unwrap()[..], targets[1..]);
    // Where nobody serves it, that is the answer, after some seconds.
    a.behave(Manners::Moved);
    b.behave(Manners::Moved);
    let read =
        scene.client.ask(Duration::ZERO, async |connection| connection.get_slots(&slots).await);
    assert!(read.await.is_err());
}

/// What concerns an attachment can be asked only where the mailbox is: the client goes there, though
/// nobody has told it to.
#[tokio::test]
async fn a_client_follows_its_mailbox() {
    let scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.behave(Manners::Moved);
    let mailbox = scene.mailbox;
    let issued =
        scene.client.ask_of(mailbox, Duration::ZERO, |connection, attachment| async move {
            connection.issue(attachment, TokenKind::Post, 1, 1, 0).await
        });
    let issued = timeout(SOON, issued).await.unwrap().unwrap();
    assert_eq!(issued, [Token::new([b.port as u8; 60])]);
    until(|| a.state().connections[0].is_closed()).await;
    assert_eq!(b.attaches(), 1);
}

/// A relay that moves into a data centre serves its client no more: a move that was in vain, because
/// the data centre was not ready or the connection broke, is tried again long before it is said again.
#[tokio::test]
async fn a_move_into_a_data_centre_that_was_in_vain_is_tried_again() {
    for manners in [Manners::Moved, Manners::Refuses] {
        let mut scene = Scene::new(&[]).await;
        let (a, b) = (scene.a.clone(), scene.b.clone());
        b.behave(manners);
        let record = scene.realm.signed(6, vec![a.endpoint(), b.endpoint()]);
        b.state().shows = Some((6, vec![a.endpoint(), b.endpoint()]));
        a.say_with(MovePhase::Go, &[b.endpoint()], Some(record));
        until(|| b.attaches() >= 2).await;
        b.behave(Manners::Good);
        scene.moves_to(&b).await;
    }
}

#[tokio::test]
async fn the_newest_record_counts_and_is_handed_over() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    let newest = scene.realm.signed(6, vec![b.endpoint()]);
    b.state().shows = Some((6, vec![b.endpoint()]));
    a.say_with(MovePhase::Go, &[b.endpoint()], Some(newest.clone()));
    scene.moves_to(&b).await;
    assert_eq!(scene.told.len(), 2, "the first one, and this");
    assert_eq!(scene.told[1], newest);
    let ClientPacket::Hello(hello) = b.state().said[0].clone() else { panic!("no hello") };
    assert_eq!(hello.realm_epoch, 6);
    // Whoever shows an older one is told nothing, and not even where there is nobody else.
    let before = a.state().said.len();
    b.state().shows = Some((5, vec![a.endpoint(), b.endpoint()]));
    b.say(ServerPacket::Closing(None));
    for _ in 0..2 {
        assert!(matches!(scene.next().await, Update::Disconnected { .. }), "it goes on trying");
    }
    assert_eq!(a.state().said.len(), before);
    b.state().shows = Some((6, vec![b.endpoint()]));
    loop {
        match scene.next().await {
            Update::Disconnected { .. } => {}
            Update::Connected => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(scene.told.len(), 2, "nothing is taken back");
}

/// The supernode is gone, and so is its address.
#[tokio::test]
async fn the_record_that_was_kept_leads_there_after_a_restart() {
    let (realm, a, b) = nodes().await;
    let record = realm.signed(6, vec![b.endpoint()]);
    realm.record.lock().unwrap().clone_from(&(6, vec![b.endpoint()]));
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Node { port: listener.local_addr().unwrap().port(), ..a }
    };
    let dial = Dial { realm_record: Some(record), ..realm.dial(&gone) };
    let (client, _updates) = Client::start(dial);
    let held = timeout(SOON, client.connection(SOON)).await.unwrap().unwrap();
    held.ping().await.unwrap();
    assert_eq!(b.connections(), 1);
    // Somebody else has the address now: no reason to stop while the others are away.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let impostor = Node::serve(listener, Realm::new(Vec::new()));
    let record = realm.signed(7, vec![gone.endpoint()]);
    let dial = Dial { realm_record: Some(record), ..realm.dial(&impostor) };
    let (client, mut updates) = Client::start(dial);
    client.serve(Arc::new(OwnerKeyPair::generate()), Token::new([7; 60]));
    let update = timeout(SOON, updates.next()).await.unwrap().unwrap();
    assert!(matches!(update, Update::Disconnected { .. }), "{update:?}");
}

/// A host that swallows everything is not waited for alone.
#[tokio::test]
async fn a_silent_address_is_not_waited_for_alone() {
    let (realm, a, b) = nodes().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = Node { port: silent.local_addr().unwrap().port(), ..a };
    let dial = Dial {
        realm_record: Some(realm.signed(5, vec![b.endpoint()])),
        timeout: Duration::from_secs(60),
        ..realm.dial(&gone)
    };
    let (client, _updates) = Client::start(dial);
    timeout(SOON, client.connection(SOON)).await.unwrap().unwrap();
    assert_eq!(b.connections(), 1);
}

/// An invite names one place of the realm, and it may be any of them.
#[tokio::test]
async fn a_new_member_finds_the_place_that_takes_it() {
    let (realm, a, b) = nodes().await;
    a.behave(Manners::Moved);
    let (dial, owner) = (realm.dial(&a), OwnerKeyPair::generate());
    let enrolled = timeout(SOON, enroll(&dial, &owner, None, 1, 1)).await.unwrap().unwrap();
    assert_eq!(enrolled.member_token, Token::new([b.port as u8; 60]));
    assert_eq!(enrolled.capabilities, [Token::new([b.port as u8; 60])]);
    assert_eq!((a.connections(), b.connections()), (1, 1), "asked once here, and then there");
}

/// The code and the mailbox are of different shards, and the second is still here.
#[tokio::test]
async fn a_visitor_comes_back_to_the_place_that_sent_it_away() {
    let (realm, a, b) = nodes().await;
    a.behave(Manners::Moved);
    let mut visit = Visit::new(&realm.dial(&a));
    let owner = &OwnerKeyPair::generate();
    let join = |connection: Connection| async move { connection.join(owner, None).await };
    assert_eq!(visit.ask(join).await.unwrap(), Token::new([b.port as u8; 60]));
    a.behave(Manners::Good);
    b.behave(Manners::Moved);
    let slots = [SlotId::new([1; 32])];
    let read = |connection: Connection| async move { connection.get_slots(&slots).await };
    assert_eq!(visit.ask(read).await.unwrap(), [None]);
    assert_eq!((a.connections(), b.connections()), (2, 1));
}

/// The place that serves was not there when the visitor came by.
#[tokio::test]
async fn a_visitor_asks_a_place_again_that_was_silent() {
    let [first, second] =
        [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await];
    let (first, second) = (first.unwrap(), second.unwrap());
    let own = [&first, &second].map(|listener| listener.local_addr().unwrap().to_string());
    let realm = Realm::new(own.to_vec());
    let a = Node::serve(first, Arc::clone(&realm));
    a.behave(Manners::Moved);
    let mut visit = Visit::new(&realm.dial(&a));
    let owner = &OwnerKeyPair::generate();
    let asking =
        visit.ask(|connection: Connection| async move { connection.join(owner, None).await });
    // Whoever dials it finds nobody, until the first one has been asked twice.
    let coming = async {
        loop {
            tokio::select! {
                dialled = second.accept() => drop(dialled),
                () = until(|| a.connections() >= 2) => break,
            }
        }
        Node::serve(second, Arc::clone(&realm))
    };
    let (joined, b) = tokio::join!(asking, coming);
    assert_eq!(joined.unwrap(), Token::new([b.port as u8; 60]));
}

#[tokio::test]
async fn a_visitor_that_is_turned_away_everywhere_is_told_so() {
    let (realm, a, b) = nodes().await;
    a.behave(Manners::Moved);
    b.behave(Manners::Moved);
    let (dial, owner) = (realm.dial(&a), OwnerKeyPair::generate());
    let asked = enroll(&dial, &owner, None, 0, 0);
    let error = timeout(SOON, asked).await.unwrap().unwrap_err();
    let VisitError::Request(RequestError::Refused { reason, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(reason, Some(Reason::Moved));
    assert_eq!(a.connections() + b.connections(), 8, "it gives up");
}
