//! The engine's one thread: it waits for inputs, has each decided in a transaction, and lets the
//! effects happen. The vault's writes never hold up the connections' tasks.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, watch};

use super::core::{Core, now_ms};
use super::effect::{Effect, Input};
use super::fault::Fault;
use super::records::state;
use super::{Ended, job};
use crate::api::Event;
use crate::relays::{self, Own, RelayEvent, Relays};
use crate::vault::Vault;

/// Things that are due are looked for at least so often: the clock of the wall may jump.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Outcomes of jobs that may wait for the engine.
const OUTCOMES_WAITING_MAX: usize = 64;

/// How long the connections may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(3);

/// What an engine has from its beginning to its end.
pub(super) struct Shell {
    // Static after construction.
    pub(super) vault: Vault,
    pub(super) own: Own,
    pub(super) options: relays::Options,
    pub(super) events: broadcast::Sender<Event>,
    /// Weak, so that the engine ends with its last handle.
    pub(super) inputs: mpsc::WeakSender<Input>,
    // Owned by the engine's thread.
    pub(super) unbearable: HashSet<[u8; 32]>,
}

/// What it has from one beginning to the next.
struct Run<'a> {
    shell: &'a mut Shell,
    core: Core,
    relays: Relays,
    /// For the ends of jobs.
    done: mpsc::Sender<Input>,
    next_upkeep: Instant,
}

/// Why a run ends.
enum Stop {
    ByOrder,
    Because(String),
    /// At a frame with this digest, which must not be looked at again.
    Unbearable([u8; 32]),
}

impl Run<'_> {
    async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Input>,
        mut outcomes: mpsc::Receiver<Input>,
        mut relay_events: mpsc::Receiver<RelayEvent>,
    ) -> Stop {
        loop {
            let wait = tokio::time::sleep(self.wait());
            // What has been done comes first, then what has come, then what is wished.
            let input = tokio::select! {
                biased;
                Some(input) = outcomes.recv() => input,
                Some(event) = relay_events.recv() => Input::Relay(event),
                command = commands.recv() => match command {
                    Some(input) => input,
                    None => return Stop::ByOrder,
                },
                () = wait => Input::Tick,
            };
            if let Some(stop) = self.decide(input) {
                return stop;
            }
        }
    }

    /// Until something is due.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        let core = &self.core;
        let times = [core.lanes.next_at(), core.receipts_at];
        let settling = core.settling.iter().map(|(until, _)| *until);
        let next = times.into_iter().flatten().chain(settling).min();
        let wait = next.map_or(LOOK_EVERY, |at| at.saturating_duration_since(now));
        let due = self.shell.vault.read(|tx| tx.next_due::<state::Message>().map_err(Fault::from));
        let due = due.ok().flatten().map_or(LOOK_EVERY, |at| {
            Duration::from_millis(u64::try_from(at).unwrap_or(0).saturating_sub(now_ms()))
        });
        wait.min(due).min(self.look_every())
    }

    fn look_every(&self) -> Duration {
        LOOK_EVERY.min(self.core.renewal.shortest())
    }

    fn decide(&mut self, input: Input) -> Option<Stop> {
        let input = match input {
            Input::Tick if self.next_upkeep <= Instant::now() => {
                self.next_upkeep = Instant::now() + self.look_every();
                Input::Done(super::effect::Outcome::Upkeep)
            }
            input => input,
        };
        let mut frame = None;
        if let Input::Relay(RelayEvent::Frame { payload, receipt, .. }) = &input {
            if !self.shell.unbearable.is_empty()
                && self.shell.unbearable.contains(&digest_of(payload))
            {
                self.relays.acknowledge(*receipt);
                return None;
            }
            frame = Some(payload.clone());
        }
        let core = &mut self.core;
        if let Err(fault) = self.shell.vault.write(|tx| core.step(tx, input)) {
            return Some(match frame {
                Some(payload) if !fault.is_of_the_disk() => Stop::Unbearable(digest_of(&payload)),
                _ => Stop::Because(fault.to_string()),
            });
        }
        let mut stop = None;
        for effect in self.core.take_effects() {
            match effect {
                Effect::Acknowledge(receipt) => self.relays.acknowledge(receipt),
                Effect::Emit(event) => drop(self.shell.events.send(event)),
                Effect::Answer(reply, answer) => drop(reply.send(answer)),
                Effect::Start(work) => {
                    let (relays, done) = (self.relays.clone(), self.done.clone());
                    tokio::spawn(async move {
                        if let Some(outcome) = job::run(&relays, work).await {
                            // A job waits with its outcome for as long as the engine is busy.
                            done.send(Input::Done(outcome)).await.ok();
                        }
                    });
                }
                Effect::Stop(why) => stop = Some(why.map_or(Stop::ByOrder, Stop::Because)),
            }
        }
        // A front end that is gone has no use for an engine.
        if self.shell.inputs.strong_count() == 0 { Some(Stop::ByOrder) } else { stop }
    }
}

fn digest_of(payload: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, payload);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl Shell {
    /// Runs once, from the vault's state to an end.
    fn run(&mut self, runtime: &Handle, core: Core, commands: &mut mpsc::Receiver<Input>) -> Stop {
        let _guard = runtime.enter();
        // What cannot be read is learnt again.
        let known = self.vault.read(super::realms::load).unwrap_or_default();
        let (relays, relay_events) = Relays::start(self.own.clone(), known, self.options.clone());
        let (done, outcomes) = mpsc::channel(OUTCOMES_WAITING_MAX);
        let next_upkeep = Instant::now();
        let mut run = Run { shell: self, core, relays, done, next_upkeep };
        let stop = runtime.block_on(run.run(commands, outcomes, relay_events));
        runtime.block_on(async {
            tokio::time::timeout(CLOSE_MAX, run.relays.close()).await.ok();
        });
        run.core.interrupt();
        stop
    }

    /// Runs until the end. A frame that the engine cannot bear, whoever made it and however, costs one
    /// run and not the engine: the next run begins from the vault, as after a crash, and leaves the
    /// frame out.
    fn run_on(
        &mut self,
        runtime: &Handle,
        mut core: Core,
        commands: &mut mpsc::Receiver<Input>,
    ) -> Option<String> {
        loop {
            match self.run(runtime, core, commands) {
                Stop::ByOrder => return None,
                Stop::Because(why) => return Some(why),
                Stop::Unbearable(digest) => {
                    let is_first = self.unbearable.is_empty();
                    self.unbearable.insert(digest);
                    if is_first {
                        let text = "Something was sent to you that this program cannot read. It is left out.";
                        self.events.send(Event::Notice { text: text.to_owned() }).ok();
                    }
                    core = match self.vault.read(Core::load) {
                        Ok(core) => core,
                        Err(fault) => return Some(fault.to_string()),
                    };
                }
            }
        }
    }
}

/// Runs the engine on a thread of its own.
pub(super) fn start(
    mut shell: Shell,
    core: Core,
    mut commands: mpsc::Receiver<Input>,
    ended: watch::Sender<Option<Ended>>,
) {
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("engine".to_owned());
    let run = move || {
        let why = shell.run_on(&runtime, core, &mut commands);
        // The lock is free before anyone hears of the end.
        drop(shell);
        ended.send(Some(Ended { why })).ok();
    };
    thread.spawn(run).expect("the system can start a thread");
}
