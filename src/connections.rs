//! The live connections, so that a shutdown can tell each of them and wait for them to end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::doorbell::Doorbell;

/// Every established connection's door.
#[derive(Default)]
pub struct Connections {
    live: Mutex<Live>,
    all_ended: Notify,
}

#[derive(Default)]
struct Live {
    next: u64,
    doors: HashMap<u64, Arc<Doorbell>>,
    shutting_down: bool,
}

/// A connection's place among the live ones; given up when dropped.
pub struct Registration<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Connections {
    /// Registers a connection. One that comes during a shutdown is told at once.
    pub fn register(&self, door: &Arc<Doorbell>) -> Registration<'_> {
        let mut live = self.live();
        let id = live.next;
        live.next += 1;
        live.doors.insert(id, Arc::clone(door));
        if live.shutting_down {
            door.shutdown();
        }
        Registration { connections: self, id }
    }

    /// Tells every connection that the relay shuts down.
    pub fn shut_down(&self) {
        let mut live = self.live();
        live.shutting_down = true;
        live.doors.values().for_each(|door| door.shutdown());
    }

    /// Waits until no connection is left. Cancel-safe.
    pub async fn ended(&self) {
        loop {
            let ended = self.all_ended.notified();
            if self.live().doors.is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, Live> {
        self.live.lock().expect("no one panics while registering")
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let mut live = self.connections.live();
        live.doors.remove(&self.id);
        if live.doors.is_empty() {
            live.doors.shrink_to_fit();
            self.connections.all_ended.notify_waiters();
        }
    }
}
