//! Plays a history: the committer's turns, what happens in the middle of them, the relay's ends and
//! its beginnings, and what must be true when everything is quiet.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::gate::Gate;
use super::history::{Fate, History, Op, Within};
use super::model::{Copy, CopyFate, Number, Verdict, ensure};
use super::stage::{Event, Life, Stage, capabilities, mailbox_id, number_of};
use crate::access::Access;
use crate::committer::{Clock, Hand, Recovery, Room, Turned};
use crate::disk::Allowed;
use crate::engines::{Engines, Local};
use crate::limits::{RETRY_MEMORY_TOTAL, RINGS_BYTES_MAX};
use crate::mailbox::Allowance;
use crate::metrics::Metrics;
use crate::rate::{Rate, RateClasses};
use crate::router::Router;
use crate::store::{Backlog, Seq, Store, StoreError};
use crate::token::TokenKeys;
use valise_proto::RealmId;
use valise_proto::limits::RETRY_MEMORY_SECONDS;

/// A history while it is played. The gate calls back into it, so no lock is held while the store
/// is at work.
pub(super) struct Play {
    pub(super) stage: Mutex<Stage>,
    pub(super) disk: Mutex<Disk>,
    hand: Mutex<Option<Hand>>,
    gate: Mutex<Option<Arc<Gate>>>,
    rest: Mutex<VecDeque<Op>>,
    fault: Mutex<Option<String>>,
}

fn router(committer: crate::committer::Committer, ring_bytes: usize) -> (Router, Arc<Local>) {
    let tokens = TokenKeys::new(RealmId::new([3; 20]), &[[5; TokenKeys::KEY_LEN]]);
    let rate = Rate::new(1_000_000, 1_000_000);
    let posts = RateClasses::new(rate, Vec::new());
    let allowance = Allowance { posts, ring_bytes, slot_bytes: rate, takes: rate };
    let (tokens, metrics) = (tokens.expect("one key"), Metrics::new());
    let local = Arc::new(Local::new(committer, Allowed::default(), metrics.clone()));
    let engine = Engines::Local(Arc::clone(&local));
    (Router::new(engine, tokens, metrics, Access::Open, allowance), local)
}

