//! A place that says `moved`: the client leaves for another one by itself, without a `Move`. It may
//! have been away when that was said.

use std::time::Duration;

use super::Served;
use super::actor::Actor;
use super::serving::Serving;
use crate::{Backoff, random};

impl Actor {
    /// A mailbox is not attached here, because it is served elsewhere.
    pub(super) fn turned_away(&mut self, serving: &mut Serving, served: &Served, after_ms: u32) {
        serving.refused.insert(served.mailbox);
        // Where others are served here, they wait for their `Move` together.
        let wait = if serving.attached.is_empty() {
            self.leave(serving)
        } else {
            serving.turned_away = serving.turned_away.saturating_add(1);
            pause(serving.turned_away)
        };
        // A cutover that was taken back brings it here again.
        let again = Duration::from_millis(after_ms.into()) + wait + Backoff::RETRY.first;
        serving.attach_later(served.clone(), again);
    }

    /// What the application was refused over the connections in use.
    pub(super) fn turn_away(&mut self, serving: &mut Serving) {
        let all = std::mem::take(&mut self.shared.state().turned_away);
        if all.iter().any(|connection| connection.is(&serving.connection)) {
            self.leave(serving);
        }
        if all.iter().any(|connection| serving.aside.is(connection)) {
            self.aside_is_useless(serving);
        }
    }

    /// Goes to another place, the first time at once, and returns when it does.
    fn leave(&mut self, serving: &mut Serving) -> Duration {
        let wait = match serving.turned_away {
            0 => Duration::ZERO,
            failures => pause(failures),
        };
        serving.turned_away = serving.turned_away.saturating_add(1);
        if serving.moving.is_none() {
            self.places.said_moved(&serving.at);
            let others = self.places.others(&serving.at);
            self.go(serving, others, wait);
        }
        wait
    }
}

fn pause(failures: u32) -> Duration {
    Backoff::RETRY.wait(failures, random::fraction())
}
