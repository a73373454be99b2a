use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::backoff::Backoff;
use crate::envelope::Envelope;
use crate::inbox::Inbox;

const CHAT: ConversationId = ConversationId(1);
const STREAM: StreamId = StreamId::new([1; 16]);

fn outbox(targets: u8) -> Outbox {
    let mut outbox = Outbox::default();
    outbox.open(CHAT, STREAM, (0..targets).map(|i| Token::new([i; 60])).collect(), 1);
    outbox
}

fn ids() -> impl FnMut() -> FrameId {
    let mut last = 0u128;
    move || {
        last += 1;
        FrameId::new(last.to_le_bytes())
    }
}

fn counters(posting: &Posting) -> Range<u64> {
    let envelope = Envelope::decode(&posting.payload).unwrap();
    envelope.first_counter..envelope.first_counter + envelope.messages.len() as u64
}

const ACCEPTED: &[Option<Reason>] = &[Some(Reason::Accepted); 64];

#[test]
fn backlog_waits_for_the_frame_under_way_and_goes_together() {
    let (mut outbox, mut ids, now) = (outbox(1), ids(), Instant::now());
    outbox.push(CHAT, Bytes::from_static(b"one")).unwrap();
    let first = outbox.next_post(now, &mut ids).unwrap();
    outbox.push(CHAT, Bytes::from_static(b"two")).unwrap();
    outbox.push(CHAT, Bytes::from_static(b"three")).unwrap();
    assert_eq!(outbox.next_post(now, &mut ids), None);
    let settled = outbox.resolve(now, first.number, ACCEPTED, Duration::ZERO);
    let (target, fate) = (0, Settlement::Accepted);
    assert_eq!(settled, [Settled { conversation: CHAT, target, counters: 1..2, fate }]);
    let second = outbox.next_post(now, &mut ids).unwrap();
    assert_eq!(counters(&second), 2..4);
    assert_ne!(second.frame_id, first.frame_id);
    outbox.resolve(now, second.number, ACCEPTED, Duration::ZERO);
    assert_eq!((outbox.unsettled(), outbox.waiting_bytes()), (0, 0));
    assert_eq!(outbox.next_at(now), Some(now), "one more look");
    assert_eq!(outbox.next_post(now, &mut ids), None);
    assert_eq!(outbox.next_at(now), None);
}

#[test]
fn a_retry_has_the_same_id_and_comes_when_it_was_told_to() {
    let (mut outbox, mut ids, now) = (outbox(1), ids(), Instant::now());
    outbox.push(CHAT, Bytes::from_static(b"one")).unwrap();
    let first = outbox.next_post(now, &mut ids).unwrap();
    let told = Duration::from_millis(700);
    assert!(outbox.resolve(now, first.number, &[Some(Reason::Busy)], told).is_empty());
    assert_eq!(outbox.next_post(now, &mut ids), None);
    let at = outbox.next_at(now).unwrap();
    assert!(at >= now + told && at <= now + told + Backoff::RETRY.first);
    let retry = outbox.next_post(at, &mut ids).unwrap();
    assert_eq!((retry.frame_id, &retry.payload), (first.frame_id, &first.payload));
    outbox.lose(at);
    let again = outbox.next_post(at, &mut ids).unwrap();
    assert_eq!(again.frame_id, first.frame_id);
    let late = outbox.resolve(at, retry.number, ACCEPTED, Duration::ZERO);
    assert!(late.is_empty(), "an answer from before the loss means nothing any more");
    let refused = outbox.refuse(at, again.number, Some(Reason::TokenExpired), Duration::ZERO);
    assert_eq!(refused[0].fate, Settlement::GivenUp(Some(Reason::TokenExpired)));
    assert_eq!(outbox.unsettled(), 0);
}

