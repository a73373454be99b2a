//! A client that is told to move. Handmade relays of one realm say so, rightly or wrongly, and keep
//! count of what they are told.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

mod moved;
mod stage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use stage::{CHAT, Manners, Node, Realm, Scene, deliver, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use valise_client::proto::{ClientPacket, FrameId, MovePhase, ServerPacket, Token};
use valise_client::{Client, ConversationId, Envelope, SocksProxy, Stop, StreamId, Update};

#[tokio::test]
async fn the_client_goes_where_it_is_sent_and_nobody_sees_it() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    scene.send().await;
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
    // What comes there is for the application.
    b.say(deliver(1));
    assert!(matches!(scene.next().await, Update::Message { .. }));
    assert_eq!((a.connections(), b.connections()), (1, 1));
    // The old connection is closed, and b is where it comes back to.
    until(|| a.state().connections[0].is_closed()).await;
    b.say(ServerPacket::Closing(None));
    assert!(matches!(scene.next().await, Update::Disconnected { .. }));
    assert_eq!(scene.next().await, Update::Connected);
    assert_eq!((a.connections(), b.connections()), (1, 2));
}

#[tokio::test]
async fn a_place_that_the_record_does_not_list_is_not_dialled() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = trap.local_addr().unwrap().to_string();
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.go(std::slice::from_ref(&elsewhere));
    a.go(&[b.endpoint(), elsewhere]);
    scene.send().await;
    assert!(timeout(Duration::from_millis(500), trap.accept()).await.is_err(), "it was dialled");
    assert_eq!(b.connections(), 0, "the packet is ignored as a whole");
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
}

#[tokio::test]
async fn from_a_dead_place_the_client_comes_back_to_where_it_never_left() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = dead.local_addr().unwrap().to_string();
    drop(dead);
    let mut scene = Scene::new(std::slice::from_ref(&gone)).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.go(std::slice::from_ref(&gone));
    assert_eq!(scene.next().await, Update::Prefers(Some(gone.clone())));
    for _ in 0..20 {
        scene.send().await;
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((a.connections(), a.attaches()), (1, 1), "it is where it was");
    // The next of several is taken.
    a.go(&[gone.clone(), b.endpoint()]);
    until(|| b.attaches() == 1).await;
    scene.send().await;
}

#[tokio::test]
async fn an_impostor_is_told_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let impostor = Node::serve(listener, Realm::new(Vec::new()));
    let mut scene = Scene::new(&[impostor.endpoint()]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.go(&[impostor.endpoint()]);
    assert_eq!(scene.next().await, Update::Prefers(Some(impostor.endpoint())));
    until(|| impostor.connections() == 1).await;
    assert_eq!(scene.next().await, Update::Prefers(None), "nor is it where to begin next time");
    for _ in 0..10 {
        scene.send().await;
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((a.connections(), a.attaches()), (1, 1), "it is where it was");
    assert!(impostor.state().said.is_empty(), "not even a hello");
    a.go(&[impostor.endpoint(), b.endpoint()]);
    scene.moves_to(&b).await;
    assert_eq!(impostor.connections(), 1, "it is not asked again");
}

/// Each message is in one frame, whatever became of the connection that it was posted on.
fn check_frames(nodes: [&Node; 2], messages: u64) {
    let mut frames: HashMap<FrameId, Envelope> = HashMap::new();
    for (id, envelope) in nodes.iter().flat_map(|node| node.posted()) {
        let known = frames.entry(id).or_insert_with(|| envelope.clone());
        assert_eq!(*known, envelope, "the same id is the same frame");
    }
    let mut counters: Vec<u64> = frames
        .values()
        .flat_map(|envelope| {
            let first = envelope.first_counter;
            first..first + envelope.messages.len() as u64
        })
        .collect();
    counters.sort_unstable();
    assert_eq!(counters, (1..=messages).collect::<Vec<_>>(), "in two frames, or in none");
}

#[tokio::test]
async fn a_post_under_way_is_awaited() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.behave(Manners::Holds);
    // Several conversations, so that posts to one place do not wait for each other.
    for n in 2..8 {
        scene.client.open(
            ConversationId(n),
            StreamId::random(),
            vec![Token::new([n as u8; 60])],
            1,
        );
        scene.client.send(ConversationId(n), Bytes::from_static(b"text")).unwrap();
    }
    until(|| a.posted().len() == 6).await;
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
    assert_eq!(scene.client.unsettled(), 6);
    a.release();
    timeout(Duration::from_secs(5), scene.client.settled()).await.unwrap();
    let there = b.posted();
    for (id, _) in a.posted() {
        assert!(there.iter().all(|(other, _)| *other != id), "it was accepted once");
    }
    until(|| a.state().connections[0].is_closed()).await;
}

