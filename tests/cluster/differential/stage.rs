//! Plays a script with real clients, step by step. After each step a marker is posted to every
//! mailbox, and every client that is connected asks for a `Pong`: a mailbox gives its frames in
//! their order, so whoever has the marker has everything that was stored before it.

use std::time::Duration;

use bytes::Bytes;
use valise_client::OwnerKeyPair;
use valise_proto::{ClientPacket, Deliver, Post, Reason, ServerPacket, Token, TokenKind};

use super::book::{Attachment, Client, Mailbox, Posted, Put};
use super::place::Place;
use super::script::{CLIENTS, MAILBOXES, Step};
use super::transcript::{
    LOW_LANE, Plaintexts, Transcripts, copies_may_come, name, numbered, outcomes, retry, tokens,
};
use crate::wire::{Via, Wire, frame_id};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client has at most about this much in flight, so that no window is ever full.
pub const IN_FLIGHT_MAX: usize = 48 * 1024;

/// One play.
pub struct Stage<'a> {
    pub place: &'a Place,
    pub clients: Vec<Client>,
    pub mailboxes: Vec<Mailbox>,
    pub posted: Vec<Posted>,
    pub puts: Vec<Put>,
    pub transcripts: Transcripts,
    plaintexts: Plaintexts,
    /// Who sends: so many clients further on than the script says.
    pub turned: usize,
    /// Slots of this play are numbered from here.
    pub slots: u32,
    /// One connection to each relay, by which the play itself is seen to.
    keepers: Vec<Wire>,
    /// Payloads so far.
    numbers: u32,
    pub step: usize,
}

/// How a play differs from others of the same script.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Plays in one place have different numbers.
    pub play: u32,
    pub plaintexts: Plaintexts,
    pub turned: usize,
    pub via: [Via; 2],
    /// All clients connect at the start.
    pub all_connect: bool,
}

impl Manner {
    pub fn of_play(play: u32) -> Self {
        let via = [Via::Raw, Via::WebSocket];
        Self { play, plaintexts: Plaintexts(0), turned: 0, via, all_connect: false }
    }
}

impl<'a> Stage<'a> {
    /// Plays a script, to its end.
    pub async fn play(place: &'a Place, script: &[Step], manner: Manner) -> Self {
        let mut stage = Self::set(place, manner).await;
        for (i, step) in script.iter().enumerate() {
            stage.begin_step(i + 1).await;
            stage.act(*step).await;
            stage.end_step(step.place).await;
        }
        stage.begin_step(script.len() + 1).await;
        stage.drain().await;
        place.is_empty().await;
        stage
    }

    /// Copies that were accepted, as far as clients know.
    pub fn frames_accepted(&self) -> u64 {
        self.mailboxes.iter().map(|mailbox| mailbox.accepted.len() as u64).sum()
    }

    /// Everybody goes, in order.
    pub async fn leave(self) {
        let clients = self.clients.into_iter().filter_map(|client| client.wire);
        for wire in clients.chain(self.keepers) {
            wire.close().await;
        }
    }

    /// Every owner has joined and is attached, and has issued what others need.
    async fn set(place: &'a Place, manner: Manner) -> Self {
        let realm = place.realm;
        let owners = (0..MAILBOXES).map(|_| OwnerKeyPair::generate());
        let mailboxes = owners.map(|owner| {
            let id = owner.mailbox(&realm);
            Mailbox::new(owner, id)
        });
        let mut keepers = Vec::new();
        for relay in 0..place.sockets.len() {
            keepers.push(place.connect(relay, Via::Raw).await);
        }
        let mut stage = Self {
            place,
            clients: (0..CLIENTS).map(|i| Client::new(manner.via[i % 2])).collect(),
            mailboxes: mailboxes.collect(),
            posted: Vec::new(),
            puts: Vec::new(),
            transcripts: Transcripts::default(),
            plaintexts: manner.plaintexts,
            turned: manner.turned,
            slots: manner.play * 16,
            keepers,
            numbers: 0,
            step: 0,
        };
        for i in 0..MAILBOXES {
            stage.connect(i, i).await;
            stage.join(i, i).await;
            stage.attach(i, i, 0).await;
            let mut post = stage.issue(i, TokenKind::Post, 3).await;
            stage.mailboxes[i].marker = post.pop();
            Mailbox::add(&mut stage.mailboxes[i].capabilities, &post);
            stage.mailboxes[i].take_token = stage.issue(i, TokenKind::Take, 1).await.pop();
            let mut slot = stage.issue(i, TokenKind::Slot, 2).await;
            stage.mailboxes[i].slot_token = slot.pop();
            stage.mailboxes[i].probe = slot.pop();
        }
        for client in MAILBOXES..CLIENTS {
            if manner.all_connect {
                stage.connect(client, client).await;
            }
        }
        stage.end_step(0).await;
        stage
    }

