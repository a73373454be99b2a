//! The watch: the checks again and again, alarms that last, metrics and health.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use valise::admin::Readiness;
use valise::cli::Exit;
use valise::identity::StateDirectory;

use crate::alarms::{Alarm, Alarms, Change, Round};
use crate::ask::Place;
use crate::canary::{Canaries, now_seconds};
use crate::exit::Failure;
use crate::finding::{Finding, Kind, Severity};
use crate::judge::{Expected, judge};
use crate::metrics::Metrics;
use crate::state;

/// Everything a watch needs.
pub(crate) struct Watch {
    pub(crate) place: Place,
    pub(crate) expected: Expected,
    pub(crate) every: Duration,
    pub(crate) directory: Arc<StateDirectory>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) canaries: Option<Arc<Canaries>>,
}

impl Watch {
    /// Watches until it is told to end (SIGTERM, SIGINT).
    ///
    /// # Errors
    /// [`Failure`] when the state directory cannot be used: alarms that cannot be kept are forgotten by a
    /// restart, and whoever restarts this has to know.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let failed = |error| Failure::new(error, Exit::TryAgain);
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut alarms = state::read_alarms(&self.directory)?;
        for alarm in alarms.raised() {
            told(alarm, "still raised");
        }
        self.metrics.alarms(&alarms);
        let canaries = self.canaries.clone();
        let flying = async move {
            match canaries {
                Some(canaries) => canaries.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(flying);
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Biased: an order to end comes first. A round is not interrupted by the canaries' turns,
            // which are tasks of their own.
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = &mut flying => return Ok(()),
                _ = ticks.tick() => {}
            }
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = &mut flying => return Ok(()),
                done = self.round(&mut alarms) => done?,
            }
        }
    }

    /// One round. Cancel-safe: what was acknowledged is forgotten only once it is kept.
    async fn round(&self, alarms: &mut Alarms) -> Result<(), Failure> {
        let now = now_seconds();
        let looked = self.place.look().await;
        let seen = looked.is_ok();
        let mut findings = match looked {
            Ok(said) => {
                self.metrics.seen(&said, now);
                self.readiness.store_open();
                judge(&said, self.expected)
            }
            Err(error) => {
                self.metrics.unseen();
                self.readiness.store_failed("the servers are not seen");
                vec![Finding::new(Kind::Unseen, "cluster", error.to_string())]
            }
        };
        findings.extend(self.canaries.iter().flat_map(|canaries| canaries.findings()));
        let acknowledged = state::acknowledged(&self.directory)?;
        let round = Round { findings: &findings, seen, acknowledged: &acknowledged, now };
        for change in alarms.round(round) {
            match change {
                Change::Raised(alarm) => told(&alarm, "raised"),
                Change::Cleared(alarm) => {
                    tracing::info!(alarm = %alarm.kind, subject = %alarm.subject, "cleared");
                }
            }
        }
        state::write_alarms(&self.directory, alarms)?;
        state::forget_acknowledged(&self.directory);
        self.metrics.alarms(alarms);
        Ok(())
    }
}

fn told(alarm: &Alarm, what: &str) {
    let Alarm { kind, subject, cause, .. } = alarm;
    match kind.severity() {
        Severity::Critical => tracing::error!(alarm = %kind, %subject, %cause, "{what}"),
        Severity::Warning => tracing::warn!(alarm = %kind, %subject, %cause, "{what}"),
    }
}