#[tokio::test]
async fn a_post_whose_answer_is_lost_is_repeated_with_its_id() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.behave(Manners::Holds);
    scene.client.send(CHAT, Bytes::from_static(b"one")).unwrap();
    until(|| a.posted().len() == 1).await;
    for _ in 0..3 {
        scene.client.send(CHAT, Bytes::from_static(b"more")).unwrap();
    }
    a.go(&[b.endpoint()]);
    until(|| b.attaches() == 1).await;
    assert_eq!(scene.next().await, Update::Prefers(Some(b.endpoint())));
    // The order is kept: what comes after it waits for it.
    sleep(Duration::from_millis(100)).await;
    assert_eq!(b.posted(), []);
    a.say(ServerPacket::Closing(None));
    timeout(Duration::from_secs(10), scene.client.settled()).await.unwrap();
    assert_eq!(b.posted()[0].0, a.posted()[0].0);
    check_frames([&a, &b], 4);
}

#[tokio::test]
async fn what_an_application_has_asked_is_answered() {
    let scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    let held = scene.client.connection(Duration::ZERO).await.unwrap();
    a.behave(Manners::Holds);
    let asked = tokio::spawn(async move { held.ping().await });
    until(|| !a.state().held.is_empty()).await;
    a.go(&[b.endpoint()]);
    until(|| b.attaches() == 1).await;
    // Whoever asks now asks there.
    let until_there = async {
        loop {
            let held = scene.client.connection(Duration::ZERO).await.unwrap();
            if timeout(Duration::from_millis(50), held.ping()).await.is_ok() {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), until_there).await.unwrap();
    a.release();
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_node_that_does_not_attach_is_left_alone() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    b.behave(Manners::Refuses);
    a.go(&[b.endpoint()]);
    until(|| b.attaches() == 1).await;
    assert_eq!(scene.next().await, Update::Prefers(Some(b.endpoint())));
    until(|| b.state().connections[0].is_closed()).await;
    a.say(deliver(1));
    let Update::Message { receipt, .. } = scene.next().await else { panic!("no message") };
    scene.client.acknowledge(receipt);
    let is_ack = |packet: &ClientPacket<Bytes>| matches!(packet, ClientPacket::Ack { n: 1, .. });
    until(|| a.state().said.iter().any(is_ack)).await;
    scene.send().await;
    assert_eq!(a.connections(), 1);
}

/// `Replaced` comes from the client's own attach there, of which it never hears.
#[tokio::test]
async fn a_node_that_dies_while_it_attaches_is_not_another_device() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    b.behave(Manners::Dies);
    a.go(&[b.endpoint()]);
    assert_eq!(scene.next().await, Update::Prefers(Some(b.endpoint())));
    assert_eq!(scene.next().await, Update::Connected, "it comes back, where it can");
    assert!(matches!(scene.next().await, Update::CaughtUp { .. }));
    assert_eq!((a.attaches(), b.attaches()), (2, 1));
    scene.send().await;
    drop(scene.realm);
}