/// Plays the history on this disk, and says what was seen or what is wrong.
pub(super) fn play(history: &History, disk: Disk) -> Result<Vec<Event>, String> {
    let setup = history.setup;
    let clock = Clock::standing_at(Instant::now());
    let play = Arc::new(Play {
        stage: Mutex::new(Stage::new(setup, clock)),
        disk: Mutex::new(disk),
        hand: Mutex::new(None),
        gate: Mutex::new(None),
        rest: Mutex::new(history.ops.iter().cloned().collect()),
        fault: Mutex::new(None),
    });
    let result = play.open(Opening::First).and_then(|()| play.all());
    let result = result.and_then(|()| play.fault().take().map_or(Ok(()), Err));
    match result {
        Ok(()) => Ok(std::mem::take(&mut play.stage().events)),
        Err(fault) => {
            play.abandon();
            Err(fault)
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    First,
    /// In order, in this hour.
    Restarted {
        hour: u32,
    },
    Killed,
}

impl Play {
    pub(super) fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap()
    }

    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap()
    }

    fn fault(&self) -> MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap()
    }

    fn gate(&self) -> Arc<Gate> {
        self.gate.lock().unwrap().clone().expect("a life has a store")
    }

    fn all(self: &Arc<Self>) -> Verdict {
        loop {
            let next = self.rest.lock().unwrap().pop_front();
            let Some(op) = next else { break };
            self.step(&op)?;
            if let Some(fault) = self.fault().clone() {
                return Err(fault);
            }
        }
        self.finish()
    }

    /// The next few operations, in the middle of something else. What is wrong then is said later.
    pub(super) fn some(self: &Arc<Self>, count: u8) {
        for _ in 0..count {
            let next = {
                let mut rest = self.rest.lock().unwrap();
                if rest.front().is_some_and(Op::fits_within) { rest.pop_front() } else { None }
            };
            let Some(op) = next else { return };
            if let Err(fault) = self.step(&op) {
                self.fault().get_or_insert(fault);
                return;
            }
        }
    }

    fn step(self: &Arc<Self>, op: &Op) -> Verdict {
        match op {
            Op::Turn { within, fate } => return self.turn(*within, *fate).map(drop),
            Op::Pull { by, slot, room, within } => return self.pull(*by, *slot, *room, *within),
            Op::Settle => return self.settle(),
            Op::Converse { by, mailbox, size } => return self.converse(*by, *mailbox, *size),
            Op::Restart => return self.restart(),
            Op::Kill => return self.kill(),
            _ => {}
        }
        let mut stage = self.stage();
        if (stage.model.failed || stage.model.reopening)
            && matches!(op, Op::Pass { .. } | Op::Sweep { .. })
        {
            // A relay whose store has failed ends or has it back within seconds.
            return Ok(());
        }
        match op {
            Op::Post { by, to, size, ttl } => stage.post(*by, to, *size, *ttl),
            Op::Retry { by, to, which } => stage.retry(*by, to, *which),
            Op::Attach { by, mailbox } => stage.attach(*by, *mailbox)?,
            Op::Detach { by, slot } => {
                if let Some((connection, slot)) = stage.slot(*by, *slot) {
                    stage.free(connection, slot);
                }
            }
            Op::HangUp { by } => {
                if let Some(connection) = stage.connection(*by) {
                    stage.hang_up(connection);
                }
            }
            Op::Look { by } => {
                if let Some(connection) = stage.connection(*by) {
                    stage.look(connection)?;
                }
            }
            Op::Acknowledge { by, slot, part } => stage.acknowledge(*by, *slot, *part)?,
            Op::Wait { ms } => stage.clock.pass(Duration::from_millis((*ms).into())),
            Op::Pass { hours } => stage.clock.pass(Duration::from_secs(3_600 * u64::from(*hours))),
            Op::Expire => stage.expire()?,
            Op::Sweep { after_a_minute } => {
                if *after_a_minute {
                    stage.clock.pass(Duration::from_secs(RETRY_MEMORY_SECONDS.into()));
                }
                stage.local().sweep(stage.now());
            }
            Op::Turn { .. }
            | Op::Pull { .. }
            | Op::Converse { .. }
            | Op::Settle
            | Op::Restart
            | Op::Kill => {}
        }
        Ok(())
    }

    fn turn(self: &Arc<Self>, within: Within, fate: Fate) -> Verdict<Turned> {
        if self.stage().model.failed {
            return Ok(Turned::Ended);
        }
        let gate = self.gate();
        gate.expect_commit(within, fate);
        let turned = self.hand.lock().unwrap().as_mut().expect("a life has a committer").turn();
        let committed = gate.committed();
        drop(gate);
        if let Some(committed) = &committed {
            match fate {
                Fate::Fine => {
                    let mut stage = self.stage();
                    for (mailbox, number) in committed {
                        stage.model.stored(*mailbox, *number)?;
                    }
                }
                Fate::Fails { written } => self.failed(committed, written)?,
                Fate::Killed { .. } | Fate::Torn { .. } => self.kill()?,
            }
        }
        Ok(turned)
    }

    /// The store failed, and is back where the history wants it back.
    fn failed(&self, batch: &[(usize, Number)], written: bool) -> Verdict {
        let mut stage = self.stage();
        if !stage.setup.recovers {
            stage.model.failed = true;
            return Ok(());
        }
        ensure!(stage.model.reopening, "the store was not opened again");
        for (mailbox, number) in batch.iter().filter(|_| written) {
            stage.model.stored(*mailbox, *number)?;
        }
        stage.model.reopened();
        stage.local().ring();
        Ok(())
    }

    /// How the committer has its store back.
    fn recovery(self: &Arc<Self>, gate: &Arc<Gate>) -> Recovery {
        let (play, gate) = (Arc::downgrade(self), Arc::downgrade(gate));
        let doubt = Arc::downgrade(self);
        let open = move || {
            let (Some(play), Some(gate)) = (play.upgrade(), gate.upgrade()) else {
                return Err(StoreError::Reopening);
            };
            let while_closed = gate.close();
            play.disk().close();
            play.some(while_closed);
            gate.reopen(play.disk().open());
            Ok(gate as Arc<dyn Store>)
        };
        let make_room = move |_: &StoreError| {
            if let Some(play) = doubt.upgrade().filter(|play| !play.gate().has_died()) {
                let batch = play.gate().batch();
                play.stage().model.doubt(&batch);
            }
            Room::Enough
        };
        Recovery { open: Box::new(open), make_room: Box::new(make_room) }
    }

    fn pull(self: &Arc<Self>, by: u8, slot: u8, room: u8, within: Within) -> Verdict {
        let Some((connection, slot)) = self.stage().slot(by, slot) else { return Ok(()) };
        self.pull_once(connection, slot, room, within)
    }

    fn pull_once(
        self: &Arc<Self>,
        connection: usize,
        slot: usize,
        room: u8,
        within: Within,
    ) -> Verdict {
        let (attachment, after, room, stale) = {
            let mut stage = self.stage();
            let Some(room) = stage.room(connection, slot, room) else { return Ok(()) };
            stage.connections[connection].pulling = true;
            let stale = stage.is_stale(connection, slot);
            let slot = stage.slot_mut(connection, slot);
            (Arc::clone(&slot.attachment), slot.serving.cursor(), room, stale)
        };
        let gate = self.gate();
        gate.expect_read(within);
        let pulled = attachment.pull(after, room).map_err(|error| error.to_string());
        gate.expect_read((0, 0));
        let mut stage = self.stage();
        stage.connections[connection].pulling = false;
        stage.pulled(connection, slot, stale, pulled?)
    }

    /// What is acknowledged at once never touches the disk.
    fn converse(self: &Arc<Self>, by: u8, mailbox: u8, size: u8) -> Verdict {
        let Some(connection) = self.stage().connection(by) else { return Ok(()) };
        if !self.stage().serves(connection, mailbox) {
            self.stage().attach(by, mailbox)?;
        }
        self.stage().post(by, &[mailbox], size, 0);
        self.stage().look(connection)?;
        self.pull_all(connection)?;
        let slots = self.stage().connections[connection].slots.len();
        (0..slots as u8).try_for_each(|slot| self.stage().acknowledge(by, slot, 0))
    }

    /// What senders have heard, they have heard; then there is nothing any more but the files.
    fn die(&self) -> Verdict {
        let mut stage = self.stage();
        for connection in 0..stage.connections.len() {
            stage.look(connection)?;
            stage.hang_up(connection);
        }
        self.disk().crash();
        // Nobody opens the store again in this life.
        stage.life().committer.close();
        Ok(())
    }

    /// [`Self::die`] in the middle of a commit.
    pub(super) fn died(&self) {
        if let Err(fault) = self.die() {
            self.fault().get_or_insert(fault);
        }
    }

    fn kill(self: &Arc<Self>) -> Verdict {
        if !self.gate().has_died() {
            self.die()?;
        }
        self.bury()?;
        self.open(Opening::Killed)
    }

    fn restart(self: &Arc<Self>) -> Verdict {
        if self.stage().model.failed {
            return self.kill();
        }
        let hour = {
            let mut stage = self.stage();
            for connection in 0..stage.connections.len() {
                stage.look(connection)?;
                stage.hang_up(connection);
            }
            stage.life().committer.close();
            stage.hour()
        };
        while self.turn((0, 0), Fate::Fine)? != Turned::Ended {}
        self.disk().close();
        self.bury()?;
        self.open(Opening::Restarted { hour })
    }

    /// Lets everything go that was in memory, and sees that nothing is left of it.
    fn bury(&self) -> Verdict {
        let hand = self.hand.lock().unwrap().take();
        if let Some(hand) = &hand {
            hand.give_up();
        }
        drop(hand);
        drop(self.stage().life.take());
        let gate = self.gate.lock().unwrap().take();
        let held = gate.as_ref().map_or(1, Arc::strong_count);
        ensure!(held == 1, "{held} hold on to the store of a relay that has ended");
        Ok(())
    }

    fn open(self: &Arc<Self>, opening: Opening) -> Verdict {
        let gate = Arc::new(Gate::new(self.disk().open(), self));
        let mut stage = self.stage();
        let store = Arc::clone(&gate) as Arc<dyn Store>;
        let recovery = stage.setup.recovers.then(|| self.recovery(&gate));
        let (committer, hand) = Hand::start(store, recovery, None, stage.clock.clone());
        *self.hand.lock().unwrap() = Some(hand);
        *self.gate.lock().unwrap() = Some(Arc::clone(&gate));
        let (router, local) = router(committer.clone(), stage.setup.ring_bytes);
        let ring_bytes = full_but_for(RINGS_BYTES_MAX, stage.setup.rings_left);
        let remembered = full_but_for(RETRY_MEMORY_TOTAL, stage.setup.memory_left);
        local.around.ring_bytes.store(ring_bytes, Ordering::Relaxed);
        local.around.remembered.store(remembered, Ordering::Relaxed);
        if opening == Opening::First {
            let capabilities = capabilities(&router, stage.setup.mailboxes);
            stage.set_capabilities(capabilities);
        }
        stage.life = Some(Life { router, local, committer });
        let mut held = Vec::new();
        for mailbox in 0..stage.model.shelves.len() {
            let on_disk = on_disk(&gate, mailbox)?;
            held.push(on_disk.iter().map(|copy| copy.number).collect());
            match opening {
                Opening::First | Opening::Restarted { .. } => {
                    stage.model.restarted(mailbox, &on_disk)?;
                }
                Opening::Killed => stage.model.killed(mailbox, &on_disk)?,
            }
        }
        let opened = gate.opened();
        if let Opening::Restarted { hour } = opening {
            let (totals, hours) = (stage.model.totals, opened.hours.0);
            ensure!(hours == hour, "it is hour {hours} and not {hour}");
            ensure!(opened.totals == totals, "{:?} and not {totals:?}", opened.totals);
        }
        stage.model.totals = opened.totals;
        stage.model.failed = false;
        let last = held.iter().flatten().count();
        ensure!(opened.totals.queued() == last as u64, "{opened:?} for {held:?}");
        stage.events.push(Event::Opened { held, hours: opened.hours.0 });
        // Every relay looks for what has expired soon after its start.
        if opening == Opening::Killed { stage.expire() } else { Ok(()) }
    }

    /// Everybody does what there is to do, until there is nothing.
    fn run_down(self: &Arc<Self>) -> Verdict {
        const ROUNDS: usize = 5_000;
        let mut rounds = 0;
        loop {
            let mut busy = false;
            while !self.stage().model.failed {
                match self.turn((0, 0), Fate::Fine)? {
                    Turned::Once if rounds < ROUNDS => {
                        busy = true;
                        rounds += 1;
                    }
                    Turned::Once => return Err("the committer never rests".to_owned()),
                    Turned::Ended => return Err("the committer has ended".to_owned()),
                    Turned::Idle(at) => {
                        let wait = at.duration_since(self.stage().now());
                        if wait > Duration::from_secs(1) {
                            break;
                        }
                        self.stage().clock.pass(wait);
                    }
                }
            }
            let connections = self.stage().connections.len();
            for connection in 0..connections {
                busy |= self.stage().look(connection)?;
                busy |= self.pull_all(connection)?;
            }
            if !busy {
                return Ok(());
            }
        }
    }

    fn pull_all(self: &Arc<Self>, connection: usize) -> Verdict<bool> {
        let mut busy = false;
        let slots = self.stage().connections[connection].slots.len();
        for slot in 0..slots {
            while self.stage().connections[connection].slots[slot].is_some()
                && self.stage().room(connection, slot, 0).is_some()
            {
                busy = true;
                self.pull_once(connection, slot, 0, (0, 0))?;
            }
        }
        Ok(busy)
    }

    fn settle(self: &Arc<Self>) -> Verdict {
        if self.stage().model.failed {
            return self.kill();
        }
        self.run_down()?;
        let gate = self.gate();
        let mut stage = self.stage();
        stage.check_everyone_is_served()?;
        let mut mailboxes = 0;
        for mailbox in 0..stage.model.shelves.len() {
            let on_disk = on_disk(&gate, mailbox)?;
            mailboxes += usize::from(!on_disk.is_empty());
            stage.model.settle(mailbox, &on_disk)?;
        }
        let queued = stage.model.queued();
        let counted = gate.count().map_err(|error| error.to_string())?;
        ensure!(counted == queued as u64, "{counted} frames in the store and not {queued}");
        let (totals, owed) = (stage.life().committer.totals(), stage.model.totals);
        ensure!(totals == owed, "the totals are {totals:?} and not {owed:?}");
        ensure!(totals.queued() == counted, "{totals:?} for {counted} frames");
        let (keys, expected) = self.disk().keeps(queued, stage.unusual(), mailboxes);
        ensure!(keys == expected, "the store keeps {keys} things and not {expected}");
        let base = full_but_for(RINGS_BYTES_MAX, stage.setup.rings_left);
        let rings = stage.local().around.ring_bytes.load(Ordering::Relaxed).wrapping_sub(base);
        ensure!(rings <= stage.ring_bytes_max(), "{rings} bytes in rings");
        Ok(())
    }

    /// Everything that is left is read and acknowledged, and then there is nothing anywhere.
    fn finish(self: &Arc<Self>) -> Verdict {
        self.settle()?;
        if self.stage().setup.killed_at_the_end {
            self.kill()?;
        } else {
            self.restart()?;
        }
        let mailboxes = self.stage().setup.mailboxes;
        for mailbox in 0..mailboxes {
            self.stage().attach(0, mailbox)?;
        }
        while self.stage().model.queued() > 0 {
            let before = self.stage().model.queued();
            self.settle()?;
            for slot in 0..mailboxes {
                self.stage().acknowledge(0, slot, 0)?;
            }
            let left = self.stage().model.queued();
            ensure!(left < before, "{left} frames are never delivered");
        }
        self.settle()?;
        let mut stage = self.stage();
        (0..stage.connections.len()).for_each(|connection| stage.hang_up(connection));
        stage.clock.pass(Duration::from_secs(2 * u64::from(RETRY_MEMORY_SECONDS)));
        drop(stage);
        self.run_down()?;
        let stage = self.stage();
        stage.local().sweep(stage.now());
        let live = stage.local().mailboxes_live();
        ensure!(live == 0, "{live} idle mailboxes in memory");
        let remembered = stage.local().around.remembered.load(Ordering::Relaxed);
        let expected = full_but_for(RETRY_MEMORY_TOTAL, stage.setup.memory_left);
        ensure!(remembered == expected, "{remembered} ids remembered and not {expected}");
        drop(stage);
        self.settle()?;
        self.restart()?;
        self.abandon();
        Ok(())
    }

    /// Takes apart what may be in any state.
    fn abandon(&self) {
        self.stage().connections.clear();
        let _ = self.bury();
    }
}

/// What a counter begins with that may only rise by so much.
fn full_but_for(max: usize, left: Option<usize>) -> usize {
    left.map_or(0, |left| max - left)
}

/// What the store has of a mailbox, read in both ways.
fn on_disk(gate: &Gate, mailbox: usize) -> Verdict<Vec<Copy>> {
    let id = mailbox_id(mailbox);
    let Backlog { floor, frames, .. } = gate.load(&id).map_err(|error| error.to_string())?;
    let read =
        gate.read(&id, floor, Seq(u64::MAX), usize::MAX).map_err(|error| error.to_string())?;
    ensure!(read.len() == frames.len(), "{mailbox}: two ways of reading");
    let copies = frames.iter().map(|frame| Copy {
        instance: 0,
        number: number_of(&frame.frame_id),
        bytes: frame.bytes as usize,
        expires: frame.expires.0,
        fate: CopyFate::Stored,
    });
    Ok(copies.collect())
}