#[test]
fn targets_share_a_post_until_their_fates_differ() {
    let (mut outbox, mut ids, now) = (outbox(3), ids(), Instant::now());
    outbox.push(CHAT, Bytes::from_static(b"one")).unwrap();
    let first = outbox.next_post(now, &mut ids).unwrap();
    assert_eq!(first.capabilities.len(), 3);
    outbox.push(CHAT, Bytes::from_static(b"two")).unwrap();
    let outcomes = [Some(Reason::Accepted), Some(Reason::MailboxFull), None];
    let settled = outbox.resolve(now, first.number, &outcomes, Duration::from_secs(1));
    let fates: Vec<_> = settled.iter().map(|settled| (settled.target, settled.fate)).collect();
    assert_eq!(fates, [(0, Settlement::Accepted), (2, Settlement::GivenUp(None))]);
    let second = outbox.next_post(now, &mut ids).unwrap();
    assert_eq!(second.capabilities, [Token::new([0; 60]), Token::new([2; 60])]);
    assert_eq!(counters(&second), 2..3);
    assert_eq!(outbox.next_post(now, &mut ids), None);
    let retry = outbox.next_post(now + Duration::from_secs(2), &mut ids).unwrap();
    assert_eq!(retry.frame_id, first.frame_id);
    assert_eq!(retry.capabilities, [Token::new([1; 60])]);
}

#[test]
fn the_fan_out_limit_splits_a_post() {
    let (mut outbox, mut ids, now) = (outbox(40), ids(), Instant::now());
    outbox.push(CHAT, vec![0; MESSAGE_BYTES_MAX].into()).unwrap();
    let sizes: Vec<usize> = std::iter::from_fn(|| outbox.next_post(now, &mut ids))
        .map(|posting| posting.capabilities.len())
        .collect();
    assert_eq!(sizes, [16, 16, 8]);
}

#[test]
fn what_cannot_be_taken_is_refused_at_once() {
    let mut outbox = outbox(1);
    let large = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
    assert_eq!(outbox.push(CHAT, large.clone()), Err(PushError::TooLarge));
    assert_eq!(outbox.push(ConversationId(9), Bytes::new()), Err(PushError::Unknown));
    let message = large.slice(1..);
    let mut taken = 0;
    while outbox.push(CHAT, message.clone()).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, OUTBOX_BYTES_MAX / cost(&message));
    assert_eq!(outbox.push(CHAT, message), Err(PushError::Full));
    outbox.close(CHAT);
    assert_eq!((outbox.unsettled(), outbox.waiting_bytes()), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        chat: u64,
        len: usize,
    },
    Post,
    Answer {
        pick: usize,
        outcomes: Vec<u8>,
    },
    Refuse {
        pick: usize,
        outcome: u8,
    },
    /// The connection breaks; whether a post under way had arrived depends on a bit.
    Lose {
        arrived: u64,
    },
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..3, prop_oneof![0usize..600, Just(MESSAGE_BYTES_MAX)])
            .prop_map(|(chat, len)| Step::Push { chat, len }),
        4 => Just(Step::Post),
        3 => (any::<usize>(), proptest::collection::vec(0u8..6, 3))
            .prop_map(|(pick, outcomes)| Step::Answer { pick, outcomes }),
        1 => (any::<usize>(), 0u8..6).prop_map(|(pick, outcome)| Step::Refuse { pick, outcome }),
        1 => any::<u64>().prop_map(|arrived| Step::Lose { arrived }),
        1 => (0u64..20_000).prop_map(|ms| Step::Wait { ms }),
    ]
}

fn reason(outcome: u8) -> Option<Reason> {
    match outcome {
        0 => Some(Reason::Busy),
        1 => Some(Reason::MailboxFull),
        2 => Some(Reason::TokenInvalid),
        3 => None,
        _ => Some(Reason::Accepted),
    }
}

/// A relay and its recipients: each (chat, target) has an inbox and a memory of frame ids.
#[derive(Default)]
struct World {
    inboxes: HashMap<(ConversationId, usize), Inbox>,
    seen: HashSet<(FrameId, Token)>,
    shown: HashMap<(ConversationId, usize), Vec<u64>>,
    under_way: Vec<Posting>,
    fates: HashMap<(ConversationId, usize), Vec<(u64, Settlement)>>,
}

