//! A profile's connections against real relays.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

#[test]
fn requests_can_be_made_from_tasks() {
    fn is_send<T: Send>(_: impl FnOnce(super::Relays, super::RelayAddress, super::Token) -> T) {}
    is_send(|relays, relay, token| async move {
        relays
            .post(&relay, super::FrameId::new([0; 16]), &[token], 0, super::Bytes::new())
            .await
            .ok();
        relays.get_slots(&relay, &[]).await.ok();
        relays.take_bundle(&relay, &token).await.ok();
        relays.signal(&relay, &[token], super::Bytes::new()).await.ok();
        relays.revoke(&token).await.ok();
        relays.issue(super::TokenKind::Post, 1, 1).await.ok();
        relays.renew_member().await.ok();
        relays.close().await;
    });
}
