//! What each scenario is like before anyone has asked for anything: its defaults, and which options
//! mean something in it.

use crate::cli::{Kind, Options, Scenario};

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// As on the command line.
    pub(crate) name: &'static str,
    /// How many clients, if nobody says.
    pub(super) clients: u32,
    /// How many at least.
    pub(super) least: u32,
    /// Clients that chat in pairs meanwhile, if nobody says.
    pub(super) others: u32,
    /// Conversations, if nobody says.
    pub(super) conversations: u32,
    /// Nodes of a data centre, if nobody says, and at least.
    pub(super) nodes: u32,
    /// Frames a second, if nobody says; `None` for the closed model.
    pub(super) rate: Option<f64>,
    /// Options that mean something in it, of those that do not everywhere.
    options: &'static [&'static str],
}

const ORDINARY: Shape = Shape {
    name: "one-to-one",
    clients: 100,
    least: 2,
    others: 0,
    conversations: 1,
    nodes: 0,
    rate: None,
    options: &["target", "nodes", "rate", "window", "conversations", "kind signal"],
};

/// Clients do something while others chat.
const BESIDE: Shape = Shape {
    clients: 2_000,
    least: 1,
    others: 100,
    rate: Some(500.0),
    options: &["target", "nodes", "rate", "others"],
    ..ORDINARY
};

const STORM: Shape = Shape { options: &["target", "nodes", "rate", "others", "within"], ..BESIDE };

impl Shape {
    pub(crate) fn of(scenario: Scenario) -> Self {
        match scenario {
            Scenario::OneToOne => Self {
                options: &[
                    "target",
                    "nodes",
                    "rate",
                    "window",
                    "conversations",
                    "kind signal",
                    "following",
                    "leashed",
                ],
                ..ORDINARY
            },
            Scenario::FanOut => Self { name: "fan-out", clients: 20, conversations: 5, ..ORDINARY },
            Scenario::Groups => Self {
                name: "groups",
                clients: 64,
                rate: Some(200.0),
                options: &["target", "nodes", "rate", "members"],
                ..ORDINARY
            },
            Scenario::Offline => Self {
                name: "offline",
                clients: 600,
                least: 1,
                options: &["target", "nodes", "window", "conversations"],
                ..ORDINARY
            },
            Scenario::Idle => Self {
                name: "idle",
                clients: 1_000,
                least: 1,
                options: &["target", "nodes"],
                ..ORDINARY
            },
            Scenario::Kill => Self {
                name: "kill",
                clients: 200,
                conversations: 4,
                rate: Some(2_000.0),
                options: &["rate", "window", "conversations", "kills"],
                ..ORDINARY
            },
            Scenario::Restart => Self {
                name: "restart",
                clients: 1_000,
                conversations: 4,
                rate: Some(500.0),
                options: &["rate", "window", "conversations", "queued"],
                ..ORDINARY
            },
            Scenario::ConnectStorm => Self { name: "connect-storm", others: 0, least: 2, ..STORM },
            Scenario::ReconnectStorm => Self { name: "reconnect-storm", least: 2, ..STORM },
            Scenario::SlowReaders => Self { name: "slow-readers", clients: 100, ..BESIDE },
            Scenario::Stalled => Self { name: "stalled", others: 500, least: 4, ..BESIDE },
            Scenario::Overload => Self {
                name: "overload",
                clients: 200,
                conversations: 16,
                options: &["target", "nodes", "conversations"],
                ..ORDINARY
            },
            Scenario::ClusterFaults => Self {
                name: "cluster-faults",
                clients: 64,
                conversations: 4,
                nodes: 2,
                rate: Some(200.0),
                options: &["nodes", "rate", "window", "conversations", "fault", "times"],
                ..ORDINARY
            },
            Scenario::Migrate => Self {
                name: "migrate",
                clients: 200,
                nodes: 2,
                rate: Some(200.0),
                options: &[
                    "nodes",
                    "rate",
                    "conversations",
                    "queued",
                    "others",
                    "crash",
                    "abort-at",
                    "repeat",
                ],
                ..ORDINARY
            },
        }
    }

    /// Whether the scenario is about clients that chat meanwhile.
    pub(super) fn needs_others(&self) -> bool {
        self.others > 0
    }

    /// An option that was given and means nothing here.
    pub(super) fn meaningless(&self, options: &Options) -> Option<&'static str> {
        let given = [
            ("target", options.target.is_some()),
            ("rate", options.rate.is_some()),
            ("window", options.window.is_some()),
            ("conversations", options.conversations.is_some()),
            ("kind signal", options.kind == Kind::Signal),
            ("kills", options.kills.is_some()),
            ("others", options.others.is_some()),
            ("following", options.following),
            ("leashed", options.leashed),
            ("within", options.within.is_some()),
            ("members", options.members.is_some()),
            ("queued", options.queued.is_some()),
            ("nodes", options.nodes.is_some()),
            ("fault", options.fault.is_some()),
            ("times", options.times.is_some()),
            ("crash", options.crash.is_some()),
            ("abort-at", options.abort_at.is_some()),
            ("repeat", options.repeat.is_some()),
        ];
        let meaningless =
            |(option, given): &(&'static str, bool)| *given && !self.options.contains(option);
        given.iter().find(|given| meaningless(given)).map(|(option, _)| *option)
    }
}
