use std::collections::BTreeMap;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn named(node: usize) -> String {
    format!("node{node}.example:443")
}

fn places(nodes: usize) -> Vec<Place> {
    let mut places: Vec<_> =
        (0..nodes).map(|node| Place { endpoint: named(node), start: 1 }).collect();
    places.sort();
    places
}

/// Where each shard's clients belong.
fn homes(places: &[Place]) -> Vec<String> {
    (0..=u8::MAX).map(|shard| order(shard, places)[0].endpoint.clone()).collect()
}

fn said(node: usize, start: u64, state: State) -> Announcement {
    Announcement { endpoint: named(node), key: format!("key{node}"), start, state }
}

/// Node 0 of so many, all of which it has heard of at `now`.
fn first_of(nodes: usize, now: Instant) -> Steering {
    let mut steering = Steering::new("key0".to_owned(), 1, now);
    let listed = (0..nodes).map(named).collect();
    steering.served_at(Places { listed, own: Some(named(0)) });
    for node in 1..nodes {
        assert!(steering.hear(now, said(node, 1, State::Up)), "it is new");
    }
    steering
}

/// The others say again that they are there, and it is decided.
fn go_on(steering: &mut Steering, nodes: usize, now: Instant) -> Vec<Moving> {
    for node in 1..nodes {
        steering.hear(now, said(node, 1, State::Up));
    }
    steering.decide(now)
}

/// The same, after it has settled.
fn settled(nodes: usize, now: Instant) -> (Steering, Instant) {
    let mut steering = first_of(nodes, now);
    assert_eq!(steering.decide(now), []);
    let now = now + SETTLED;
    assert_eq!(go_on(&mut steering, nodes, now), []);
    (steering, now)
}

/// A shard whose clients belong to this one of three nodes.
fn shard_of(node: usize) -> u8 {
    let homes = homes(&places(3));
    (0..=u8::MAX).find(|shard| homes[usize::from(*shard)] == named(node)).unwrap()
}

#[test]
fn shards_are_spread_evenly() {
    for nodes in 1..=16 {
        let mut shards: BTreeMap<String, usize> = BTreeMap::new();
        for home in homes(&places(nodes)) {
            *shards.entry(home).or_default() += 1;
        }
        assert_eq!(shards.len(), nodes, "every node has some");
        let most = shards.values().max().unwrap();
        // 256 balls in so many bins: four standard deviations above the mean.
        let mean = 256.0 / nodes as f64;
        assert!((*most as f64) <= mean + 4.0 * mean.sqrt(), "{nodes} nodes: {shards:?}");
    }
}

#[test]
fn a_node_that_joins_takes_its_part_and_moves_nothing_else() {
    for nodes in 1..16 {
        let (before, after) = (homes(&places(nodes)), homes(&places(nodes + 1)));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
        assert!(moved.iter().all(|(_, to)| **to == named(nodes)), "only to the new one");
        let part = 256.0 / (nodes + 1) as f64;
        let off = (moved.len() as f64 - part).abs();
        assert!(off <= 4.0 * part.sqrt(), "{} of about {part} shards moved", moved.len());
    }
}

#[test]
fn a_node_that_goes_moves_its_own_shards_alone() {
    let all = places(5);
    for gone in 0..5 {
        let left: Vec<_> = all.iter().filter(|p| p.endpoint != named(gone)).cloned().collect();
        for (before, after) in homes(&all).iter().zip(homes(&left)) {
            assert!(*before == after || *before == named(gone));
        }
    }
}

/// Nodes that were started at another time, or on another day's record, come to the same.
#[test]
fn the_order_is_that_of_every_node_and_version() {
    let one = homes(&places(3));
    let again: Vec<_> =
        places(3).into_iter().rev().map(|p| Place { start: p.start + 7, ..p }).collect();
    assert_eq!(one, homes(&again));
    // Nodes of different versions serve one realm for a while.
    let digits: String = one[..24].iter().map(|home| &home[4..5]).collect();
    assert_eq!(digits, "111121111102111221100201");
}

