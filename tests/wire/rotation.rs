//! A new token key: what it seals, and that nothing of the older ones ends.

use valise::identity::rotate_token_key;
use valise_proto::{Reason, Token, TokenKind};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload};

on_both_transports!(
    a_new_key_seals_and_the_older_ones_open,
    damaged_keys_leave_everything_in_force,
    a_revocation_outlives_its_key,
);

/// The id of the key that a token was sealed under.
fn key_id(token: &Token) -> [u8; 4] {
    token.as_bytes()[..4].try_into().unwrap()
}

async fn a_new_key_seals_and_the_older_ones_open(via: Via) {
    let mut relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let mut tokens = vec![mine.capability];
    for keys in 2..5 {
        assert_eq!(rotate_token_key(&relay.state_directory()).unwrap(), keys);
        // Only a reload puts it into force.
        let before = owner.issue(mine.attachment, TokenKind::Post, 1).await[0];
        assert_eq!(key_id(&before), key_id(tokens.last().unwrap()));
        relay.reload().unwrap();
        let after = owner.issue(mine.attachment, TokenKind::Post, 1).await[0];
        assert!(tokens.iter().all(|token| key_id(token) != key_id(&after)));
        tokens.push(after);
    }
    drop(owner);
    relay.until("valise_attachments", |count| count < 1.0).await;
    let mut sender = Wire::open(&relay, via).await;
    assert_eq!(sender.post(1, &tokens, payload(1)).await, [Some(Reason::Accepted); 4]);
    relay.restart().await;
    let mut sender = Wire::open(&relay, via).await;
    assert_eq!(sender.post(2, &tokens, payload(2)).await, [Some(Reason::Accepted); 4]);
    // The first member token is under the first key.
    let (attachment, mail) = sender.attach_and_catch_up(&mine.owner, &mine.member).await;
    assert_eq!(mail.len(), 2);
    let newest = sender.issue(attachment, TokenKind::Post, 1).await[0];
    assert_eq!(key_id(&newest), key_id(&tokens[3]), "a restart seals with the newest too");
    relay.finish().await;
}

async fn damaged_keys_leave_everything_in_force(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let path = relay.state_directory().join("token.keys");
    let good = std::fs::read(&path).unwrap();
    let mut damaged = good.clone();
    let last = damaged.len() - 2;
    damaged[last] = if damaged[last] == b'0' { b'1' } else { b'0' };
    let twice = [&good[..], &good[good.len() - 74..]].concat();
    for wrong in [damaged, twice, good[..30].to_vec(), Vec::new()] {
        std::fs::write(&path, &wrong).unwrap();
        let error = relay.reload().unwrap_err().to_string();
        assert!(error.contains("token.keys"), "{error}");
        assert!(
            rotate_token_key(&relay.state_directory()).is_err(),
            "what is wrong is not added to"
        );
        assert_eq!(std::fs::read(&path).unwrap(), wrong, "and not written over");
    }
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    assert!(relay.reload().is_err());
    std::fs::rename(&aside, &path).unwrap();
    let token = owner.issue(mine.attachment, TokenKind::Post, 1).await[0];
    assert_eq!(key_id(&token), key_id(&mine.capability));
    std::fs::write(&path, good).unwrap();
    relay.reload().unwrap();
    let mut sender = Wire::open(&relay, via).await;
    sender.say_post(1, &[token], payload(1)).await;
    assert_eq!(owner.delivered().await.n, 1);
    assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    relay.finish().await;
}

async fn a_revocation_outlives_its_key(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    rotate_token_key(&relay.state_directory()).unwrap();
    relay.reload().unwrap();
    owner.revoke(mine.attachment, &mine.capability).await;
    let newer = owner.issue(mine.attachment, TokenKind::Post, 1).await[0];
    owner.revoke(mine.attachment, &newer).await;
    rotate_token_key(&relay.state_directory()).unwrap();
    relay.reload().unwrap();
    let mut sender = Wire::open(&relay, via).await;
    let outcomes = sender.post(1, &[mine.capability, newer], payload(1)).await;
    assert_eq!(outcomes, [Some(Reason::TokenRevoked); 2]);
}
