//! Waiting for a condition that others change.

use tokio::sync::Notify;

/// Waits until `holds`, looking again whenever `changed` notifies its waiters. Cancel-safe.
pub(crate) async fn until(changed: &Notify, holds: impl Fn() -> bool) {
    loop {
        let change = changed.notified();
        tokio::pin!(change);
        // Registered before the look, so that nothing is missed in between.
        change.as_mut().enable();
        if holds() {
            return;
        }
        change.await;
    }
}
