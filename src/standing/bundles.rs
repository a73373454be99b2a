//! Bundles: items that are handed out once, and a last resort.

use std::ops::Range;
use std::time::Instant;

use valise_proto::limits::{BUNDLE_ITEMS_MAX, BUNDLE_LOW_ITEMS};
use valise_proto::{MailboxId, PublishBundle, Reason};

use super::{Refusal, Standing};
use crate::payload::Payload;
use crate::rate::Rate;
use crate::store::{BundleChange, BundleHead, LAST_RESORT, RunningHours, Step, StoreError};

/// An item that was handed out.
#[derive(Debug)]
pub struct Taken {
    /// The item.
    pub payload: Payload,
    /// Whether others get it too.
    pub last_resort: bool,
    /// One-time items left, where they are few.
    pub low: Option<u32>,
}

impl Standing {
    /// Adds to a mailbox's bundle; durable when it returns. Returns how many one-time items there
    /// are then.
    ///
    /// # Errors
    /// `bundle_full` or `busy`.
    pub async fn publish(
        &self,
        mailbox: &MailboxId,
        publish: PublishBundle<Payload>,
    ) -> Result<u32, Refusal> {
        let bytes: usize = publish.last_resort.iter().chain(&publish.items).map(Payload::len).sum();
        let _waiting = self.wait_with(bytes)?;
        let _turn = self.turn_of(mailbox).await;
        let earlier = self.committer.store()?.bundle(mailbox)?;
        if let Some(head) = earlier.filter(|head| head.publication_id == publish.publication_id) {
            return Ok(head.items());
        }
        let change = published(*mailbox, earlier, publish, self.committer.hours())?;
        let items = change.head.map_or(0, |head| head.items());
        self.write(Step::Bundle(change)).await?;
        Ok(items)
    }

    /// Hands out an item of a mailbox's bundle, which is durably forgotten when it returns.
    ///
    /// # Errors
    /// `rate_limited`, `bundle_empty` or `busy`.
    pub async fn take(
        &self,
        mailbox: &MailboxId,
        serial: [u8; 8],
        rate: &Rate,
        now: Instant,
    ) -> Result<Taken, Refusal> {
        self.accounts.take(serial, rate, now)?;
        let _turn = self.turn_of(mailbox).await;
        let head = self.committer.store()?.bundle(mailbox)?.ok_or(Reason::BundleEmpty)?;
        let item = |number| self.committer.store()?.bundle_item(mailbox, number);
        let Some((number, change)) = taken(*mailbox, head) else {
            let last_resort = item(LAST_RESORT)?.ok_or(Reason::BundleEmpty)?;
            return Ok(Taken { payload: last_resort, last_resort: true, low: Some(0) });
        };
        let payload = item(number)?.ok_or(Reason::Busy)?;
        let low = change.head.and_then(|head| low(&head));
        self.write(Step::Bundle(change)).await?;
        Ok(Taken { payload, last_resort: false, low })
    }

    /// How many one-time items a mailbox's bundle has, where there is one and they are few.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn low(&self, mailbox: &MailboxId) -> Result<Option<u32>, StoreError> {
        Ok(self.committer.store()?.bundle(mailbox)?.and_then(|head| low(&head)))
    }
}

/// How many one-time items are left, where they are few.
pub fn low(head: &BundleHead) -> Option<u32> {
    Some(head.items()).filter(|items| *items < BUNDLE_LOW_ITEMS)
}

/// The numbers of everything in a bundle.
pub(super) fn numbers(head: &BundleHead) -> impl Iterator<Item = u32> {
    head.last_resort.then_some(LAST_RESORT).into_iter().chain(head.first..head.next)
}

/// What a publication changes.
///
/// # Errors
/// `bundle_full`.
pub fn published(
    mailbox: MailboxId,
    earlier: Option<BundleHead>,
    publish: PublishBundle<Payload>,
    now: RunningHours,
) -> Result<BundleChange, Reason> {
    let fresh = BundleHead {
        publication_id: publish.publication_id,
        published: now,
        first: 1,
        next: 1,
        last_resort: false,
    };
    let mut head = BundleHead {
        publication_id: publish.publication_id,
        published: now,
        ..earlier.unwrap_or(fresh)
    };
    let mut removed = Vec::new();
    if publish.replace {
        removed.extend(Range { start: head.first, end: head.next });
        // A last resort that is written in the same change is not removed by it.
        if head.last_resort && publish.last_resort.is_none() {
            removed.push(LAST_RESORT);
        }
        head.first = head.next;
        head.last_resort = false;
    }
    let more = u32::try_from(publish.items.len()).map_err(|_| Reason::BundleFull)?;
    if head.items().saturating_add(more) > BUNDLE_ITEMS_MAX {
        return Err(Reason::BundleFull);
    }
    // After days of replacing without a pause the numbers are used up; a bundle that was ended
    // begins anew.
    let next = head.next.checked_add(more).ok_or(Reason::BundleFull)?;
    let mut stored: Vec<(u32, Payload)> = (head.next..next).zip(publish.items).collect();
    head.next = next;
    if let Some(payload) = publish.last_resort {
        head.last_resort = true;
        stored.push((LAST_RESORT, payload));
    }
    // What leaves nothing ends the bundle.
    let head = Some(head).filter(|head| head.items() > 0 || head.last_resort);
    Ok(BundleChange { mailbox, head, stored, removed })
}