/// The relay may have got the first attach, and see to it after the second.
#[tokio::test]
async fn an_attach_that_was_never_answered_is_not_another_device() {
    let mut scene = Scene::new(&[]).await;
    let a = scene.a.clone();
    for once in [true, false] {
        a.behave(Manners::Dies);
        scene.client.reconnect();
        let attaches = a.attaches() + 1;
        until(|| a.attaches() == attaches).await;
        a.behave(Manners::Good);
        until(|| a.attaches() == attaches + 1).await;
        let attached_again = |update: &Update| matches!(update, Update::CaughtUp { .. });
        while !attached_again(&scene.next().await) {}
        a.say(ServerPacket::Replaced { attachment: 0 });
        while !attached_again(&scene.next().await) {}
        assert_eq!(a.attaches(), attaches + 2);
        // That was the one; whoever comes now is another device.
        if !once {
            a.say(ServerPacket::Replaced { attachment: 0 });
            assert!(matches!(scene.next().await, Update::Replaced { .. }));
            assert_eq!(scene.next().await, Update::GaveUp(Stop::Replaced));
        }
    }
}

#[tokio::test]
async fn a_connection_is_held_until_it_is_wanted() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.say_move(MovePhase::Prepare, &[b.endpoint()]);
    until(|| !b.state().said.is_empty()).await;
    let hello = b.state().said[0].clone();
    let ClientPacket::Hello(hello) = hello else { panic!("{hello:?}") };
    assert!(hello.member_token.is_some(), "so that it may wait");
    scene.send().await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!((a.posted().len(), b.attaches()), (1, 0), "it waits");
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
    assert_eq!(b.connections(), 1, "the one that was held");
}

/// For a relay where others have their mailboxes.
#[tokio::test]
async fn a_client_that_nobody_needs_just_goes() {
    let listeners = [
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let own = listeners.iter().map(|l| l.local_addr().unwrap().to_string());
    let realm = Realm::new(own.collect());
    let [a, b] = listeners.map(|listener| Node::serve(listener, Arc::clone(&realm)));
    let (client, mut updates) = Client::start_on_demand(realm.dial(&a), Duration::from_secs(60));
    client.connection(Duration::ZERO).await.unwrap().ping().await.unwrap();
    a.go(&[b.endpoint()]);
    until(|| a.state().connections[0].is_closed()).await;
    assert_eq!(b.connections(), 0, "not before there is a reason");
    client.connection(Duration::ZERO).await.unwrap().ping().await.unwrap();
    assert_eq!((a.connections(), b.connections()), (1, 1));
    assert!(matches!(updates.next().await, Some(Update::Realm(_))));
    assert_eq!(updates.next().await, Some(Update::Connected));
    assert_eq!(updates.next().await, Some(Update::Prefers(Some(b.endpoint()))));
    assert_eq!(updates.next().await, Some(Update::Connected));
    // One that is in use is moved.
    let held = client.connection(Duration::ZERO).await.unwrap();
    b.go(&[a.endpoint()]);
    until(|| a.connections() == 2).await;
    held.ping().await.unwrap();
    drop(held);
    until(|| b.state().connections[0].is_closed()).await;
}

#[tokio::test]
async fn a_move_goes_through_the_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked: Arc<Mutex<Vec<u16>>> = Arc::default();
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let (mut methods, mut request) = ([0; 3], [0; 10]);
                client.read_exact(&mut methods).await.unwrap();
                client.write_all(&[5, 0]).await.unwrap();
                client.read_exact(&mut request).await.unwrap();
                let port = u16::from_be_bytes([request[8], request[9]]);
                noted.lock().unwrap().push(port);
                client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
                let mut relay = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                copy_bidirectional(&mut client, &mut relay).await.ok();
            });
        }
    });
    let proxy = SocksProxy { host: "127.0.0.1".to_owned(), port, credentials: None };
    let mut scene = Scene::dialling(&[], |dial| dial.proxy = Some(proxy)).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
    assert_eq!(*asked.lock().unwrap(), [a.port, b.port]);
}