impl World {
    fn arrive(&mut self, posting: &Posting, target: usize) {
        if !self.seen.insert((posting.frame_id, posting.capabilities[target])) {
            return;
        }
        let envelope = Envelope::decode(&posting.payload).unwrap();
        let place = (posting.conversation, usize::from(posting.capabilities[target].as_bytes()[0]));
        let inbox = self.inboxes.entry(place).or_default();
        let count = envelope.messages.len() as u64;
        let received = inbox.receive(envelope.stream, envelope.first_counter, count);
        assert_eq!(received.fresh.end - received.fresh.start, count, "reordered or repeated");
        self.shown.entry(place).or_default().extend(received.fresh);
    }

    fn begin(&mut self, posting: Posting) {
        for other in &self.under_way {
            let shared = other.capabilities.iter().any(|t| posting.capabilities.contains(t));
            assert!(
                other.conversation != posting.conversation || !shared,
                "two unresolved frames for one target"
            );
        }
        self.under_way.push(posting);
    }

    fn note(&mut self, settled: Vec<Settled>) {
        for Settled { conversation, target, counters, fate } in settled {
            let fates = self.fates.entry((conversation, target)).or_default();
            fates.extend(counters.map(|counter| (counter, fate)));
        }
    }
}

fn run(steps: Vec<Step>) {
    let (mut outbox, mut world, mut ids, mut now) =
        (Outbox::default(), World::default(), ids(), Instant::now());
    let mut pushed = [0u64; 3];
    for chat in 0..3u8 {
        // The token's first byte is the target, the second the chat.
        let token = |target: u8| {
            Token::new([[target, chat].as_slice(), &[0; 58]].concat()[..].try_into().unwrap())
        };
        let targets = (0..=chat).map(token).collect();
        outbox.open(ConversationId(chat.into()), StreamId::new([chat; 16]), targets, 1);
    }
    for step in steps {
        match step {
            Step::Push { chat, len } => {
                let counter = outbox.push(ConversationId(chat), vec![7; len].into()).unwrap();
                pushed[chat as usize] += 1;
                assert_eq!(counter, pushed[chat as usize]);
            }
            Step::Post => {
                if let Some(posting) = outbox.next_post(now, &mut ids) {
                    world.begin(posting);
                }
            }
            Step::Answer { pick, outcomes } if !world.under_way.is_empty() => {
                let posting = world.under_way.swap_remove(pick % world.under_way.len());
                let outcomes: Vec<_> = outcomes.into_iter().map(reason).collect();
                for (i, outcome) in outcomes.iter().take(posting.capabilities.len()).enumerate() {
                    if *outcome == Some(Reason::Accepted) {
                        world.arrive(&posting, i);
                    }
                }
                let wait = Duration::from_millis(50);
                world.note(outbox.resolve(now, posting.number, &outcomes, wait));
            }
            Step::Refuse { pick, outcome } if !world.under_way.is_empty() && outcome < 4 => {
                let posting = world.under_way.swap_remove(pick % world.under_way.len());
                world.note(outbox.refuse(now, posting.number, reason(outcome), Duration::ZERO));
            }
            Step::Answer { .. } | Step::Refuse { .. } => {}
            Step::Lose { arrived } => {
                for (bit, posting) in std::mem::take(&mut world.under_way).iter().enumerate() {
                    for i in 0..posting.capabilities.len() {
                        if arrived >> ((bit + i) % 64) & 1 == 1 {
                            world.arrive(posting, i);
                        }
                    }
                }
                outbox.lose(now);
            }
            Step::Wait { ms } => now += Duration::from_millis(ms),
        }
    }
    finish(&mut outbox, &mut world, now);
    check(&outbox, &world, pushed);
}

