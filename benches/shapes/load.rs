//! The load: pairs of connections driven by one thread, against the baseline and the relay alike.
//! A run whose server closes a connection or loses a message yields no figures.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::pair::{Sender, Tally};
use crate::plan::{Figure, Kind, Load, Pace};
use crate::process::{Server, Usage};
use crate::tls::Dialer;
use crate::{baseline, relay};

/// From the first connection's opening to the first message of an open loop, in nanoseconds: the
/// server has come to rest.
const REST_NS: u64 = 50_000_000;

/// What a run found.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figures {
    cpu_us: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<f64>,
    /// Messages a second. The load shares the machine: no measure of the server.
    pub(crate) per_second: f64,
    /// The share of its core the server used, 0 to 1.
    pub(crate) busy: f64,
    /// The share of the machine's time that its host and other processes took, 0 to 1.
    pub(crate) disturbed: f64,
}

impl Figures {
    fn new(messages: u64, before: &Usage, after: &Usage) -> Self {
        let cpu_seconds = after.server_seconds_since(before);
        let seconds = after.seconds_since(before);
        Self {
            cpu_us: cpu_seconds / messages as f64 * 1e6,
            p50_us: None,
            p99_us: None,
            per_second: messages as f64 / seconds,
            busy: cpu_seconds / seconds,
            disturbed: after.disturbance_since(before),
        }
    }

    /// The figure, if the run has it.
    pub(crate) fn get(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Cpu => Some(self.cpu_us),
            Figure::P50 => self.p50_us,
            Figure::P99 => self.p99_us,
        }
    }
}

/// Puts a load on a server, a while to get going and then as long as is to be measured.
///
/// # Errors
/// The server refuses something, closes a connection or loses a message.
pub(crate) async fn run(
    server: &Server,
    kind: Kind,
    load: Load,
    measured: Duration,
) -> io::Result<Figures> {
    let tally = Tally::new();
    let senders = open_pairs(server, kind, load, &tally).await?;
    match load.pace {
        Pace::Closed(streams) => {
            senders.iter().for_each(|sender| sender.send(0..streams));
            throughput(server, &tally, measured).await
        }
        Pace::Open(per_second) => {
            latency(server, &tally, &senders, per_second.into(), measured).await
        }
    }
}

async fn open_pairs(
    server: &Server,
    kind: Kind,
    load: Load,
    tally: &Arc<Tally>,
) -> io::Result<Vec<Arc<Sender>>> {
    let dialer = Dialer::new()?;
    let mut senders = Vec::with_capacity(load.pairs);
    for number in 0..load.pairs {
        senders.push(match kind {
            Kind::Baseline => {
                baseline::open_pair(&dialer, server.address(), number, load, tally).await?
            }
            Kind::Signal | Kind::Post => {
                relay::open_pair(&dialer, server.address(), kind, load, tally).await?
            }
        });
    }
    Ok(senders)
}

async fn throughput(server: &Server, tally: &Tally, measured: Duration) -> io::Result<Figures> {
    spin(measured / 4).await;
    let (before, completed_before) = (server.usage()?, tally.completed());
    spin(measured).await;
    let (after, completed_after) = (server.usage()?, tally.completed());
    tally.drain().await?;
    Ok(Figures::new(completed_after - completed_before, &before, &after))
}

/// Lets the connections work, and never sleeps: with each write to a load that sleeps a server pays
/// for waking it (an interrupt of the other core, 8 to 16 % of the server's time), but a server so
/// fast that the load has no time to sleep does not. Clients on other machines cost neither.
async fn spin(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        tokio::task::yield_now().await;
    }
}

/// The messages carry the time they were due, not the time they were sent: a server that holds the
/// load up does not thereby look faster.
async fn latency(
    server: &Server,
    tally: &Tally,
    senders: &[Arc<Sender>],
    per_second: u64,
    measured: Duration,
) -> io::Result<Figures> {
    let counted = per_second * measured.as_millis() as u64 / 1_000;
    let warm = counted / 4;
    let start = tally.now() + REST_NS;
    let due = |number: u64| start + number * 1_000_000_000 / per_second;
    tally.keep_latencies_from(due(warm));
    let mut before = server.usage()?;
    for (number, sender) in (0..warm + counted).zip(senders.iter().cycle()) {
        if number == warm {
            before = server.usage()?;
        }
        // Yielding, not sleeping: a timer is too coarse, and the connections need their turns.
        while tally.now() < due(number) {
            tokio::task::yield_now().await;
        }
        sender.send_stamped(due(number));
    }
    let after = server.usage()?;
    tally.drain().await?;
    let latencies = tally.take_latencies();
    let quantile = |hundredths: usize| {
        latencies.get(latencies.len() * hundredths / 100).map(|&ns| ns as f64 / 1e3)
    };
    Ok(Figures {
        p50_us: quantile(50),
        p99_us: quantile(99),
        ..Figures::new(counted, &before, &after)
    })
}
