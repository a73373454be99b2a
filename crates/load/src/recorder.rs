//! Looks at a run once a second, from a thread of its own, so that looking delays no frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use crate::latency::{self, rounded};
use crate::process::{self, Usage};
use crate::run::{Run, Totals};
use crate::timeline::{Mark, ROWS_MAX, Row, Timeline};

/// Windows that may be entered while the recorder looks at the relay.
const COMMANDS_MAX: usize = 64;

/// What is watched.
pub(crate) struct Watched {
    /// The first one's latencies are the ones that count.
    pub(crate) runs: Vec<Arc<Run>>,
    /// The relay's process id, where it is ours; 0 while there is none.
    pub(crate) pid: Option<Arc<AtomicU32>>,
    /// Connections besides those of clients.
    pub(crate) bare: Arc<AtomicU64>,
}

/// Parts of a run whose latencies are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// Nothing special happens.
    Calm,
    /// What the scenario is about.
    During,
    /// Set-up, clearing away.
    Other,
}

/// Watches a run until it is told to end.
pub(crate) struct Recorder {
    commands: mpsc::SyncSender<(Window, Option<String>)>,
    thread: JoinHandle<Recorded>,
}

/// What it saw.
pub(crate) struct Recorded {
    pub(crate) timeline: Timeline,
    pub(crate) calm: Histogram<u64>,
    pub(crate) during: Histogram<u64>,
}

impl Recorder {
    /// Begins, in the window given. `expected` is about how long it will take.
    pub(crate) fn begin(watched: Watched, window: Window, expected: Duration) -> Self {
        let row = Duration::from_secs(1 + expected.as_secs() / ROWS_MAX);
        let (commands, asked) = mpsc::sync_channel(COMMANDS_MAX);
        let thread = thread::spawn(move || Watching::new(watched, window, row).run(&asked));
        Self { commands, thread }
    }

    /// Another window begins now.
    pub(crate) fn enter(&self, window: Window, what: impl Into<String>) {
        self.commands.send((window, Some(what.into()))).ok();
    }

    /// The last row, and all of them. Blocks for a moment.
    pub(crate) fn end(self) -> Recorded {
        drop(self.commands);
        self.thread.join().expect("watching never panics")
    }
}

struct Watching {
    watched: Watched,
    window: Window,
    recorded: Recorded,
    // Of the row that is being filled.
    began: Instant,
    latencies: Histogram<u64>,
    before: [u64; 3],
    usage: Option<(u32, Usage)>,
}

impl Watching {
    fn new(watched: Watched, window: Window, row: Duration) -> Self {
        let timeline = Timeline { row_s: row.as_secs_f64(), ..Timeline::default() };
        let mut watching = Self {
            before: [0; 3],
            usage: None,
            watched,
            window,
            recorded: Recorded {
                timeline,
                calm: latency::histogram(),
                during: latency::histogram(),
            },
            began: Instant::now(),
            latencies: latency::histogram(),
        };
        watching.before = watching.totals();
        watching.usage = watching.usage();
        watching
    }

    fn run(mut self, asked: &mpsc::Receiver<(Window, Option<String>)>) -> Recorded {
        let row = Duration::from_secs_f64(self.recorded.timeline.row_s);
        let mut next = self.began + row;
        loop {
            match asked.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok((window, what)) => {
                    self.cut();
                    self.window = window;
                    if let Some(what) = what {
                        self.recorded.timeline.marks.push(Mark { at_unix_s: unix_s(), what });
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.end_row();
                    next += row;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.end_row();
                    return self.recorded;
                }
            }
        }
    }

    fn cut(&mut self) {
        let Some(run) = self.watched.runs.first() else { return };
        let cut = run.headline().cut();
        latency::add(&mut self.latencies, &cut);
        match self.window {
            Window::Calm => latency::add(&mut self.recorded.calm, &cut),
            Window::During => latency::add(&mut self.recorded.during, &cut),
            Window::Other => {}
        }
    }

    fn end_row(&mut self) {
        self.cut();
        let now = Instant::now();
        let totals = self.totals();
        let usage = self.usage();
        let seconds = (now - self.began).as_secs_f64();
        // Of one process: after a restart both begin anew.
        let spent = usage
            .zip(self.usage)
            .and_then(|((pid, now), (same, then))| (pid == same).then(|| now.since(&then)));
        let since = |index: usize| totals[index].saturating_sub(self.before[index]);
        let attached = |run: &Arc<Run>| Totals::get(&run.totals.attached);
        let row = Row {
            at_unix_s: rounded(unix_s(), 3),
            seconds: rounded(seconds, 3),
            accepted: since(0),
            shown: since(1),
            refused: since(2),
            connections: self.watched.runs.iter().map(attached).sum::<u64>()
                + self.watched.bare.load(Ordering::Relaxed),
            server_rss_bytes: usage.map(|(_, usage)| usage.rss_bytes),
            server_cpu_percent: spent.map(|spent| rounded(spent.cpu_s / seconds * 100.0, 1)),
            server_written_bytes: spent.map(|spent| spent.written_bytes),
            server_descriptors: usage.and_then(|(pid, _)| process::descriptors(pid)),
            ..Row::default()
        };
        self.recorded.timeline.rows.push(row.with_latencies(&self.latencies));
        self.latencies.reset();
        (self.began, self.before, self.usage) = (now, totals, usage);
    }

    fn totals(&self) -> [u64; 3] {
        let sum = |of: fn(&Totals) -> &AtomicU64| {
            self.watched.runs.iter().map(|run| Totals::get(of(&run.totals))).sum()
        };
        [sum(|totals| &totals.accepted), sum(|totals| &totals.shown), sum(|totals| &totals.refused)]
    }

    fn usage(&self) -> Option<(u32, Usage)> {
        let pid = self.watched.pid.as_ref()?.load(Ordering::Relaxed);
        Some((pid, Usage::of(pid).ok()?))
    }
}

fn unix_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