    async fn begin_step(&mut self, step: usize) {
        self.step = step;
        self.clients.iter_mut().for_each(|client| client.heard.clear());
        for mailbox in 0..MAILBOXES {
            if let Some((client, number)) = self.mailboxes[mailbox].attached {
                self.make_room(client, number).await;
            }
        }
    }

    /// Waits until every client has heard what this step has caused.
    async fn end_step(&mut self, place: usize) {
        let marker = self.marker(place).await;
        for mailbox in 0..MAILBOXES {
            if let Some((client, number)) = self.mailboxes[mailbox].attached {
                let is = |packet: &ServerPacket<Bytes>| {
                    let ServerPacket::Deliver(deliver) = packet else { return false };
                    (deliver.attachment, deliver.frame_id) == (number, frame_id(marker))
                };
                self.wait(client, is).await;
            }
        }
        for client in 0..CLIENTS {
            if self.clients[client].wire.is_some() {
                self.ask(client, |request| ClientPacket::Ping { request }).await;
            }
        }
    }

    /// Posts a marker to every mailbox, by way of this relay.
    async fn marker(&mut self, place: usize) -> u32 {
        let (number, payload) = self.payload(512);
        let capabilities = self.mailboxes.iter().map(|mailbox| mailbox.marker.unwrap()).collect();
        let keeper = place % self.keepers.len();
        let keeper = &mut self.keepers[keeper];
        let request = keeper.next_request();
        let frame_id = frame_id(number);
        let post = Post { request, frame_id, capabilities, ttl_hours: 0, payload };
        keeper.say(&ClientPacket::Post(post)).await;
        let Some(Some(ServerPacket::Posted(posted))) = keeper.receive_soon(PATIENCE).await else {
            panic!("step {}: no answer to a marker", self.step)
        };
        for (mailbox, outcome) in self.mailboxes.iter_mut().zip(&posted.outcomes) {
            assert_eq!(*outcome, Some(Reason::Accepted), "step {}: a marker", self.step);
            mailbox.queue.push(number);
            mailbox.accepted.insert(number);
        }
        number
    }

