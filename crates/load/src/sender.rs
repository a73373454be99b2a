//! One client's sending side: when a frame begins, and what became of it. The order rule and the
//! retries are the client library's own `Outbox`; this adds the two load models and the checker's
//! log. It does no I/O besides queueing packets on the connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise_client::limits::OUTGOING_BYTES_READY;
use valise_client::{
    Client, Connection, ConversationId, Envelope, Outbox, SendError, Settled, Settlement, random,
};
use valise_proto::{Posted, Reason, Refused, Token};

use crate::checker::SentLane;
use crate::cli::Kind;
use crate::header::{self, EVERY_RECIPIENT, Header};
use crate::run::{LoadPace, Phase, Run, Totals};

/// Frames of the open model that wait in one conversation for the frame before them. What is due
/// beyond that is not sent, and counted.
const BACKLOG_FRAMES_MAX: usize = 1_000;

/// A signal nobody has shown by then was dropped on the way, which is allowed.
const SIGNAL_WAIT: Duration = Duration::from_secs(1);

/// One client's conversations.
pub(crate) struct Sender {
    // Static after construction.
    run: Arc<Run>,
    /// The client.
    number: usize,
    /// Its place among the senders, for the schedule.
    turn: u64,
    /// The number of `talks[0]`; the others follow.
    first_conversation: usize,
    /// Carries the frames in place of the outbox here.
    client: Option<Client>,
    // Changed as frames go.
    outbox: Outbox,
    talks: Vec<Talk>,
    /// Closed model: talks that may begin a frame, in turn.
    free: VecDeque<usize>,
    in_flight: usize,
    /// Open model: own frames that have become due.
    due: u64,
    /// The posting each unanswered request is about.
    requests: HashMap<u32, u64>,
    /// Signals that wait for the connection.
    signals: VecDeque<(usize, Bytes)>,
    finished: bool,
    /// What became due without a connection is late for the relay's sake, not for the tester's.
    was_away: bool,
}

/// One conversation.
struct Talk {
    /// The first of its lanes; the others follow.
    first_lane: usize,
    /// The recipient, or everyone.
    recipient: u32,
    capabilities: Vec<Token>,
    lanes: Vec<SentLane>,
    /// Targets of the frame under way that are not settled.
    open: usize,
    counter: u64,
    intended_ns: u64,
    begun_ns: u64,
    /// The frame has been posted before.
    posted: bool,
    /// The connection was lost while the frame was under way: a refusal proves nothing any more.
    uncertain: bool,
    /// When those that wait were intended.
    backlog: VecDeque<u64>,
}

/// A conversation as it is set up.
pub(crate) struct Opening {
    /// The first of its lanes.
    pub(crate) first_lane: usize,
    /// The recipients, by lane.
    pub(crate) recipients: Vec<u32>,
    /// Their capabilities.
    pub(crate) capabilities: Vec<Token>,
}

impl Sender {
    /// A client's conversations, numbered from `first_conversation`. With a client of the library,
    /// that one carries the frames, and says what became of them.
    pub(crate) fn new(
        run: Arc<Run>,
        number: usize,
        turn: u64,
        first_conversation: usize,
        openings: Vec<Opening>,
        client: Option<Client>,
    ) -> Self {
        let mut outbox = Outbox::default();
        let mut talks = Vec::with_capacity(openings.len());
        for (i, Opening { first_lane, recipients, capabilities }) in
            openings.into_iter().enumerate()
        {
            if run.kind == Kind::Post {
                let number = first_conversation + i;
                let (id, stream) = (ConversationId(number as u64), header::stream(number as u32));
                match &client {
                    Some(client) => client.open(id, stream, capabilities.clone(), 1),
                    None => outbox.open(id, stream, capabilities.clone(), 1),
                }
            }
            talks.push(Talk {
                first_lane,
                recipient: if recipients.len() == 1 { recipients[0] } else { EVERY_RECIPIENT },
                lanes: vec![SentLane::default(); recipients.len()],
                capabilities,
                open: 0,
                counter: 0,
                intended_ns: 0,
                begun_ns: 0,
                posted: false,
                uncertain: false,
                backlog: VecDeque::new(),
            });
        }
        Self {
            run,
            number,
            turn,
            first_conversation,
            client,
            outbox,
            free: (0..talks.len()).collect(),
            talks,
            in_flight: 0,
            due: 0,
            requests: HashMap::new(),
            signals: VecDeque::new(),
            finished: false,
            was_away: false,
        }
    }

