//! Who writes to whom. Pure: a table made before anything is connected.

use std::ops::Range;

/// One conversation of one sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// The client that posts.
    pub(crate) sender: u32,
    /// Its targets' places in [`Topology::recipients`].
    pub(crate) lanes: Range<usize>,
}

/// All conversations of a run. A conversation's number is its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    /// In the order of their senders.
    pub(crate) conversations: Vec<Conversation>,
    /// The client each lane leads to; lanes of one conversation are neighbours.
    pub(crate) recipients: Vec<u32>,
}

impl Topology {
    /// The first half of the clients send, each to one of the second half.
    pub(crate) fn pairs(clients: u32, conversations: u32) -> Self {
        let half = clients / 2;
        Self::build(
            (0..half)
                .flat_map(|sender| (0..conversations).map(move |_| (sender, vec![half + sender]))),
        )
    }

    /// Every client sends to the next `targets` ones at once.
    pub(crate) fn groups(clients: u32, targets: u32) -> Self {
        Self::build(
            (0..clients).map(|sender| {
                (sender, (1..=targets).map(|step| (sender + step) % clients).collect())
            }),
        )
    }

    /// Groups of neighbours; every client sends to all others of its group at once.
    pub(crate) fn circles(clients: u32, members: u32) -> Self {
        Self::build((0..clients).map(|sender| {
            let first = sender - sender % members;
            let others = (first..first + members).filter(|member| *member != sender);
            (sender, others.collect())
        }))
    }

    /// Every client has conversations with the clients after it, one each.
    pub(crate) fn ring(clients: u32, conversations: u32) -> Self {
        Self::build((0..clients).flat_map(|sender| {
            // Never to itself, however many there are.
            let peer = move |step| (sender + 1 + step % (clients - 1)) % clients;
            (0..conversations).map(move |step| (sender, vec![peer(step)]))
        }))
    }

    /// `senders`, numbered after the clients, share the clients' mailboxes among themselves.
    pub(crate) fn mailboxes(clients: u32, senders: u32, conversations: u32) -> Self {
        Self::build((0..senders).flat_map(|sender| {
            (0..conversations).flat_map(move |_| {
                let own = (sender..clients).step_by(senders as usize);
                own.map(move |recipient| (clients + sender, vec![recipient]))
            })
        }))
    }

    /// Every client sends to itself.
    pub(crate) fn selves(clients: u32) -> Self {
        Self::build((0..clients).map(|client| (client, vec![client])))
    }

    fn build(rows: impl Iterator<Item = (u32, Vec<u32>)>) -> Self {
        let mut topology = Self::default();
        for (sender, recipients) in rows {
            let start = topology.recipients.len();
            topology.recipients.extend(recipients);
            let lanes = start..topology.recipients.len();
            topology.conversations.push(Conversation { sender, lanes });
        }
        topology
    }

    /// The numbers of a client's own conversations.
    pub(crate) fn sent_by(&self, client: u32) -> Range<usize> {
        let start = self.conversations.partition_point(|conversation| conversation.sender < client);
        let end = self.conversations.partition_point(|conversation| conversation.sender <= client);
        start..end
    }

    /// For each client, the lanes that lead to it, as (conversation, lane), in ascending order.
    pub(crate) fn received(&self, clients: usize) -> Vec<Vec<(u32, usize)>> {
        let mut received = vec![Vec::new(); clients];
        for (number, conversation) in (0..).zip(&self.conversations) {
            for lane in conversation.lanes.clone() {
                received[self.recipients[lane] as usize].push((number, lane));
            }
        }
        received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(topology: &Topology) -> Vec<(u32, &[u32])> {
        let row = |conversation: &Conversation| {
            (conversation.sender, &topology.recipients[conversation.lanes.clone()])
        };
        // The borrow of `topology` outlives the closure's own.
        topology.conversations.iter().map(row).collect()
    }

    #[test]
    fn shapes() {
        assert_eq!(rows(&Topology::pairs(4, 2)), [(0, &[2][..]), (0, &[2]), (1, &[3]), (1, &[3])]);
        assert_eq!(rows(&Topology::groups(3, 2)), [(0, &[1, 2][..]), (1, &[2, 0]), (2, &[0, 1])]);
        assert_eq!(
            rows(&Topology::ring(3, 3)),
            [
                (0, &[1][..]),
                (0, &[2]),
                (0, &[1]),
                (1, &[2]),
                (1, &[0]),
                (1, &[2]),
                (2, &[0]),
                (2, &[1]),
                (2, &[0]),
            ]
        );
        assert_eq!(
            rows(&Topology::circles(4, 2)),
            [(0, &[1][..]), (1, &[0]), (2, &[3]), (3, &[2])]
        );
        assert_eq!(rows(&Topology::mailboxes(3, 2, 1)), [(3, &[0][..]), (3, &[2]), (4, &[1])]);
    }

    #[test]
    fn both_ends_of_a_lane_agree() {
        let topology = Topology::groups(5, 3);
        let received = topology.received(5);
        for client in 0..5 {
            assert_eq!(topology.sent_by(client), client as usize..client as usize + 1);
            for (conversation, lane) in &received[client as usize] {
                assert!(topology.conversations[*conversation as usize].lanes.contains(lane));
                assert_eq!(topology.recipients[*lane], client);
            }
            assert!(received[client as usize].is_sorted());
        }
        assert_eq!(received.iter().map(Vec::len).sum::<usize>(), topology.recipients.len());
    }
}
