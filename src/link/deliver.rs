//! Mail: pulls frames from the mailboxes served here, as far as windows and outbox allow, slot
//! after slot, so that a stuck mailbox starves no other.

use valise_proto::limits::ATTACHMENTS_MAX;
use valise_proto::{CloseReason, Deliver, ServerPacket};

use super::{Link, Phase};
use crate::limits::PULL_BYTES;
use crate::transport::Transport;

/// What pulling from one slot led to.
enum Pull {
    /// There may be more.
    More,
    /// Nothing, until the mailbox rings again.
    Empty,
    /// Nothing, until the client acknowledges.
    WindowFull,
}

impl<T: Transport> Link<T> {
    /// Puts mail into the outbox. Returns whether there is more that only waits for the outbox.
    pub(super) fn deliver(&mut self) -> bool {
        let slots = u8::try_from(ATTACHMENTS_MAX).expect("slots are few");
        let mut full_windows = 0;
        while self.mail & !full_windows != 0 && self.ending.is_none() {
            let slot = self.next_slot;
            let has_mail = (self.mail & !full_windows) & (1 << slot) != 0;
            if has_mail && self.outbox_is_full() {
                // It is this slot's turn again when there is room.
                return true;
            }
            self.next_slot = (slot + 1) % slots;
            if !has_mail {
                continue;
            }
            match self.pull(slot) {
                Pull::More => {}
                Pull::Empty => self.mail &= !(1 << slot),
                Pull::WindowFull => full_windows |= 1 << slot,
            }
        }
        false
    }

    fn pull(&mut self, slot: u8) -> Pull {
        let Phase::Open(session) = &mut self.phase else { return Pull::Empty };
        let attachment = self.slots.get(usize::from(slot)).and_then(Option::as_ref);
        let (Some((number, serving)), Some(attachment)) = (session.serving(slot), attachment)
        else {
            return Pull::Empty;
        };
        let room = serving.room().min(PULL_BYTES);
        if room == 0 {
            return Pull::WindowFull;
        }
        let Ok(pulled) = attachment.pull(serving.cursor(), room) else {
            self.close(CloseReason::StoreFailed);
            return Pull::Empty;
        };
        let empty = pulled.is_empty();
        let metrics = &self.relay.metrics;
        for frame in pulled {
            let n = serving.deliver(frame.seq, frame.payload.len());
            metrics.frame_delivered();
            metrics.packet_sent("deliver");
            let (frame_id, payload) = (frame.frame_id, frame.payload);
            ServerPacket::Deliver(Deliver { attachment: number, n, frame_id, payload })
                .encode(&mut self.out);
        }
        // The last of what there was when it attached may have expired meanwhile.
        if empty
            && let Some(last) = serving.to_catch_up()
            && attachment.has_nothing_between(serving.cursor(), last)
        {
            serving.skip_to(last);
        }
        if serving.caught_up() {
            self.send(ServerPacket::CaughtUp { attachment: number });
        }
        if empty { Pull::Empty } else { Pull::More }
    }
}
