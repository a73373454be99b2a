//! What a run is doing right now, for whoever watches: on standard error, only on a terminal, and
//! without colours if NO_COLOR says so.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::AbortHandle;

use crate::run::{Run, Totals};

/// How often the line changes.
const INTERVAL: Duration = Duration::from_millis(200);

/// One line that says where the run is. Cleared when it is dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
    ticker: Option<AbortHandle>,
}

impl Progress {
    /// A line that counts up to `total`.
    pub(crate) fn counting(what: &'static str, total: u64) -> Self {
        // Hidden where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix} {pos}/{len} {bar:40} {elapsed}");
        bar.set_style(style.expect("the template is valid"));
        bar.set_prefix(what);
        Self { bar, ticker: None }
    }

    /// A line that shows the totals of a run.
    pub(crate) fn watching(what: &'static str, run: Arc<Run>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix} {elapsed}  {msg}");
        bar.set_style(style.expect("the template is valid"));
        bar.set_prefix(what);
        if bar.is_hidden() {
            return Self { bar, ticker: None };
        }
        let shown = bar.clone();
        let ticker = tokio::spawn(async move {
            let mut before = (0, 0);
            loop {
                tokio::time::sleep(INTERVAL).await;
                let totals = &run.totals;
                let now = (Totals::get(&totals.accepted), Totals::get(&totals.shown));
                let per_s = |now, before| (now - before) as f64 / INTERVAL.as_secs_f64();
                shown.set_message(format!(
                    "accepted {} ({:.0}/s)  shown {} ({:.0}/s)  open {}  attached {}",
                    now.0,
                    per_s(now.0, before.0),
                    now.1,
                    per_s(now.1, before.1),
                    totals.unresolved(),
                    Totals::get(&totals.attached),
                ));
                before = now;
            }
        });
        Self { bar, ticker: Some(ticker.abort_handle()) }
    }

    /// One more of those that are counted.
    pub(crate) fn advance(&self) {
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(ticker) = &self.ticker {
            ticker.abort();
        }
        self.bar.finish_and_clear();
    }
}
