//! Pairs that keep chatting while something else goes on.

use std::sync::Arc;

use super::crew::{self, Crew};
use super::measure::{self, Load, Loaded, Span};
use super::{Failure, Stage};
use crate::checker::Verdict;
use crate::cli::Kind;
use crate::plan::Pace;
use crate::run::{Phase, Run};
use crate::topology::Topology;

/// The pairs, and their load.
pub(super) struct Chat {
    pub(super) run: Arc<Run>,
    crew: Crew,
    load: Load,
    span: Span,
}

/// Their load is over.
pub(super) struct Chatted {
    pub(super) run: Arc<Run>,
    crew: Crew,
    loaded: Loaded,
    span: Span,
}

impl Chat {
    /// Connects the plan's others, and lets them chat.
    pub(super) async fn begin(stage: &Stage<'_>) -> Result<Self, Failure> {
        let plan = stage.plan;
        let topology = Topology::pairs(plan.others, 1);
        let clients = plan.others as usize;
        let enrolled = stage.prepare(crew::enroll(&stage.relay, &topology, clients)).await?;
        let lanes = topology.recipients.len();
        let run = Run::new(Kind::Post, plan.payload_bytes, lanes, clients, u64::MAX, true);
        let run = Arc::new(run);
        let mut crew = Crew::new(&topology);
        crew.start_all(&run, &stage.relay, &topology, enrolled);
        let span = Span::begin(stage.spawned.as_ref());
        // Without anyone to send there is no pace either.
        let pace = if clients == 0 { Pace::Window(1) } else { plan.pace };
        let load = Load::begin(&run, &topology, pace, stage.spawned.as_ref());
        Ok(Self { run, crew, load, span })
    }

    /// Nothing new from now on.
    pub(super) async fn end(self, stage: &Stage<'_>) -> Result<Chatted, Failure> {
        let loaded = self.load.end(&self.run, stage.spawned.as_ref()).await?;
        Ok(Chatted { run: self.run, crew: self.crew, loaded, span: self.span })
    }
}

impl Chatted {
    /// Ends everyone and writes down what they saw, together with what the crowd saw. All has to be
    /// quiet, and the crowd to have ended.
    pub(super) async fn record(self, stage: &mut Stage<'_>, crowd: &[Arc<Run>], seen: Verdict) {
        let spent = self.span.end(stage.spawned.as_ref());
        self.run.enter(Phase::Stop);
        let mut verdict = self.crew.judge().await;
        verdict.merge(seen);
        let mut runs = vec![self.run];
        runs.extend(crowd.iter().cloned());
        measure::record(&mut stage.report, &runs, verdict, &self.loaded, &spent);
    }
}
