//! Issue.

use valise_proto::{ClientPacket, Issue, Reason, ServerPacket, Token, TokenKind};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Mine, Via, Wire, payload};

on_both_transports!(issue_ok, issue_not_attached, issue_kind_invalid, issue_limits_invalid,);

fn issue(mine: &Mine, request: u32) -> Issue {
    let kind = Some(TokenKind::Post);
    Issue { request, kind, attachment: mine.attachment, count: 1, days: 1, rate_class: 0 }
}

async fn issue_ok(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let many = Issue { count: 100, days: 400, ..issue(&mine, 1) };
    wire.say(&ClientPacket::Issue(many)).await;
    let ServerPacket::Issued { request: 1, tokens } = wire.receive().await else { panic!() };
    assert_eq!(tokens.len(), 100);
    let different: std::collections::HashSet<_> = tokens.iter().map(Token::as_bytes).collect();
    assert_eq!(different.len(), 100, "no two can be compared");
    // Each is good, and a renewed member token attaches.
    let member = wire.issue(mine.attachment, TokenKind::Member, 1).await[0];
    let mut other = Wire::open(&relay, via).await;
    other.say_post(1, &[tokens[7], tokens[8]], payload(1)).await;
    assert_eq!(wire.delivered().await.n, 1);
    wire.ack(mine.attachment, 1).await;
    // Two capabilities of one mailbox: the same frame id arrives once.
    assert_eq!(other.posted().await.outcomes, [Some(Reason::Accepted); 2]);
    wire.receive_nothing().await;
    other.attach(&mine.owner, &member).await;
    relay.finish().await;
}

async fn issue_not_attached(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let issue = Issue { attachment: 7, ..issue(&mine, 1) };
    wire.say(&ClientPacket::Issue(issue)).await;
    assert_eq!(wire.refused().await, Reason::NotAttached);
}

async fn issue_kind_invalid(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    for kind in [None, Some(TokenKind::Join), Some(TokenKind::Blob)] {
        wire.say(&ClientPacket::Issue(Issue { kind, ..issue(&mine, 1) })).await;
        assert_eq!(wire.refused().await, Reason::KindInvalid, "{kind:?}");
    }
}

async fn issue_limits_invalid(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let good = issue(&mine, 1);
    let bad = [
        Issue { count: 0, ..good.clone() },
        Issue { count: 101, ..good.clone() },
        Issue { days: 0, ..good.clone() },
        Issue { days: 401, ..good.clone() },
        Issue { rate_class: 256, ..good },
    ];
    for issue in bad {
        wire.say(&ClientPacket::Issue(issue)).await;
        assert_eq!(wire.refused().await, Reason::LimitsInvalid);
    }
}