/// The next one-time item's number and what taking it changes; `None` when there is none.
pub fn taken(mailbox: MailboxId, head: BundleHead) -> Option<(u32, BundleChange)> {
    let number = Some(head.first).filter(|first| *first < head.next)?;
    let head = Some(BundleHead { first: head.first + 1, ..head });
    Some((number, BundleChange { mailbox, head, stored: Vec::new(), removed: vec![number] }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use valise_proto::{PacketPayload, PublicationId};

    use super::*;

    const MAILBOX: MailboxId = MailboxId::new([1; 16]);

    fn publication(items: usize, last_resort: bool, replace: bool) -> PublishBundle<Payload> {
        let payload = || Payload::from_packet(Bytes::from(vec![7; 512]));
        PublishBundle {
            request: 1,
            attachment: 0,
            publication_id: PublicationId::new([2; 16]),
            replace,
            last_resort: last_resort.then(payload),
            items: (0..items).map(|_| payload()).collect(),
        }
    }

    fn publish(
        earlier: Option<BundleHead>,
        what: PublishBundle<Payload>,
    ) -> Result<BundleChange, Reason> {
        published(MAILBOX, earlier, what, RunningHours(3))
    }

    #[test]
    fn items_are_numbered_on_and_taken_in_order() {
        let first = publish(None, publication(2, true, false)).unwrap();
        let numbers: Vec<u32> = first.stored.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 2, LAST_RESORT]);
        let (number, change) = taken(MAILBOX, first.head.unwrap()).unwrap();
        assert_eq!((number, change.removed), (1, vec![1]));
        let second = publish(change.head, publication(1, false, false)).unwrap();
        assert_eq!(second.stored[0].0, 3, "a number is never given twice");
        let head = second.head.unwrap();
        assert_eq!((head.items(), head.last_resort), (2, true));
        let (_, change) = taken(MAILBOX, head).unwrap();
        let (number, change) = taken(MAILBOX, change.head.unwrap()).unwrap();
        assert_eq!(number, 3);
        assert!(taken(MAILBOX, change.head.unwrap()).is_none());
    }

    #[test]
    fn replacing_removes_everything_but_what_comes() {
        let head = publish(None, publication(3, true, false)).unwrap().head;
        let change = publish(head, publication(1, false, true)).unwrap();
        assert_eq!(change.removed, [1, 2, 3, LAST_RESORT]);
        let after = change.head.unwrap();
        assert_eq!((after.first, after.next, after.last_resort), (4, 5, false));
        let change = publish(head, publication(0, true, true)).unwrap();
        assert_eq!(change.removed, [1, 2, 3], "the new last resort stays");
        assert!(change.head.unwrap().last_resort);
    }

    #[test]
    fn a_bundle_is_full_at_a_hundred() {
        let head = publish(None, publication(100, true, false)).unwrap().head;
        assert_eq!(publish(head, publication(1, false, false)).unwrap_err(), Reason::BundleFull);
        assert!(publish(head, publication(0, true, false)).is_ok());
        assert!(publish(head, publication(100, false, true)).is_ok());
    }

    #[test]
    fn a_publication_that_leaves_nothing_ends_the_bundle() {
        let head = publish(None, publication(2, true, false)).unwrap().head;
        let change = publish(head, publication(0, false, true)).unwrap();
        assert_eq!((change.head, change.removed), (None, vec![1, 2, LAST_RESORT]));
        assert_eq!(publish(None, publication(0, false, false)).unwrap().head, None);
        let (_, change) = taken(MAILBOX, head_of(1)).unwrap();
        assert_eq!(publish(change.head, publication(0, false, false)).unwrap().head, None);
    }

    #[test]
    fn numbers_that_are_used_up_break_nothing() {
        let head = BundleHead { first: u32::MAX - 2, next: u32::MAX - 1, ..head_of(1) };
        let last = publish(Some(head), publication(1, false, false)).unwrap();
        assert_eq!(last.stored[0].0, u32::MAX - 1);
        for replace in [false, true] {
            let full = publish(last.head, publication(1, false, replace));
            assert_eq!(full.unwrap_err(), Reason::BundleFull);
        }
        let ended = publish(last.head, publication(0, false, true)).unwrap();
        assert_eq!(publish(ended.head, publication(1, false, true)).unwrap().stored[0].0, 1);
    }

    fn head_of(items: usize) -> BundleHead {
        publish(None, publication(items, false, false)).unwrap().head.unwrap()
    }
}