    /// Begins what is due.
    pub(crate) fn generate(&mut self, phase: Phase) {
        if self.run.kind == Kind::Signal {
            self.collect_seen();
        }
        match phase {
            Phase::Load(LoadPace::Window(window)) => {
                while self.in_flight < window
                    && let Some(talk) = self.free.pop_front()
                {
                    self.begin(talk, self.run.now_ns());
                }
                self.note_finished(self.free.is_empty());
            }
            Phase::Load(LoadPace::Schedule(schedule)) => {
                let now_ns = self.run.now_ns();
                let most = self.run.frames_per_conversation.saturating_mul(self.talks.len() as u64);
                while self.due < most {
                    let intended_ns = schedule.due_of_ns(self.turn, self.due);
                    if intended_ns > now_ns {
                        self.was_away = false;
                        return;
                    }
                    let talk = (self.due % self.talks.len() as u64) as usize;
                    self.due += 1;
                    if !self.was_away {
                        self.run.send_lag.record(self.number, now_ns - intended_ns);
                    }
                    self.begin_or_wait(talk, intended_ns);
                }
                self.note_finished(true);
            }
            Phase::Waiting => {}
            Phase::Quiet | Phase::Stop => {
                let waiting = self.talks.iter_mut().map(|talk| {
                    let waiting = talk.backlog.len();
                    talk.backlog.clear();
                    waiting
                });
                Totals::add(&self.run.totals.not_sent, waiting.sum::<usize>() as u64);
            }
        }
    }

    /// Queues on the connection what may go. Returns whether it waits for room there.
    pub(crate) fn pump(&mut self, connection: &Connection) -> bool {
        let now = Instant::now();
        loop {
            if connection.queued_bytes() > OUTGOING_BYTES_READY {
                return true;
            }
            if let Some((talk, payload)) = self.signals.pop_front() {
                if connection.signal(&self.talks[talk].capabilities, payload).is_err() {
                    return false;
                }
                continue;
            }
            let Some(posting) = self.outbox.next_post(now, random::frame_id) else { return false };
            let talk = &mut self.talks[posting.conversation.0 as usize - self.first_conversation];
            if std::mem::replace(&mut talk.posted, true) {
                Totals::add(&self.run.totals.retries, 1);
            }
            match connection.post_later(posting.frame_id, &posting.capabilities, 0, posting.payload)
            {
                Ok(request) => drop(self.requests.insert(request, posting.number)),
                // The connection has ended: its last event makes the outbox post all of it again.
                Err(_) => return false,
            }
        }
    }

