//! What clients do in a step, and what is waited for because of it.

use bytes::Bytes;
use valise_client::OwnerKeyPair;
use valise_proto::limits::{BUNDLE_LOW_ITEMS, TTL_HOURS_MAX};
use valise_proto::{
    ClientPacket, Issue, Post, PublicationId, PublishBundle, Reason, Revoke, ServerPacket, Signal,
    Token, TokenKind,
};

use super::book::{Mailbox, Posted, Put};
use super::script::{CLIENTS, MAILBOXES, Step, What};
use super::stage::Stage;
use crate::standing::slot_id;
use crate::wire::frame_id;

/// Sizes of frames, most of them small.
const SIZES: [usize; 6] = [512, 512, 512, 512, 2_048, 8_192];

/// Items of a publication: the last is as many as a bundle may have.
const ITEMS: [usize; 5] = [1, 3, 8, 12, 100];

impl Stage<'_> {
    pub async fn act(&mut self, step: Step) {
        let Step { what, mailbox, place, choice, .. } = step;
        let client = self.who(step);
        self.connect(client, place).await;
        let attached = self.mailboxes[mailbox].attached;
        match what {
            What::Join => self.join(client, mailbox).await,
            What::Attach if attached.is_some() => self.post(client, step).await,
            What::Attach | What::TakeOver => self.attach_somehow(client, mailbox, choice).await,
            What::Detach => self.detach(client, mailbox).await,
            What::Close => {
                self.clients[client].wire.take().unwrap().close().await;
                self.left(client).await;
            }
            What::Vanish => {
                drop(self.clients[client].wire.take());
                self.left(client).await;
            }
            What::IssuePost => {
                if attached.is_some() {
                    let tokens = self.issue(mailbox, TokenKind::Post, 1 + choice as u32 % 3).await;
                    Mailbox::add(&mut self.mailboxes[mailbox].capabilities, &tokens);
                }
            }
            What::Post | What::PostToAll => self.post(client, step).await,
            What::Repeat | What::RepeatElse => self.repeat(client, step).await,
            What::Signal => self.signal(client, mailbox, choice).await,
            What::Acknowledge => {
                if let Some((client, number)) = attached {
                    self.acknowledge(client, number, choice % 4).await;
                }
            }
            What::AcknowledgeLate => {
                let ended = self.clients[client].attachments.iter().find(|(_, it)| it.over);
                if let Some(number) = ended.map(|(number, _)| *number) {
                    self.acknowledge(client, number, 0).await;
                }
            }
            What::RevokePost | What::RevokeMember => self.revoke_some(step).await,
            What::PutSlot => {
                let (_, payload) = self.payload(512);
                let slot = self.slots + choice as u32 % 4;
                let put = self.puts.len() as u32 + 1;
                let put = Put { slot, put, payload, account: mailbox };
                self.puts.push(put.clone());
                self.put(client, &put).await;
            }
            What::RepeatPut => {
                if !self.puts.is_empty() {
                    let put = self.puts[choice % self.puts.len()].clone();
                    self.put(client, &put).await;
                }
            }
            What::GetSlots => {
                let slot_ids = (self.slots..self.slots + 5).map(slot_id).collect();
                self.ask(client, |request| ClientPacket::GetSlots { request, slot_ids }).await;
            }
            What::Publish | What::RepeatPublication => self.publish(step).await,
            What::Take => self.take(client, mailbox).await,
            What::Wrong => self.wrong(client, mailbox, choice).await,
        }
    }

    /// Whoever sends something is turned; whoever serves a mailbox is not.
    fn who(&self, step: Step) -> usize {
        match step.what {
            What::Post | What::PostToAll | What::Repeat | What::RepeatElse | What::Signal => {
                (step.client + self.turned) % CLIENTS
            }
            _ => step.client,
        }
    }

    pub async fn join(&mut self, client: usize, mailbox: usize) {
        let Self { clients, mailboxes, .. } = self;
        let wire = clients[client].wire.as_mut().unwrap();
        let join = wire.make_join(&mailboxes[mailbox].owner, None);
        let request = join.request;
        wire.say(&ClientPacket::Join(Box::new(join))).await;
        let answer = self.answer(client, request).await;
        if let Some(ServerPacket::Joined { member_token, .. }) = answer {
            Mailbox::add(&mut self.mailboxes[mailbox].members, &[member_token]);
        }
    }

    async fn attach_somehow(&mut self, client: usize, mailbox: usize, choice: usize) {
        let members = &self.mailboxes[mailbox].members;
        // Mostly by the newest token, and by one that is not revoked.
        let any = choice.is_multiple_of(6);
        let with = if any { choice / 6 % members.len() } else { members.len() - 1 };
        if members[with].revoked && !any {
            self.join(client, mailbox).await;
            let with = self.mailboxes[mailbox].members.len() - 1;
            return self.attach(client, mailbox, with).await;
        }
        // Sometimes everything that was acknowledged is gone before, so that no copies come.
        if choice % 5 == 1 {
            self.settle(mailbox).await;
        }
        self.attach(client, mailbox, with).await;
    }

    /// Attaches by a member token, and waits until whoever was attached is told, and until the
    /// client has caught up.
    pub async fn attach(&mut self, client: usize, mailbox: usize, with: usize) {
        let token = self.mailboxes[mailbox].members[with].token;
        let before = self.mailboxes[mailbox].attached;
        let Some(number) = self.try_attach(client, mailbox, None, token).await else { return };
        self.mailboxes[mailbox].attached = Some((client, number));
        if let Some((other, replaced)) = before {
            let told = ServerPacket::Replaced { attachment: replaced };
            self.wait(other, |packet| *packet == told).await;
        }
        let caught_up = ServerPacket::CaughtUp { attachment: number };
        while !self.clients[client].heard.contains(&Some(caught_up.clone())) {
            self.hear(client).await;
            self.make_room(client, number).await;
        }
        if self.mailboxes[mailbox].bundle_is_low() {
            self.wait(client, |packet| low_of(packet) == Some(number)).await;
        }
    }

    /// Asks to attach, with somebody else's key perhaps; the number if that was granted.
    async fn try_attach(
        &mut self,
        client: usize,
        mailbox: usize,
        stranger: Option<&OwnerKeyPair>,
        token: Token,
    ) -> Option<u32> {
        let Self { clients, mailboxes, .. } = self;
        clients[client].attaching = Some(mailbox);
        let wire = clients[client].wire.as_mut().unwrap();
        let owner = stranger.unwrap_or(&mailboxes[mailbox].owner);
        let attach = wire.make_attach(owner, &token);
        let request = attach.request;
        let number = wire.begin_attach(attach).await;
        let answer = self.answer(client, request).await;
        self.clients[client].attaching = None;
        matches!(answer, Some(ServerPacket::Attached { .. })).then_some(number)
    }

    async fn detach(&mut self, client: usize, mailbox: usize) {
        let Some((client, attachment)) = self.mailboxes[mailbox].attached else {
            self.ask(client, |request| ClientPacket::Detach { request, attachment: 7 }).await;
            return;
        };
        self.ask(client, |request| ClientPacket::Detach { request, attachment }).await;
        self.clients[client].attachments.get_mut(&attachment).unwrap().over = true;
        self.mailboxes[mailbox].attached = None;
        self.settle(mailbox).await;
    }

    /// The connection is closed: what it served is served by nobody, and what was acknowledged goes.
    async fn left(&mut self, client: usize) {
        for mailbox in self.gone(client) {
            self.settle(mailbox).await;
        }
    }

    /// Issues tokens of an attached mailbox.
    pub async fn issue(&mut self, mailbox: usize, kind: TokenKind, count: u32) -> Vec<Token> {
        let (client, attachment) = self.mailboxes[mailbox].attached.unwrap();
        let issue = |request| {
            let kind = Some(kind);
            ClientPacket::Issue(Issue { request, kind, attachment, count, days: 30, rate_class: 0 })
        };
        match self.ask(client, issue).await {
            Some(ServerPacket::Issued { tokens, .. }) => tokens,
            _ => Vec::new(),
        }
    }

    pub async fn revoke(&mut self, client: usize, attachment: u32, token: Token) {
        let revoke =
            |request| ClientPacket::Revoke(Box::new(Revoke { request, attachment, token }));
        self.ask(client, revoke).await;
    }

    async fn revoke_some(&mut self, step: Step) {
        let mailbox = step.mailbox;
        let Some((client, number)) = self.mailboxes[mailbox].attached else { return };
        let of = &mut self.mailboxes[mailbox];
        let rights = match step.what {
            What::RevokeMember => &mut of.members,
            _ => &mut of.capabilities,
        };
        let i = step.choice % rights.len();
        rights[i].revoked = true;
        let token = rights[i].token;
        self.revoke(client, number, token).await;
        self.revocations_are_known(mailbox).await;
    }

    async fn post(&mut self, client: usize, step: Step) {
        let Step { what, mailbox, choice, .. } = step;
        let any = |of: usize| (of, choice % self.mailboxes[of].capabilities.len());
        let mut targets = vec![any(mailbox)];
        if what == What::PostToAll {
            targets = (0..MAILBOXES).map(any).collect();
        } else if choice.is_multiple_of(4) {
            // Two capabilities of one mailbox put one frame into it.
            targets.push((mailbox, (choice + 1) % self.mailboxes[mailbox].capabilities.len()));
        }
        let bytes = SIZES[choice / 16 % SIZES.len()];
        let (number, _) = self.payload(bytes);
        let posted = Posted { number, bytes, targets };
        self.posted.push(posted.clone());
        let forged = (what == What::PostToAll && choice.is_multiple_of(3)).then(Self::forged);
        self.say_post(client, &posted, forged).await;
    }

    async fn repeat(&mut self, client: usize, step: Step) {
        // A node knows for a minute what it has stored, so the last ones.
        let lately = &self.posted[self.posted.len().saturating_sub(8)..];
        if lately.is_empty() {
            return;
        }
        let mut posted = lately[step.choice % lately.len()].clone();
        if step.what == What::RepeatElse {
            for (mailbox, capability) in &mut posted.targets {
                *capability = (*capability + 1) % self.mailboxes[*mailbox].capabilities.len();
            }
        }
        self.say_post(client, &posted, None).await;
    }

    async fn say_post(&mut self, client: usize, posted: &Posted, forged: Option<Token>) {
        let token = |(of, i): &(usize, usize)| self.mailboxes[*of].capabilities[*i].token;
        let capabilities = posted.targets.iter().map(token).chain(forged).collect();
        let payload = self.payload_of(posted.number, posted.bytes);
        let frame_id = frame_id(posted.number);
        let post = |request| {
            ClientPacket::Post(Post { request, frame_id, capabilities, ttl_hours: 0, payload })
        };
        let answer = self.ask(client, post).await;
        let Some(ServerPacket::Posted(answer)) = answer else { return };
        for ((mailbox, _), outcome) in posted.targets.iter().zip(answer.outcomes) {
            let mailbox = &mut self.mailboxes[*mailbox];
            if outcome == Some(Reason::Accepted) && mailbox.accepted.insert(posted.number) {
                mailbox.queue.push(posted.number);
            }
        }
    }

    async fn signal(&mut self, client: usize, mailbox: usize, choice: usize) {
        let capability = |of: usize, i: usize| {
            let capabilities = &self.mailboxes[of].capabilities;
            (of, capabilities[i % capabilities.len()])
        };
        let mut to = vec![capability(mailbox, choice)];
        match choice % 3 {
            0 => to.push(capability(mailbox, choice + 1)),
            1 => to.push(capability((mailbox + 1) % MAILBOXES, choice)),
            _ => {}
        }
        let capabilities = to.iter().map(|(_, right)| right.token).collect();
        let (_, payload) = self.payload(512);
        let signal = Signal { capabilities, payload: payload.clone() };
        self.wire(client).say(&ClientPacket::Signal(signal)).await;
        for (of, right) in to {
            if let (Some((client, number)), false) = (self.mailboxes[of].attached, right.revoked) {
                let attachment = number;
                let told = ServerPacket::Signaled { attachment, payload: payload.clone() };
                self.wait(client, |packet| *packet == told).await;
            }
        }
    }

    async fn publish(&mut self, step: Step) {
        let Step { what, mailbox, choice, .. } = step;
        let Some((client, attachment)) = self.mailboxes[mailbox].attached else { return };
        let again = self.mailboxes[mailbox].publication.clone();
        let publish = if what == What::RepeatPublication {
            let Some(again) = again else { return };
            PublishBundle { attachment, ..again }
        } else {
            let count = ITEMS[choice % ITEMS.len()];
            let items = (0..count).map(|_| self.payload(512).1).collect();
            let last_resort = choice.is_multiple_of(2).then(|| self.payload(2_048).1);
            let publication_id = PublicationId::new([self.step as u8; 16]);
            let replace = choice.is_multiple_of(3);
            PublishBundle { request: 0, attachment, publication_id, replace, last_resort, items }
        };
        let packet = publish.clone();
        let packet =
            |request| ClientPacket::PublishBundle(Box::new(PublishBundle { request, ..packet }));
        let answer = self.ask(client, packet).await;
        let Some(ServerPacket::Published { items, .. }) = answer else { return };
        let mailbox = &mut self.mailboxes[mailbox];
        if what == What::Publish {
            let earlier = mailbox.bundle.1 && !publish.replace;
            mailbox.bundle = (items, earlier || publish.last_resort.is_some());
            mailbox.publication = Some(publish);
        }
    }

    async fn take(&mut self, client: usize, mailbox: usize) {
        let take_token = self.mailboxes[mailbox].take_token.unwrap();
        let take = |request| ClientPacket::TakeBundle { request, take_token };
        let Some(ServerPacket::BundleItem { last_resort, .. }) = self.ask(client, take).await
        else {
            return;
        };
        let of = &mut self.mailboxes[mailbox];
        if !last_resort {
            of.bundle.0 = of.bundle.0.saturating_sub(1);
        }
        if of.bundle.0 < BUNDLE_LOW_ITEMS
            && let Some((client, number)) = of.attached
        {
            self.wait(client, |packet| low_of(packet) == Some(number)).await;
        }
    }

    /// What is refused, or closes the connection.
    async fn wrong(&mut self, client: usize, mailbox: usize, choice: usize) {
        let capability = self.mailboxes[mailbox].capabilities[0].token;
        let member = self.mailboxes[mailbox].members[0].token;
        let post = |len: usize, targets: usize, ttl_hours: u32| {
            move |request| {
                let (frame_id, payload) = (frame_id(1 << 30), Bytes::from(vec![0; len]));
                let capabilities = vec![capability; targets];
                ClientPacket::Post(Post { request, frame_id, capabilities, ttl_hours, payload })
            }
        };
        match choice % 9 {
            0 => drop(self.ask(client, post(513, 1, 0)).await),
            1 => drop(self.ask(client, post(512, 0, 0)).await),
            2 => drop(self.ask(client, post(512, 1, TTL_HOURS_MAX + 1)).await),
            3 => {
                let stranger = OwnerKeyPair::generate();
                self.try_attach(client, mailbox, Some(&stranger), member).await;
            }
            4 => drop(self.try_attach(client, mailbox, None, capability).await),
            5 if self.mailboxes[mailbox].attached.is_some() => {
                self.issue(mailbox, TokenKind::Post, 0).await;
                self.issue(mailbox, TokenKind::Join, 1).await;
            }
            6 => {
                // Of another mailbox.
                let other = (mailbox + 1) % MAILBOXES;
                if let Some((client, number)) = self.mailboxes[other].attached {
                    self.revoke(client, number, capability).await;
                }
            }
            7 => {
                let take = |request| ClientPacket::TakeBundle { request, take_token: capability };
                self.ask(client, take).await;
            }
            8 => {
                // More than was delivered, or of an attachment that nobody has asked for.
                let live = self.clients[client].attachments.iter().find(|(_, it)| !it.over);
                let (number, n) = live.map_or((1_000, 1), |(number, it)| (*number, it.n + 1));
                self.wire(client).ack(number, n).await;
                while self.clients[client].wire.is_some() {
                    self.hear(client).await;
                }
                for mailbox in 0..MAILBOXES {
                    if self.mailboxes[mailbox].attached.is_none() {
                        self.settle(mailbox).await;
                    }
                }
            }
            _ => {
                let get = |request| ClientPacket::GetSlots { request, slot_ids: Vec::new() };
                self.ask(client, get).await;
            }
        }
    }

    /// Everything that is left is fetched and acknowledged, and then nothing is left.
    pub async fn drain(&mut self) {
        for mailbox in 0..MAILBOXES {
            let client = (mailbox + 1) % CLIENTS;
            self.connect(client, mailbox).await;
            self.join(client, mailbox).await;
            let with = self.mailboxes[mailbox].members.len() - 1;
            self.attach(client, mailbox, with).await;
            let (_, number) = self.mailboxes[mailbox].attached.unwrap();
            self.acknowledge(client, number, 0).await;
            self.detach(client, mailbox).await;
            self.attach(client, mailbox, with).await;
            assert!(self.mailboxes[mailbox].queue.is_empty(), "mailbox {mailbox} is not empty");
        }
    }
}

/// Whose bundle it says is low.
fn low_of(packet: &ServerPacket<Bytes>) -> Option<u32> {
    match packet {
        ServerPacket::BundleLow { attachment, .. } => Some(*attachment),
        _ => None,
    }
}
