//! What is measured: the shapes of load, the kinds of traffic, and the goals for them.

use clap::ValueEnum;
use serde::Serialize;

/// How much is in flight, and of what size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub(crate) enum Shape {
    /// 200 pairs, one message of 512 bytes in flight each: nothing to batch.
    #[value(name = "W1")]
    W1,
    /// 16 pairs, 64 streams each, one message of 512 bytes in flight per stream.
    #[value(name = "W64")]
    W64,
    /// 16 pairs, one message of 64 KiB in flight each.
    #[value(name = "64K")]
    #[serde(rename = "64K")]
    Bulk,
    /// 32 pairs, together 5,000 messages of 512 bytes a second, each sent when it is due.
    #[value(name = "5k")]
    #[serde(rename = "5k")]
    Rate5k,
    /// As 5k, with 20,000 messages a second.
    #[value(name = "20k")]
    #[serde(rename = "20k")]
    Rate20k,
}

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Passed on by the bare server.
    Baseline,
    /// Passed on by the relay, as a signal.
    Signal,
    /// Posted to an attached recipient, acknowledged by it, and answered.
    Post,
}

/// The particulars of a shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Pairs of connections: one sends, the other receives.
    pub(crate) pairs: usize,
    /// One of the protocol's padded sizes.
    pub(crate) payload_bytes: usize,
    /// When messages are sent.
    pub(crate) pace: Pace,
}

/// When the next message is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// When one before it has arrived, or was accepted: this many per pair are in flight.
    Closed(usize),
    /// When it is due, whatever became of those before it: this many a second over all pairs.
    Open(u32),
}

/// A figure of a run, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Figure {
    /// Server CPU per message: the steady one.
    Cpu,
    /// From when a message was due to its arrival: half of them needed no longer.
    P50,
    /// 99 of 100 needed no longer. Its best repetition counts: the others measure the host.
    P99,
}

impl Shape {
    /// Every shape, in the order of the table.
    pub(crate) const ALL: [Self; 5] =
        [Self::W1, Self::W64, Self::Bulk, Self::Rate5k, Self::Rate20k];

    /// What this shape asks of a server.
    pub(crate) const fn load(self) -> Load {
        let (pairs, payload_bytes, pace) = match self {
            Self::W1 => (200, 512, Pace::Closed(1)),
            Self::W64 => (16, 512, Pace::Closed(64)),
            Self::Bulk => (16, 64 * 1024, Pace::Closed(1)),
            Self::Rate5k => (32, 512, Pace::Open(5_000)),
            Self::Rate20k => (32, 512, Pace::Open(20_000)),
        };
        Load { pairs, payload_bytes, pace }
    }

    /// The figures that say something under this shape.
    pub(crate) const fn figures(self) -> &'static [Figure] {
        match self.load().pace {
            Pace::Closed(_) => &[Figure::Cpu],
            Pace::Open(_) => &[Figure::P50, Figure::P99, Figure::Cpu],
        }
    }

    /// What a kind's figure is divided by, and what that ratio shall not exceed, if that is a goal.
    pub(crate) const fn goal(self, kind: Kind, figure: Figure) -> (Kind, Option<f64>) {
        match (self, kind, figure) {
            (Self::W1, Kind::Signal, _) => (Kind::Baseline, Some(1.3)),
            (Self::W1, Kind::Post, _) => (Kind::Baseline, Some(2.4)),
            (Self::W64, Kind::Signal, _) => (Kind::Baseline, Some(6.0)),
            (Self::W64, Kind::Post, _) => (Kind::Baseline, Some(12.0)),
            (Self::Bulk, Kind::Signal, _) => (Kind::Baseline, Some(1.2)),
            (Self::Rate5k, Kind::Signal, Figure::P50) => (Kind::Baseline, Some(1.15)),
            (Self::Rate5k, Kind::Post, Figure::P50) => (Kind::Signal, Some(1.3)),
            (Self::Rate20k, Kind::Signal | Kind::Post, Figure::P99) => (Kind::Baseline, Some(2.0)),
            _ => (Kind::Baseline, None),
        }
    }
}