    /// When [`Self::generate`] and [`Self::pump`] should be called at the latest.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        if self.run.kind == Kind::Signal {
            return (self.in_flight > 0).then(|| Instant::now() + SIGNAL_WAIT / 4);
        }
        self.outbox.next_at(Instant::now())
    }

    /// The outcomes of a post.
    pub(crate) fn posted(&mut self, posted: &Posted) {
        let Some(number) = self.requests.remove(&posted.request) else { return };
        for outcome in &posted.outcomes {
            self.note_outcome(*outcome);
        }
        let wait = Duration::from_millis(posted.retry_after_ms.into());
        let settled = self.outbox.resolve(Instant::now(), number, &posted.outcomes, wait);
        self.settle(settled);
    }

    /// A post was refused as a whole.
    pub(crate) fn refused(&mut self, refused: &Refused) {
        let Some(number) = self.requests.remove(&refused.request) else { return };
        self.note_outcome(refused.reason);
        let wait = Duration::from_millis(refused.retry_after_ms.into());
        let settled = self.outbox.refuse(Instant::now(), number, refused.reason, wait);
        self.settle(settled);
    }

    /// The connection is lost: what was under way is unknown, and will be posted again.
    pub(crate) fn lost(&mut self) {
        self.was_away = true;
        self.requests.clear();
        self.signals.clear();
        for talk in self.talks.iter_mut().filter(|talk| talk.open > 0) {
            talk.uncertain = true;
        }
        self.outbox.lose(Instant::now());
    }

    /// What became due meanwhile is none of ours: we were away on purpose.
    pub(crate) fn skip(&mut self, phase: Phase) {
        if let Phase::Load(LoadPace::Schedule(schedule)) = phase {
            let now_ns = self.run.now_ns();
            while schedule.due_of_ns(self.turn, self.due) <= now_ns {
                self.due += 1;
            }
        }
    }

    /// What the checker needs, by lane.
    pub(crate) fn into_log(self) -> impl Iterator<Item = (usize, SentLane)> {
        self.talks.into_iter().flat_map(|talk| (talk.first_lane..).zip(talk.lanes))
    }

    fn begin_or_wait(&mut self, talk: usize, intended_ns: u64) {
        let Talk { open, backlog, .. } = &mut self.talks[talk];
        if *open == 0 && backlog.is_empty() {
            self.begin(talk, intended_ns);
        } else if backlog.len() < BACKLOG_FRAMES_MAX {
            backlog.push_back(intended_ns);
        } else {
            Totals::add(&self.run.totals.not_sent, 1);
        }
    }

    fn begin(&mut self, index: usize, intended_ns: u64) {
        let talk = &mut self.talks[index];
        talk.counter += 1;
        for lane in &mut talk.lanes {
            lane.invoke();
        }
        Totals::add(&self.run.totals.sent, talk.lanes.len() as u64);
        talk.intended_ns = intended_ns;
        talk.begun_ns = self.run.now_ns();
        self.run.under_way[talk.first_lane].store(talk.begun_ns.max(1), Ordering::Relaxed);
        talk.posted = false;
        talk.uncertain = false;
        talk.open = talk.lanes.len();
        self.in_flight += 1;
        let conversation = self.first_conversation + index;
        let header = Header {
            sender: self.number as u32,
            recipient: talk.recipient,
            conversation: conversation as u32,
            counter: talk.counter,
            intended_ns,
        };
        let message = self.run.stamp.message(&header);
        match self.run.kind {
            Kind::Post => {
                let id = ConversationId(conversation as u64);
                let counter = match &self.client {
                    Some(client) => match client.send(id, message) {
                        // What it did not settle before it ended has no outcome.
                        Err(SendError::Ended) => return,
                        pushed => pushed.ok(),
                    },
                    None => self.outbox.push(id, message).ok(),
                };
                let counter = counter.expect("one frame of each conversation fits the outbox");
                assert_eq!(counter, talk.counter, "the outbox counts as the checker does");
            }
            Kind::Signal => {
                let stream = header::stream(header.conversation);
                let envelope =
                    Envelope { stream, first_counter: header.counter, messages: vec![message] };
                let payload =
                    envelope.encode().expect("a message fits the payload it was made for");
                self.signals.push_back((index, payload));
            }
        }
    }

    fn note_outcome(&self, outcome: Option<Reason>) {
        if outcome != Some(Reason::Accepted) {
            self.run.error(format!("post refused: {}", outcome.map_or("unknown", Reason::name)));
        }
    }

    /// What became of frames.
    pub(crate) fn settle(&mut self, settled: impl IntoIterator<Item = Settled>) {
        let now_ns = self.run.now_ns();
        for Settled { conversation, target, counters, fate } in settled {
            let index = conversation.0 as usize - self.first_conversation;
            let talk = &mut self.talks[index];
            match fate {
                Settlement::Accepted => {
                    counters.for_each(|counter| talk.lanes[target].accept(counter));
                    Totals::add(&self.run.totals.accepted, 1);
                    let latency_ns = now_ns.saturating_sub(talk.intended_ns);
                    self.run.accepted_latency.record(self.number, latency_ns);
                    self.run.pauses.accepted(self.number, latency_ns);
                }
                // An attempt before the loss may have arrived: unknown.
                Settlement::GivenUp(_) if talk.uncertain => {}
                Settlement::GivenUp(_) => {
                    counters.for_each(|counter| talk.lanes[target].refuse(counter));
                    Totals::add(&self.run.totals.refused, 1);
                }
            }
            talk.open -= 1;
            if talk.open == 0 {
                self.end_frame(index);
            }
        }
    }

    fn end_frame(&mut self, index: usize) {
        self.in_flight -= 1;
        let talk = &mut self.talks[index];
        self.run.under_way[talk.first_lane].store(0, Ordering::Relaxed);
        match talk.backlog.pop_front() {
            Some(intended_ns) => self.begin(index, intended_ns),
            None if talk.counter < self.run.frames_per_conversation => self.free.push_back(index),
            None => {}
        }
    }

    /// Ends the signals that were shown everywhere, or that nobody will show any more.
    fn collect_seen(&mut self) {
        let now_ns = self.run.now_ns();
        for index in 0..self.talks.len() {
            let talk = &self.talks[index];
            if talk.open == 0 {
                continue;
            }
            let lanes = talk.first_lane..talk.first_lane + talk.lanes.len();
            let mut seen = self.run.seen[lanes].iter();
            let everywhere = seen.all(|seen| seen.load(Ordering::Relaxed) >= talk.counter);
            if everywhere || now_ns - talk.begun_ns > SIGNAL_WAIT.as_nanos() as u64 {
                self.talks[index].open = 0;
                self.end_frame(index);
            }
        }
    }

    /// Whether all this sender may ever send has its outcome. `all_begun`: nothing is left to begin.
    fn note_finished(&mut self, all_begun: bool) {
        if !self.finished && all_begun && self.in_flight == 0 {
            self.finished = true;
            Totals::add(&self.run.totals.finished, 1);
        }
    }
}