    /// Every relay knows what was revoked so far of this mailbox: a later revocation is known to it.
    /// A node hears of it a moment after the owner is answered, which Engine's rule 6 allows.
    pub async fn revocations_are_known(&mut self, mailbox: usize) {
        let (client, number) = self.mailboxes[mailbox].attached.unwrap();
        let probe = self.mailboxes[mailbox].probe.take().unwrap();
        let slot = self.slots + 15;
        let value = Bytes::from(vec![0; 512]);
        // So that putting it again changes nothing while the probe is good.
        self.keepers[0].store(&probe, slot, 0, value.clone()).await;
        self.revoke(client, number, probe).await;
        for i in 0..self.keepers.len() {
            let keeper = &mut self.keepers[i];
            let give_up = tokio::time::Instant::now() + PATIENCE;
            while let ServerPacket::Stored { .. } = keeper.put(&probe, slot, 0, value.clone()).await
            {
                assert!(tokio::time::Instant::now() < give_up, "a node never hears of it");
                assert!(self.place.is_data_centre(), "a supernode knows at once");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        self.mailboxes[mailbox].probe = self.issue(mailbox, TokenKind::Slot, 1).await.pop();
    }

    /// Waits until what was acknowledged is really gone.
    pub async fn settle(&mut self, mailbox: usize) {
        let mailbox = &mut self.mailboxes[mailbox];
        self.place.settle(&mailbox.id, mailbox.queue.len()).await;
        mailbox.unsettled.clear();
    }

    /// The next payload, and its number.
    pub fn payload(&mut self, len: usize) -> (u32, Bytes) {
        let number = self.numbers;
        self.numbers += 1;
        (number, self.plaintexts.make(number, len))
    }

    /// The payload of this number.
    pub fn payload_of(&self, number: u32, len: usize) -> Bytes {
        self.plaintexts.make(number, len)
    }

    pub async fn connect(&mut self, client: usize, place: usize) {
        let client = &mut self.clients[client];
        if client.wire.is_none() {
            client.wire = Some(self.place.connect(place, client.via).await);
            client.life += 1;
        }
    }

    /// The connection, which there is.
    pub fn wire(&mut self, client: usize) -> &mut Wire {
        self.clients[client].wire.as_mut().expect("it is connected")
    }

    /// Says a request, and waits for its answer; `None` when the connection ended instead.
    pub async fn ask(
        &mut self,
        client: usize,
        packet: impl FnOnce(u32) -> ClientPacket<Bytes>,
    ) -> Option<ServerPacket<Bytes>> {
        let request = self.wire(client).next_request();
        self.wire(client).say(&packet(request)).await;
        self.answer(client, request).await
    }

    pub async fn answer(&mut self, client: usize, request: u32) -> Option<ServerPacket<Bytes>> {
        self.wait(client, |packet| answered(packet) == Some(request)).await
    }

    /// Waits until a client has heard this in the current step; `None` when its connection ended.
    pub async fn wait(
        &mut self,
        client: usize,
        is: impl Fn(&ServerPacket<Bytes>) -> bool,
    ) -> Option<ServerPacket<Bytes>> {
        let mut looked = 0;
        loop {
            let heard = &self.clients[client].heard;
            while looked < heard.len() {
                match &heard[looked] {
                    Some(packet) if is(packet) => return Some(packet.clone()),
                    Some(_) => looked += 1,
                    None => return None,
                }
            }
            self.hear(client).await;
        }
    }

    /// Hears one packet.
    pub async fn hear(&mut self, client: usize) {
        let step = self.step;
        let Some(packet) = self.wire(client).receive_soon(PATIENCE).await else {
            let heard = &self.clients[client].heard;
            let place = &self.place.name;
            panic!("{place}, step {step}: client {client} waits in vain, having heard {heard:?}")
        };
        self.note(client, packet.as_ref());
        self.clients[client].heard.push(packet);
    }

    /// Writes down what was told.
    fn note(&mut self, client: usize, packet: Option<&ServerPacket<Bytes>>) {
        let Some(packet) = packet else {
            self.gone(client);
            return self.told(client, None, "the end");
        };
        match packet {
            ServerPacket::Attached { attachment, .. } => {
                let mailbox = self.clients[client].attaching.take().expect("it asked for one");
                let attachments = &mut self.clients[client].attachments;
                attachments.insert(*attachment, Attachment::new(mailbox));
                self.told(client, Some((*attachment, "")), "attached");
            }
            ServerPacket::Deliver(deliver) => self.delivered(client, deliver),
            ServerPacket::CaughtUp { attachment } => {
                self.told(client, Some((*attachment, "")), "caught up");
            }
            ServerPacket::Replaced { attachment } => {
                let early = self.clients[client].attaching.is_some();
                let when = if early { " before the newer is attached" } else { "" };
                self.told(client, Some((*attachment, "")), &format!("replaced{when}"));
                if let Some(it) = self.clients[client].attachments.get_mut(attachment) {
                    it.over = true;
                }
            }
            ServerPacket::Signaled { attachment, payload } => {
                let event = format!("signal {}", self.tell(payload));
                self.told(client, Some((*attachment, " signals")), &event);
            }
            ServerPacket::BundleLow { attachment, items } => {
                self.told(client, Some((*attachment, LOW_LANE)), &format!("{items} items left"));
            }
            ServerPacket::Pong { .. } => {}
            answer => {
                let event = self.answer_told(answer);
                self.told(client, None, &event);
            }
        }
    }

    fn answer_told(&self, answer: &ServerPacket<Bytes>) -> String {
        match answer {
            ServerPacket::Joined { .. } => "joined".to_owned(),
            ServerPacket::Issued { tokens: issued, .. } => format!("issued {}", tokens(issued)),
            ServerPacket::Taken { payload, .. } => format!("taken by {}", self.tell(payload)),
            ServerPacket::Slots { payloads, .. } => {
                let tell = |value: &Option<Bytes>| value.as_ref().map(|value| self.tell(value));
                let values: Vec<_> = payloads.iter().map(tell).collect();
                format!("slots {values:?}")
            }
            ServerPacket::BundleItem { last_resort, payload, .. } => {
                format!("item {}, last resort {last_resort}", self.tell(payload))
            }
            ServerPacket::Posted(posted) => {
                let number = number_of(&posted.frame_id);
                format!("f{number} {}", outcomes(posted))
            }
            ServerPacket::Refused(refused) => {
                format!("refused {}{}", name(refused.reason), retry(refused.retry_after_ms))
            }
            ServerPacket::Detached { .. } => "detached".to_owned(),
            ServerPacket::Revoked { .. } => "revoked".to_owned(),
            ServerPacket::Stored { .. } => "stored".to_owned(),
            ServerPacket::Published { items, .. } => format!("published, {items} items"),
            other => format!("{other:?}"),
        }
    }

    fn delivered(&mut self, client: usize, deliver: &Deliver<Bytes>) {
        let number = number_of(&deliver.frame_id);
        let event = format!("f{number} {}", self.tell(&deliver.payload));
        let lane = Some((deliver.attachment, ""));
        let Some(it) = self.clients[client].attachments.get_mut(&deliver.attachment) else {
            return self.told(client, lane, &format!("{event} without an attachment"));
        };
        it.n += 1;
        let (n, over) = (it.n, it.over);
        let bytes = deliver.payload.len();
        let acknowledged = self.mailboxes[it.mailbox].unsettled.contains(&number);
        if acknowledged && copies_may_come(self.place.is_data_centre()) {
            self.transcripts.copies += 1;
        } else {
            it.delivered.push((n, number, bytes));
            let end = if over { ", which has ended" } else { "" };
            self.told(client, lane, &format!("{event}{}{end}", numbered(deliver.n, n)));
        }
    }

    /// Its connection is no more.
    pub fn gone(&mut self, client: usize) -> Vec<usize> {
        self.clients[client].wire = None;
        self.clients[client].attachments.clear();
        self.clients[client].attaching = None;
        let by = |mailbox: &Mailbox| mailbox.attached.is_some_and(|(by, _)| by == client);
        let left = (0..MAILBOXES).filter(|i| by(&self.mailboxes[*i])).collect::<Vec<_>>();
        left.iter().for_each(|i| self.mailboxes[*i].attached = None);
        left
    }

    fn told(&mut self, client: usize, lane: Option<(u32, &str)>, event: &str) {
        let life = self.clients[client].life;
        let lane = match lane {
            Some((number, what)) => format!("client {client}.{life} attachment {number}{what}"),
            None => format!("client {client}"),
        };
        self.transcripts.add(lane, self.step, event);
    }

    fn tell(&self, payload: &Bytes) -> String {
        self.plaintexts.tell(payload, self.numbers)
    }

    /// Acknowledges what was delivered, if it is much.
    pub async fn make_room(&mut self, client: usize, number: u32) {
        if self.clients[client].attachments[&number].in_flight() > IN_FLIGHT_MAX {
            self.acknowledge(client, number, 0).await;
        }
    }

    /// Acknowledges all but so many.
    pub async fn acknowledge(&mut self, client: usize, number: u32, but: usize) {
        let it = self.clients[client].attachments.get_mut(&number).unwrap();
        let up_to = it.delivered.len().saturating_sub(but);
        if up_to <= it.acknowledged {
            return;
        }
        let (n, ..) = it.delivered[up_to - 1];
        let frames = it.delivered[it.acknowledged..up_to].iter().map(|(_, frame, _)| *frame);
        let frames: Vec<u32> = frames.collect();
        it.acknowledged = up_to;
        let (over, mailbox) = (it.over, it.mailbox);
        self.wire(client).ack(number, n).await;
        if !over {
            let mailbox = &mut self.mailboxes[mailbox];
            mailbox.queue.retain(|frame| !frames.contains(frame));
            mailbox.unsettled.extend(frames);
        }
    }

    /// A put that is known, or none.
    pub async fn put(&mut self, client: usize, put: &Put) -> Option<ServerPacket<Bytes>> {
        let token = self.mailboxes[put.account].slot_token.unwrap();
        let (slot, id, payload) = (put.slot, put.put, put.payload.clone());
        let request = self.wire(client).say_put(&token, slot, id, payload).await;
        self.answer(client, request).await
    }

    /// Some token that no realm has sealed.
    pub fn forged() -> Token {
        Token::new([4; 60])
    }
}

/// Which request a packet answers.
fn answered(packet: &ServerPacket<Bytes>) -> Option<u32> {
    match packet {
        ServerPacket::Joined { request, .. }
        | ServerPacket::Attached { request, .. }
        | ServerPacket::Detached { request }
        | ServerPacket::Issued { request, .. }
        | ServerPacket::Revoked { request }
        | ServerPacket::Stored { request }
        | ServerPacket::Taken { request, .. }
        | ServerPacket::Slots { request, .. }
        | ServerPacket::Published { request, .. }
        | ServerPacket::BundleItem { request, .. }
        | ServerPacket::Pong { request } => Some(*request),
        ServerPacket::Posted(posted) => Some(posted.request),
        ServerPacket::Refused(refused) => Some(refused.request),
        _ => None,
    }
}

fn number_of(id: &valise_proto::FrameId) -> u32 {
    u32::from_be_bytes(id.as_bytes()[..4].try_into().unwrap())
}
