use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn moved(shards: &[u8]) -> Moved {
    let mut moved = [false; 256];
    shards.iter().for_each(|shard| moved[usize::from(*shard)] = true);
    moved
}

fn lead(per_second: u32) -> Lead {
    Lead { endpoints: vec!["c.example:443".to_owned()], per_second }
}

/// A connection that serves mailboxes of these shards.
fn serving(leading: &mut Leading, shards: &[u8], now: Instant) -> u64 {
    let id = leading.connected(now);
    leading.serves(id, shards.to_vec(), now);
    id
}

fn told(telling: Vec<Telling>, phase: MovePhase) -> Vec<u64> {
    assert!(telling.iter().all(|one| one.phase == phase), "{telling:?}");
    telling.into_iter().map(|one| one.connection).collect()
}

#[test]
fn nobody_is_told_anything_before_there_is_somewhere_to_go() {
    let now = Instant::now();
    let mut leading = Leading::default();
    serving(&mut leading, &[7], now);
    leading.connected(now);
    assert_eq!(leading.decide(now), []);
    assert_eq!(leading.decide(now + 100 * SECOND), []);
    assert!(!leading.is_busy());
}

#[test]
fn all_prepare_once_as_fast_as_it_is_said() {
    let now = Instant::now();
    let mut leading = Leading::default();
    let all: Vec<u64> = (0..100).map(|shard| serving(&mut leading, &[shard], now)).collect();
    leading.lead(lead(20));
    let mut prepared = told(leading.decide(now), MovePhase::Prepare);
    assert_eq!(prepared.len(), 2, "a tenth of a second's at once");
    assert!(leading.is_busy());
    for tenth in 1..=48u32 {
        prepared.extend(told(leading.decide(now + tenth * SECOND / 10), MovePhase::Prepare));
    }
    assert!((90..100).contains(&prepared.len()), "{}", prepared.len());
    prepared.extend(told(leading.decide(now + 60 * SECOND), MovePhase::Prepare));
    prepared.extend(told(leading.decide(now + 61 * SECOND), MovePhase::Prepare));
    prepared.extend(told(leading.decide(now + 62 * SECOND), MovePhase::Prepare));
    prepared.extend(told(leading.decide(now + 63 * SECOND), MovePhase::Prepare));
    assert_eq!(prepared, all);
    // Said again, it is nothing new; said otherwise, it is.
    leading.lead(lead(500));
    assert_eq!(leading.decide(now + 70 * SECOND), []);
    leading.lead(Lead { endpoints: vec!["d.example:443".to_owned()], per_second: 1_000 });
    assert_eq!(told(leading.decide(now + 71 * SECOND), MovePhase::Prepare), all);
}

#[test]
fn a_new_connection_prepares_once_it_is_settled() {
    let now = Instant::now();
    let mut leading = Leading::default();
    leading.lead(lead(500));
    let serves = serving(&mut leading, &[7], now);
    let posts = leading.connected(now);
    assert_eq!(told(leading.decide(now), MovePhase::Prepare), [serves]);
    assert_eq!(leading.decide(now + SETTLED - SECOND), []);
    assert_eq!(told(leading.decide(now + SETTLED), MovePhase::Prepare), [posts]);
}

#[test]
fn who_serves_goes_with_the_last_of_its_mailboxes() {
    let now = Instant::now();
    let mut leading = Leading::default();
    let (one, two) = (serving(&mut leading, &[7], now), serving(&mut leading, &[7, 8], now));
    let other = serving(&mut leading, &[9], now);
    leading.moved(&moved(&[7]), now);
    assert_eq!(told(leading.decide(now), MovePhase::Go), [one]);
    assert_eq!(leading.users(), (3, 2));
    leading.moved(&moved(&[7, 8]), now);
    assert_eq!(told(leading.decide(now), MovePhase::Go), [two]);
    // Its mailbox of a shard that stays is detached.
    leading.serves(other, vec![9, 7], now);
    assert_eq!(leading.decide(now), []);
    leading.serves(other, vec![7], now);
    assert_eq!(told(leading.decide(now), MovePhase::Go), [other]);
}

#[test]
fn going_comes_before_preparing() {
    let now = Instant::now();
    let mut leading = Leading::default();
    let stays = serving(&mut leading, &[9], now);
    let goes = serving(&mut leading, &[7], now);
    leading.lead(lead(500));
    leading.moved(&moved(&[7]), now);
    let telling = leading.decide(now);
    let expected = [(goes, MovePhase::Go), (stays, MovePhase::Prepare)];
    let expected = expected.map(|(connection, phase)| Telling { connection, phase });
    assert_eq!(telling, expected, "who goes need not prepare");
}

#[test]
fn who_serves_nothing_goes_with_the_last_shard() {
    let now = Instant::now();
    let mut leading = Leading::default();
    let posts = leading.connected(now);
    let all: Vec<u8> = (0..=u8::MAX).collect();
    leading.moved(&moved(&all[..255]), now);
    let now = now + SETTLED;
    assert_eq!(leading.decide(now), []);
    leading.moved(&moved(&all), now);
    assert_eq!(told(leading.decide(now), MovePhase::Go), [posts]);
    // One that has just come may be about to attach.
    let new = leading.connected(now);
    assert_eq!(leading.decide(now), []);
    assert_eq!(told(leading.decide(now + SETTLED), MovePhase::Go), [new]);
}

#[test]
fn who_stays_is_told_again_and_who_has_gone_is_not() {
    let now = Instant::now();
    let mut leading = Leading::default();
    let (stays, goes) = (serving(&mut leading, &[7], now), serving(&mut leading, &[7], now));
    leading.moved(&moved(&[7]), now);
    assert_eq!(told(leading.decide(now), MovePhase::Go), [stays, goes]);
    leading.gone(goes);
    assert_eq!(leading.decide(now + AGAIN - SECOND), []);
    leading.serves(stays, vec![7, 7], now + AGAIN - SECOND);
    assert_eq!(leading.decide(now + AGAIN - SECOND), [], "it was told less than a minute ago");
    assert_eq!(told(leading.decide(now + AGAIN), MovePhase::Go), [stays]);
    leading.gone(stays);
    assert!(leading.later.is_empty() && leading.connections.is_empty(), "nothing is left of it");
}

#[test]
fn a_shard_that_comes_back_keeps_its_clients() {
    let now = Instant::now();
    let mut leading = Leading::default();
    for _ in 0..2_000 {
        serving(&mut leading, &[7], now);
    }
    leading.moved(&moved(&[7]), now);
    assert_eq!(told(leading.decide(now), MovePhase::Go).len(), 1_000, "the pace");
    leading.moved(&moved(&[]), now);
    assert_eq!(leading.decide(now + SECOND), [], "nobody else is told");
}
