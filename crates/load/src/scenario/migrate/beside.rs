//! The clients of a migration that are in a process of their own.

use super::census::LOOK;
use crate::companion::Companion;
use crate::merge;
use crate::relay::SpawnedRelay;
use crate::report::{Conservation, Report};
use crate::scenario::{Failure, Stage};
use crate::scrape;

/// Starts them, if the plan has some, and returns when all of them are attached: none posts before, and
/// nobody else does yet.
pub(super) async fn start(stage: &Stage<'_>) -> Result<Option<Companion>, Failure> {
    let Some(admin) = stage.spawned.as_ref().map(SpawnedRelay::admin) else { return Ok(None) };
    if stage.plan.others == 0 {
        return Ok(None);
    }
    let accepted = async || {
        let metrics = scrape::get(admin, "/metrics").await?;
        Ok::<_, Failure>(Conservation::of(&metrics).accepted.unwrap_or_default())
    };
    let before = accepted().await?;
    let mut companion = Companion::start(stage.plan, &stage.relay.address)?;
    while accepted().await? == before {
        companion.check()?;
        tokio::time::sleep(LOOK).await;
    }
    Ok(Some(companion))
}

/// What was wrong with them, in the report of the run. Their verdict is the run's.
pub(super) fn record(report: &mut Report, beside: &Report) {
    merge::add_troubles(report, beside);
    report.tester_is_bottleneck |= beside.tester_is_bottleneck;
    let notes = beside.tester_notes.iter();
    report.tester_notes.extend(notes.map(|note| format!("in the process of the others, {note}")));
}