/// From now on the relay accepts everything.
fn finish(outbox: &mut Outbox, world: &mut World, mut now: Instant) {
    let mut ids = || FrameId::new(crate::random::bytes());
    loop {
        while let Some(posting) = outbox.next_post(now, &mut ids) {
            world.begin(posting);
        }
        for posting in std::mem::take(&mut world.under_way) {
            (0..posting.capabilities.len()).for_each(|i| world.arrive(&posting, i));
            world.note(outbox.resolve(now, posting.number, ACCEPTED, Duration::ZERO));
        }
        match outbox.next_at(now) {
            Some(at) => now = at.max(now),
            None => return,
        }
    }
}

fn check(outbox: &Outbox, world: &World, pushed: [u64; 3]) {
    assert_eq!((outbox.unsettled(), outbox.waiting_bytes()), (0, 0));
    for chat in 0..3u64 {
        for target in 0..=chat as usize {
            let place = (ConversationId(chat), target);
            let fates = world.fates.get(&place).cloned().unwrap_or_default();
            let counters: Vec<u64> = fates.iter().map(|(counter, _)| *counter).collect();
            let all: Vec<u64> = (1..=pushed[chat as usize]).collect();
            assert_eq!(counters, all, "each message once, in order");
            let shown = world.shown.get(&place).cloned().unwrap_or_default();
            assert!(shown.is_sorted_by(|a, b| a < b), "order");
            for (counter, fate) in fates {
                if fate == Settlement::Accepted {
                    assert!(shown.contains(&counter), "accepted, but lost");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn every_message_is_accepted_or_given_up_once_and_in_order(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        run(steps);
    }
}

const MOVED: Option<Reason> = Some(Reason::Moved);

#[test]
fn a_target_that_is_served_elsewhere_is_posted_to_there() {
    let (mut outbox, mut ids, now) = (outbox(3), ids(), Instant::now());
    outbox.push(CHAT, Bytes::from_static(b"one")).unwrap();
    let first = outbox.next_post(now, &mut ids).unwrap();
    assert_eq!((first.side, first.capabilities.len()), (Side::Here, 3));
    outbox.push(CHAT, Bytes::from_static(b"two")).unwrap();
    let outcomes = [Some(Reason::Accepted), MOVED, MOVED];
    outbox.resolve(now, first.number, &outcomes, Duration::ZERO);
    // At once, the same frame before anything newer, and only those.
    let mut posts: Vec<Posting> = (0..2).filter_map(|_| outbox.next_post(now, &mut ids)).collect();
    posts.sort_by_key(|posting| posting.side == Side::There);
    let [newer, again] = &posts[..] else { panic!("{posts:?}") };
    assert_eq!((newer.side, newer.capabilities.len()), (Side::Here, 1));
    assert_eq!((again.side, again.frame_id), (Side::There, first.frame_id));
    assert_eq!(again.capabilities, first.capabilities[1..]);
    assert_eq!(outbox.next_post(now, &mut ids), None);
    // What follows goes there, until it is said there that it has moved, or here is elsewhere.
    outbox.resolve(now, again.number, ACCEPTED, Duration::ZERO);
    let next = outbox.next_post(now, &mut ids).unwrap();
    assert_eq!((next.side, counters(&next)), (Side::There, 2..3));
    outbox.rebase();
    outbox.lose(now);
    assert_eq!(outbox.next_post(now, &mut ids).unwrap().side, Side::Here);
}

#[test]
fn what_is_served_nowhere_is_asked_for_less_and_less_often() {
    let (mut outbox, start) = (outbox(1), Instant::now());
    // The waits are drawn from the id.
    let id = FrameId::new([0x80; 16]);
    let mut ids = || id;
    outbox.push(CHAT, Bytes::from_static(b"one")).unwrap();
    let (mut now, mut sides) = (start, Vec::new());
    while now < start + Duration::from_secs(600) {
        if let Some(posting) = outbox.next_post(now, &mut ids) {
            assert_eq!(posting.frame_id, id);
            sides.push(posting.side);
            outbox.refuse(now, posting.number, MOVED, Duration::ZERO);
        }
        now = outbox.next_at(now).expect("never given up");
    }
    assert!(sides.chunks_exact(2).all(|pair| pair == [Side::Here, Side::There]));
    assert!((20..400).contains(&sides.len()), "{}", sides.len());
}