#[test]
fn a_client_is_moved_to_where_it_belongs_once_that_is_known_for_sure() {
    let now = Instant::now();
    let mut steering = first_of(3, now);
    let there = steering.connected();
    steering.serves(there, Some(shard_of(1)));
    let here = steering.connected();
    steering.serves(here, Some(shard_of(0)));
    let poster = steering.connected();
    steering.serves(poster, None);
    assert_eq!(steering.decide(now), [], "it has just heard of the others");
    assert_eq!(go_on(&mut steering, 3, now + SETTLED - SECOND), []);
    let moving = go_on(&mut steering, 3, now + SETTLED);
    assert_eq!(moving.len(), 1);
    assert_eq!((moving[0].connection, &moving[0].endpoints[0]), (there, &named(1)));
    assert_eq!(moving[0].reason, MoveReason::Preferred);
    assert!(!moving[0].endpoints.contains(&named(0)), "never to where it is");
    // One that attaches later is moved at once.
    let late = steering.connected();
    steering.serves(late, Some(shard_of(2)));
    assert_eq!(go_on(&mut steering, 3, now + SETTLED)[0].connection, late);
}

#[test]
fn a_connection_is_moved_once_in_a_minute_and_then_again() {
    let (mut steering, now) = settled(3, Instant::now());
    let id = steering.connected();
    steering.serves(id, Some(shard_of(1)));
    assert_eq!(steering.decide(now).len(), 1);
    // It has stayed; it is steered by another mailbox meanwhile.
    steering.serves(id, Some(shard_of(2)));
    for second in 1..MOVE_AGAIN_SECONDS {
        assert_eq!(go_on(&mut steering, 3, now + SECOND * second as u32), []);
    }
    let again = go_on(&mut steering, 3, now + AGAIN);
    assert_eq!(again.iter().map(|moving| &moving.endpoints[0]).collect::<Vec<_>>(), [&named(2)]);
    steering.serves(id, Some(shard_of(1)));
    steering.gone(id);
    assert_eq!(go_on(&mut steering, 3, now + 2 * AGAIN), []);
}

#[test]
fn nobody_is_sent_to_a_node_that_leaves_is_silent_or_has_just_begun() {
    let begin = || settled(3, Instant::now());
    let serve = |steering: &mut Steering| {
        let id = steering.connected();
        steering.serves(id, Some(shard_of(1)));
    };
    // It leaves.
    let (mut steering, now) = begin();
    steering.hear(now, said(1, 1, State::Leaving));
    serve(&mut steering);
    assert_eq!(steering.decide(now), []);
    // It has restarted: another one until that has settled, too.
    assert!(steering.hear(now + SECOND, said(1, 2, State::Up)));
    assert_eq!(steering.decide(now + SECOND), []);
    let moving = steering.decide(now + SECOND + SETTLED);
    assert_eq!(moving.len(), 1);
    // It is silent.
    let (mut steering, now) = begin();
    let later = now + SILENT;
    steering.hear(later, said(2, 1, State::Up));
    serve(&mut steering);
    assert_eq!(steering.decide(later), []);
    assert_eq!(steering.live(later), 2);
    // Once that has settled, the next best is where it belongs, if that is not here.
    let next_best = order(shard_of(1), &places(3))[1].endpoint.clone();
    steering.hear(later + SETTLED, said(2, 1, State::Up));
    let moving: Vec<_> = steering.decide(later + SETTLED);
    let to = moving.first().map(|moving| &moving.endpoints);
    assert_eq!(to, (next_best != named(0)).then_some(&vec![next_best]));
}

#[test]
fn only_places_of_the_record_count_and_none_is_two_nodes() {
    let now = Instant::now();
    let mut steering = first_of(2, now);
    let elsewhere = said(9, 1, State::Up);
    assert!(!steering.hear(now, elsewhere));
    assert_eq!(steering.live(now), 2);
    assert_eq!(steering.announcement(now).unwrap().endpoint, named(0));
    // What it has said itself.
    steering.hear(now, Announcement { key: "key0".to_owned(), ..said(0, 1, State::Up) });
    assert!(steering.announcement(now).is_some());
    // Another node says that it is here: something in front of both.
    steering.hear(now, Announcement { key: "other".to_owned(), ..said(0, 5, State::Up) });
    assert!(steering.is_contested(now) && steering.announcement(now).is_none());
    let id = steering.connected();
    steering.serves(id, Some(shard_of(1)));
    assert_eq!(go_on(&mut steering, 2, now + SETTLED), []);
    assert_eq!(steering.leave(now + SETTLED, SECOND), []);
    // The record lists it no more.
    let mut steering = first_of(2, now);
    steering.served_at(Places { listed: vec![named(1)], own: None });
    assert!(steering.announcement(now).is_none());
    let id = steering.connected();
    steering.serves(id, Some(shard_of(1)));
    assert_eq!(go_on(&mut steering, 2, now + SETTLED), []);
}

