//! Many mailboxes: of one connection, and of one post.

use std::collections::HashMap;

use bytes::Bytes;
use valise_client::OwnerKeyPair;
use valise_proto::limits::{ATTACHMENT_WINDOW_BYTES, ATTACHMENTS_MAX, TARGETS_MAX};
use valise_proto::{MailboxId, Reason, ServerPacket, Token, TokenKind};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Mine, Via, Wire, payload};

on_both_transports!(
    one_post_to_1024_capabilities,
    three_with_much_mail_share_a_connection,
    sixteen_with_much_mail_share_a_connection,
    a_full_window_starves_none_of_fifteen,
);

/// No rate in the way.
const FAST: &str = "[limits]\nposts_per_second = 100000\nposts_burst = 100000\n\
    packets_per_second = 100000\npackets_burst = 100000\njoins_per_minute_per_prefix = 1000\n";

async fn one_post_to_1024_capabilities(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let someone = |n: usize| {
        let mut id = [7; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        relay.token(TokenKind::Post, &MailboxId::new(id), 1)
    };
    let mut targets: Vec<Token> = (1..TARGETS_MAX).map(someone).collect();
    targets.insert(500, mine.capability);
    assert_eq!(targets.len(), TARGETS_MAX);
    let mut sender = Wire::open(&relay, via).await;
    sender.say_post(1, &targets, payload(1)).await;
    wire.delivered().await;
    wire.ack(mine.attachment, 1).await;
    let outcomes = sender.posted().await.outcomes;
    assert_eq!(outcomes, vec![Some(Reason::Accepted); TARGETS_MAX]);
    // Again, as after a lost answer: nothing is stored twice.
    assert_eq!(sender.post(1, &targets, payload(1)).await, outcomes);
    relay.until_queued(TARGETS_MAX - 1).await;
    let outcomes = relay.metric("valise_post_outcomes_total{outcome=\"accepted\"}");
    assert!((outcomes - 2.0 * TARGETS_MAX as f64).abs() < f64::EPSILON, "{outcomes}");
    relay.finish().await;
}

const EACH: u32 = 12;
const BYTES: usize = 8 * 1024;

/// Mailboxes with mail, none of them attached.
async fn mailboxes_with_mail(relay: &Relay, via: Via, count: usize) -> Vec<Mine> {
    let mut wire = Wire::open(relay, via).await;
    let mut mailboxes = Vec::new();
    for _ in 0..count {
        mailboxes.push(wire.join_and_attach(OwnerKeyPair::generate()).await);
    }
    drop(wire);
    relay.until("valise_attachments", |count| count < 1.0).await;
    let mut sender = Wire::open(relay, via).await;
    for id in 0..EACH * u32::try_from(count).unwrap() {
        let target = mailboxes[id as usize % count].capability;
        sender.say_post(id, &[target], Bytes::from(vec![1; BYTES])).await;
    }
    for _ in 0..EACH as usize * count {
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    }
    mailboxes
}

/// Nobody is two turns ahead of one who has mail: a turn is what is pulled at a time.
async fn share(via: Via, count: usize) {
    let relay = Relay::configured(FAST).await;
    let mailboxes = mailboxes_with_mail(&relay, via, count).await;
    let mut wire = Wire::open(&relay, via).await;
    wire.say_attaches(&mailboxes).await;
    let turn = (valise::limits::PULL_BYTES / BYTES) as u32;
    let mut delivered: HashMap<u32, u32> = HashMap::new();
    let mut caught_up = 0;
    while caught_up < count {
        match wire.receive().await {
            ServerPacket::Attached { attachment, .. } => {
                delivered.insert(attachment, 0);
            }
            ServerPacket::Deliver(deliver) => {
                let so_far = delivered.get_mut(&deliver.attachment).unwrap();
                *so_far += 1;
                assert_eq!(deliver.n, u64::from(*so_far));
                let (ahead, least) = (*so_far, *delivered.values().min().unwrap());
                // A node reads what waits from the bus, each mailbox when its servers answer.
                let fair = relay.is_node() || ahead <= least + 2 * turn;
                assert!(fair, "{ahead} of one, {least} of another");
                wire.ack(deliver.attachment, deliver.n).await;
            }
            ServerPacket::CaughtUp { attachment } => {
                assert_eq!(delivered[&attachment], EACH);
                caught_up += 1;
            }
            other => panic!("not expected: {other:?}"),
        }
    }
    wire.ping().await;
    relay.finish().await;
}

async fn three_with_much_mail_share_a_connection(via: Via) {
    share(via, 3).await;
}

async fn sixteen_with_much_mail_share_a_connection(via: Via) {
    share(via, ATTACHMENTS_MAX).await;
}

/// The first of sixteen never acknowledges, and has more mail than its window takes.
async fn a_full_window_starves_none_of_fifteen(via: Via) {
    let relay = Relay::configured(FAST).await;
    let mut wire = Wire::open(&relay, via).await;
    let mut mailboxes = Vec::new();
    for _ in 0..ATTACHMENTS_MAX {
        mailboxes.push(wire.join_and_attach(OwnerKeyPair::generate()).await);
    }
    let mut sender = Wire::open(&relay, via).await;
    let (stuck, others) = mailboxes.split_first().unwrap();
    let too_much = (ATTACHMENT_WINDOW_BYTES / BYTES) as u32 + 4;
    for id in 0..too_much {
        sender.say_post(id, &[stuck.capability], Bytes::from(vec![1; BYTES])).await;
    }
    let mut id = too_much;
    let mut acknowledged: HashMap<u32, u64> = HashMap::new();
    for _ in 0..20 {
        for mine in others {
            sender.say_post(id, &[mine.capability], payload(1)).await;
            id += 1;
        }
        let mut missing = others.len();
        while missing > 0 {
            match wire.receive().await {
                ServerPacket::Deliver(deliver) if deliver.attachment != stuck.attachment => {
                    let last = acknowledged.entry(deliver.attachment).or_default();
                    *last += 1;
                    assert_eq!(deliver.n, *last);
                    wire.ack(deliver.attachment, deliver.n).await;
                    missing -= 1;
                }
                ServerPacket::Deliver(_) | ServerPacket::CaughtUp { .. } => {}
                other => panic!("not expected: {other:?}"),
            }
        }
    }
    for _ in 0..id {
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    }
    wire.ping().await;
    relay.finish().await;
}
