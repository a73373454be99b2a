//! The engine's one thread: it waits for inputs, has each decided in a transaction, and lets the
//! effects happen. The vault's writes never hold up the connections' tasks.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, watch};

use super::core::{Core, now_ms};
use super::effect::{Effect, Input};
use super::fault::Fault;
use super::records::state;
use super::{Ended, job};
use crate::api::Event;
use crate::relays::{RelayEvent, Relays};
use crate::vault::Vault;

/// Things that are due are looked for at least so often: the clock of the wall may jump.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Outcomes of jobs that may wait for the engine.
const OUTCOMES_WAITING_MAX: usize = 64;

/// How long the connections may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(3);

pub(super) struct Shell {
    vault: Vault,
    core: Core,
    relays: Relays,
    events: broadcast::Sender<Event>,
    /// For the jobs; weak, so that the engine ends with its last handle.
    inputs: mpsc::WeakSender<Input>,
    /// The ends of jobs.
    done: mpsc::Sender<Input>,
    outcomes: Option<mpsc::Receiver<Input>>,
    next_upkeep: Instant,
}

/// Why the loop ends.
enum Stop {
    ByOrder,
    Because(String),
}

impl Shell {
    pub(super) fn new(
        vault: Vault,
        core: Core,
        relays: Relays,
        events: broadcast::Sender<Event>,
        inputs: mpsc::WeakSender<Input>,
    ) -> Self {
        let (done, outcomes) = mpsc::channel(OUTCOMES_WAITING_MAX);
        let next_upkeep = Instant::now();
        Self { vault, core, relays, events, inputs, done, outcomes: Some(outcomes), next_upkeep }
    }

    async fn run(
        &mut self,
        mut commands: mpsc::Receiver<Input>,
        mut relay_events: mpsc::Receiver<RelayEvent>,
    ) -> Stop {
        let mut outcomes = self.outcomes.take().expect("an engine runs once");
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
        let due = self.vault.read(|tx| tx.next_due::<state::Message>().map_err(Fault::from));
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
        let core = &mut self.core;
        if let Err(fault) = self.vault.write(|tx| core.step(tx, input)) {
            return Some(Stop::Because(fault.to_string()));
        }
        let mut stop = None;
        for effect in self.core.take_effects() {
            match effect {
                Effect::Acknowledge(receipt) => self.relays.acknowledge(receipt),
                Effect::Emit(event) => drop(self.events.send(event)),
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
        if self.inputs.strong_count() == 0 { Some(Stop::ByOrder) } else { stop }
    }
}

/// Runs the engine on a thread of its own.
pub(super) fn start(
    mut shell: Shell,
    commands: mpsc::Receiver<Input>,
    relay_events: mpsc::Receiver<RelayEvent>,
    ended: watch::Sender<Option<Ended>>,
) {
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("engine".to_owned());
    let run = move || {
        let stop = runtime.block_on(shell.run(commands, relay_events));
        runtime.block_on(async {
            tokio::time::timeout(CLOSE_MAX, shell.relays.close()).await.ok();
        });
        let why = match stop {
            Stop::ByOrder => None,
            Stop::Because(why) => Some(why),
        };
        // The lock is free before anyone hears of the end.
        drop(shell);
        ended.send(Some(Ended { why })).ok();
    };
    thread.spawn(run).expect("the system can start a thread");
}