#[test]
fn many_are_moved_at_a_pace_and_spread_over_it() {
    let (mut steering, mut now) = settled(3, Instant::now());
    for _ in 0..2_000 {
        let id = steering.connected();
        steering.serves(id, Some(shard_of(1)));
    }
    let (begin, mut moved) = (now, 0);
    while moved < 2_000 {
        let moving = go_on(&mut steering, 3, now);
        assert!(moving.len() <= BURST as usize + 1, "{} at once", moving.len());
        if let Some(first) = moving.first() {
            let pace = moving.len() as f64 / first.spread.as_secs_f64();
            assert!((pace - f64::from(MOVES_PER_SECOND)).abs() < 1.0, "{pace} a second");
        }
        moved += moving.len();
        assert!(steering.is_busy() || moved == 2_000);
        now += Duration::from_millis(100);
    }
    let took = (now - begin).as_secs_f64();
    let expected = 2_000.0 / f64::from(MOVES_PER_SECOND);
    assert!(took >= expected * 0.9 && took <= expected * 1.2, "{took} s");
}

#[test]
fn a_node_that_leaves_sends_everyone_elsewhere() {
    let (mut steering, now) = settled(3, Instant::now());
    for shard in 0..=u8::MAX {
        let id = steering.connected();
        steering.serves(id, Some(shard).filter(|shard| shard % 2 == 0));
    }
    drop(steering.decide(now));
    steering.hear(now, said(2, 1, State::Up));
    let moving = steering.leave(now, SECOND);
    assert_eq!(moving.len(), 256, "those that were moved a moment ago and have stayed, too");
    assert!(moving.iter().all(|moving| moving.reason == MoveReason::Leaving));
    assert!(moving.iter().all(|moving| !moving.endpoints.contains(&named(0))));
    for node in 1..3 {
        let firsts = moving.iter().filter(|moving| moving.endpoints[0] == named(node)).count();
        assert!(firsts > 64, "{firsts} go to {node}");
    }
    assert!(moving[0].spread <= SECOND);
    assert_eq!(steering.announcement(now).unwrap().state, State::Leaving);
    // One that comes all the same.
    let late = steering.connected();
    assert_eq!(steering.decide(now + SECOND)[0].connection, late);
    // Once is enough, whatever it attaches meanwhile.
    steering.serves(late, Some(shard_of(1)));
    assert_eq!(steering.decide(now + 2 * SECOND), []);
    // Nowhere to go.
    let mut alone = Steering::new("key0".to_owned(), 1, now);
    alone.served_at(Places { listed: vec![named(0)], own: Some(named(0)) });
    alone.connected();
    assert_eq!(alone.leave(now, SECOND), []);
}

/// However differently nodes see the others, a client gets nearer to the top with each move.
#[test]
fn no_client_is_sent_in_a_circle() {
    let all = places(6);
    for shard in 0..=u8::MAX {
        let rank: Vec<_> = order(shard, &all).into_iter().map(|p| p.endpoint.clone()).collect();
        for view in 1_u32..64 {
            for own in (0..6).filter(|node| view & (1 << node) != 0) {
                let now = Instant::now();
                let mut steering = Steering::new(format!("key{own}"), 1, now);
                steering.served_at(Places {
                    listed: (0..6).map(named).collect(),
                    own: Some(named(own)),
                });
                let others = (0..6).filter(|node| view & (1 << node) != 0 && *node != own);
                for node in others {
                    steering.hear(now, said(node, 1, State::Up));
                }
                steering.decide(now);
                let id = steering.connected();
                steering.serves(id, Some(shard));
                let at = |endpoint: &String| rank.iter().position(|other| other == endpoint);
                for moving in steering.decide(now + SETTLED) {
                    let up = moving.endpoints.iter().all(|to| at(to) < at(&named(own)));
                    assert!(up, "shard {shard}, node {own}, view {view:b}: {moving:?}");
                }
            }
        }
    }
}
