//! What others have left at the door: answers, signals, and what ended meanwhile.

use std::task::Context;

use valise_proto::ServerPacket;

use super::Link;
use crate::doorbell::Left;
use crate::limits::OPERATIONS_PER_CONNECTION;
use crate::router::Moment;
use crate::transport::Transport;

impl<T: Transport> Link<T> {
    /// Takes in what others have left, and arranges to be woken by more. Returns whether there are
    /// signals that only wait for the outbox.
    pub(super) fn look_at_the_door(&mut self, cx: &Context<'_>, moment: Moment) -> bool {
        loop {
            let room = !self.outbox_is_full() && !self.mail_first;
            let Some(left) = self.doorbell.take(cx, room) else {
                return !room && self.doorbell.has_signals();
            };
            if self.operations >= OPERATIONS_PER_CONNECTION {
                // Something may be answered, and then there is more to read.
                cx.waker().wake_by_ref();
            }
            self.take_in(left, moment);
        }
    }

    fn take_in(&mut self, left: Left, moment: Moment) {
        self.mail |= left.mail;
        for answer in left.answers {
            self.undecided -= 1;
            if let ServerPacket::Posted(posted) = &answer {
                posted.outcomes.iter().flatten().for_each(|outcome| {
                    self.relay.metrics.post_outcome(*outcome);
                });
            } else {
                self.operations -= 1;
            }
            self.send(answer);
        }
        self.replaced.extend(left.replaced);
        if self.attaching.is_none() {
            self.tell_replaced();
        }
        for (attachment, items) in left.bundles_low {
            if self.slot_of(attachment).is_some() {
                self.send(ServerPacket::BundleLow { attachment, items });
            }
        }
        for (attachment, payload) in left.signals {
            if self.slot_of(attachment).is_some() {
                self.send(ServerPacket::Signaled { attachment, payload });
            }
        }
        if let Some(moved) = left.moved {
            self.send(ServerPacket::Move(moved));
        }
        if left.shutdown {
            let settings = self.relay.settings();
            self.send(ServerPacket::Restarting {
                reconnect_in_ms: settings.reconnect_spread_ms,
                try_for_ms: settings.try_for_ms,
            });
            self.deadlines.leave(moment.now);
        }
    }

    pub(super) fn tell_replaced(&mut self) {
        for number in std::mem::take(&mut self.replaced) {
            if let Some(slot) = self.slot_of(number) {
                self.free(slot);
                self.send(ServerPacket::Replaced { attachment: number });
            }
        }
    }
}
