//! Waiting for a condition that others change.

use tokio::sync::Notify;

/// Waits until `holds`, looking again whenever `changed` notifies its waiters. Cancel-safe.
pub(crate) async fn until(changed: &Notify, holds: impl Fn() -> bool) {
    found(changed, || holds().then_some(())).await;
}

/// Waits until `find` finds something, looking again whenever `changed` notifies its waiters.
/// Cancel-safe.
pub(crate) async fn found<T>(changed: &Notify, mut find: impl FnMut() -> Option<T>) -> T {
    loop {
        let change = changed.notified();
        tokio::pin!(change);
        // Registered before the look, so that nothing is missed in between.
        change.as_mut().enable();
        if let Some(found) = find() {
            return found;
        }
        change.await;
    }
}
