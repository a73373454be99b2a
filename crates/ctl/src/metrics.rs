//! What a watch exposes. Label values are names of servers and streams, of which there are few, and of
//! kinds from a fixed list.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::alarms::Alarms;
use crate::finding::Kind;
use crate::judge::skews;
use crate::said::Said;

/// Every metric by its exposed name, for the tests and the documents.
#[cfg(test)]
const DECLARED: &[&str] = &[
    "valise_cluster_alarms",
    "valise_cluster_rounds_total",
    "valise_cluster_last_round_timestamp_seconds",
    "valise_cluster_servers",
    "valise_cluster_connections",
    "valise_cluster_clock_ahead_seconds",
    "valise_cluster_stream_messages",
    "valise_cluster_stream_bytes",
    "valise_cluster_stream_bytes_max",
    "valise_cluster_canaries_total",
    "valise_cluster_canary_seconds",
    "valise_cluster_canaries_held",
];

type One = [(&'static str, &'static str); 1];
type Named = [(&'static str, String); 1];
type Seconds = Gauge<f64, AtomicU64>;

/// How a round went.
const ROUNDS: [&str; 2] = ["done", "unseen"];

/// What became of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Returned,
    Late,
    Lost,
    Doubled,
    Refused,
}

impl Fate {
    const ALL: [Self; 5] = [Self::Returned, Self::Late, Self::Lost, Self::Doubled, Self::Refused];

    const fn name(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Late => "late",
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Refused => "refused",
        }
    }
}

/// The counts. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<(Registry, Counts)>);

struct Counts {
    alarms: Family<One, Gauge>,
    rounds: Family<One, Counter>,
    last_round: Gauge,
    servers: Gauge,
    connections: Gauge,
    clock_ahead: Family<Named, Seconds>,
    messages: Family<Named, Gauge>,
    bytes: Family<Named, Gauge>,
    bytes_max: Family<Named, Gauge>,
    canaries: Family<One, Counter>,
    canary_seconds: Histogram,
    canaries_held: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("valise_cluster");
        let counts = Counts {
            alarms: Family::default(),
            rounds: Family::default(),
            last_round: Gauge::default(),
            servers: Gauge::default(),
            connections: Gauge::default(),
            clock_ahead: Family::default(),
            messages: Family::default(),
            bytes: Family::default(),
            bytes_max: Family::default(),
            canaries: Family::default(),
            canary_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            canaries_held: Gauge::default(),
        };
        let Counts { alarms, rounds, last_round, servers, connections, .. } = &counts;
        registry.register("alarms", "Alarms that are raised", alarms.clone());
        registry.register("rounds", "Rounds of checks", rounds.clone());
        let help = "When the servers were last seen";
        registry.register("last_round_timestamp_seconds", help, last_round.clone());
        registry.register("servers", "Servers that answered", servers.clone());
        registry.register("connections", "Clients of all servers", connections.clone());
        let help = "How far a server's clock is ahead of this machine's, for certain";
        let clock = counts.clock_ahead.clone();
        registry.register_with_unit("clock_ahead", help, Unit::Seconds, clock);
        registry.register("stream_messages", "Stored in a stream", counts.messages.clone());
        registry.register("stream_bytes", "Stored in a stream", counts.bytes.clone());
        registry.register("stream_bytes_max", "Room of a stream", counts.bytes_max.clone());
        registry.register("canaries", "What became of canaries", counts.canaries.clone());
        let help = "From a canary's post to its return";
        let seconds = counts.canary_seconds.clone();
        registry.register_with_unit("canary", help, Unit::Seconds, seconds);
        registry.register("canaries_held", "Canaries held now", counts.canaries_held.clone());
        for kind in Kind::ALL {
            counts.alarms.get_or_create_owned(&[("kind", kind.name())]);
        }
        for result in ROUNDS {
            counts.rounds.get_or_create_owned(&[("result", result)]);
        }
        for fate in Fate::ALL {
            counts.canaries.get_or_create_owned(&[("fate", fate.name())]);
        }
        Self(Arc::new((registry, counts)))
    }

    /// The OpenMetrics text of everything.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0.0).expect("a string takes everything");
        text
    }

    fn counts(&self) -> &Counts {
        &self.0.1
    }

    /// The servers were seen, at this time in seconds since 1970.
    pub(crate) fn seen(&self, said: &Said, now: u64) {
        let (counts, number) = (self.counts(), |n: u64| i64::try_from(n).unwrap_or(i64::MAX));
        counts.rounds.get_or_create(&[("result", ROUNDS[0])]).inc();
        counts.last_round.set(number(now));
        counts.servers.set(number(said.servers.len() as u64));
        let clients: usize = said.servers.iter().map(|server| server.connections.len()).sum();
        counts.connections.set(number(clients as u64));
        for (server, ahead) in skews(said) {
            let gauge = counts.clock_ahead.get_or_create_owned(&[("server", server.to_owned())]);
            gauge.set(ahead as f64 / 1_000.0);
        }
        // As the leader has them.
        for held in said.streams().iter().filter(|h| h.server == h.stream.cluster.leader) {
            let (label, state) = ([("stream", held.stream.name.clone())], held.stream.state);
            let max = held.stream.config["max_bytes"].as_u64().unwrap_or_default();
            counts.messages.get_or_create_owned(&label).set(number(state.messages));
            counts.bytes.get_or_create_owned(&label).set(number(state.bytes));
            counts.bytes_max.get_or_create_owned(&label).set(number(max));
        }
    }

    /// They were not.
    pub(crate) fn unseen(&self) {
        self.counts().rounds.get_or_create(&[("result", ROUNDS[1])]).inc();
        self.counts().servers.set(0);
    }

    /// These alarms are raised.
    pub(crate) fn alarms(&self, alarms: &Alarms) {
        for kind in Kind::ALL {
            let count = alarms.raised().filter(|alarm| alarm.kind == *kind).count();
            let gauge = self.counts().alarms.get_or_create_owned(&[("kind", kind.name())]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A canary met its fate.
    pub(crate) fn canary(&self, fate: Fate) {
        self.counts().canaries.get_or_create(&[("fate", fate.name())]).inc();
    }

    /// One returned after so many seconds.
    pub(crate) fn canary_took(&self, seconds: f64) {
        self.counts().canary_seconds.observe(seconds);
    }

    /// So many are held.
    pub(crate) fn canaries_held(&self, count: usize) {
        self.counts().canaries_held.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::alarms::Round;
    use crate::finding::{Finding, Severity, Stays};
    use crate::judge::fixture;

    const DOCUMENT: &str = include_str!("../../../docs/OPERATIONS.md");
    const RULES: &str = include_str!("../../../deploy/prometheus/alerts.yml");

    fn exposed(text: &str) -> BTreeSet<String> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let name = |line: &str| match line.split_once(' ') {
            Some((name, "counter")) => format!("{name}_total"),
            Some((name, _)) => name.to_owned(),
            None => line.to_owned(),
        };
        types.map(name).collect()
    }

    /// What stands between backticks in the document's tables.
    fn documented() -> BTreeSet<&'static str> {
        let rows = DOCUMENT.lines().filter(|line| line.starts_with('|'));
        rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect()
    }

    #[test]
    fn every_metric_is_exposed_and_documented() {
        let declared: BTreeSet<String> = DECLARED.iter().map(ToString::to_string).collect();
        let metrics = Metrics::new();
        metrics.seen(&fixture::well(), 1);
        assert_eq!(exposed(&metrics.encode()), declared);
        let relays = valise::metrics::DECLARED;
        let documented: BTreeSet<&str> = documented()
            .into_iter()
            .map(|name| name.split('{').next().unwrap_or(name))
            .filter(|name| name.starts_with("valise_cluster_") && !relays.contains(name))
            .collect();
        assert_eq!(documented, DECLARED.iter().copied().collect());
    }

    /// What each alarm means is in the document, and how much it matters.
    #[test]
    fn every_kind_is_documented() {
        for kind in Kind::ALL {
            let named = |cell: &str| cell.split('`').any(|name| name == kind.name());
            let row = DOCUMENT.lines().find_map(|line| {
                let mut cells = line.strip_prefix('|')?.split('|');
                cells.next().is_some_and(named).then(|| cells.next())?
            });
            let weight = row.unwrap_or_else(|| panic!("{kind} is in no table"));
            let told = [
                (true, kind.severity().name()),
                (kind.stays() == Stays::UntilAcknowledged, "stays"),
                (kind.rounds() > 1, "2 rounds"),
            ];
            for (is, word) in told {
                assert_eq!(weight.contains(word), is, "{kind}: {weight} and {word}");
            }
        }
    }

    #[test]
    fn warnings_are_warnings_in_the_rules_too() {
        let of = |kind: &&Kind| kind.severity() == Severity::Warning;
        let warnings: Vec<_> = Kind::ALL.iter().filter(of).map(|kind| kind.name()).collect();
        for how in ["!~", "=~"] {
            let expression = RULES.split(&format!("valise_cluster_alarms{{kind{how}\"")).nth(1);
            let names = expression.and_then(|rest| rest.split('"').next()).unwrap_or_default();
            let names: BTreeSet<&str> = names.split('|').collect();
            assert_eq!(names, warnings.iter().copied().collect(), "{how}");
        }
    }

    #[test]
    fn rules_are_about_metrics_there_are() {
        let relay: BTreeSet<&str> = valise::metrics::DECLARED.iter().copied().collect();
        let own: BTreeSet<&str> = DECLARED.iter().copied().collect();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let expressions = RULES.lines().filter(|line| line.trim_start().starts_with("expr:"));
        let mut count = 0;
        for expression in expressions {
            for name in expression.split(|c| !is_part(c)).filter(|w| w.starts_with("valise_")) {
                let name = name.strip_suffix("_bucket").unwrap_or(name);
                assert!(relay.contains(name) || own.contains(name), "there is no {name}");
                count += 1;
            }
        }
        assert!(count > 10, "{count}");
    }

    #[test]
    fn every_metric_has_effect() {
        let metrics = Metrics::new();
        let before = metrics.encode();
        let mut said = fixture::well();
        said.servers[1].ahead = crate::said::Between { least: 1_500, most: 1_600 };
        metrics.seen(&said, 1_700_000_000);
        let mut alarms = Alarms::default();
        let findings = [Finding::new(Kind::Consumer, "MB_1_3", "somebody")];
        alarms.round(Round { findings: &findings, seen: true, acknowledged: &[], now: 7 });
        metrics.alarms(&alarms);
        metrics.canary(Fate::Lost);
        metrics.canary_took(0.004);
        metrics.canaries_held(9);
        let text = metrics.encode();
        for line in [
            "valise_cluster_alarms{kind=\"consumer\"} 1",
            "valise_cluster_rounds_total{result=\"done\"} 1",
            "valise_cluster_last_round_timestamp_seconds 1700000000",
            "valise_cluster_servers 3",
            "valise_cluster_connections 6",
            "valise_cluster_clock_ahead_seconds{server=\"n1\"} 1.5",
            "valise_cluster_stream_messages{stream=\"MB_1_3\"} 10",
            "valise_cluster_stream_bytes{stream=\"MB_1_3\"} 100",
            "valise_cluster_stream_bytes_max{stream=\"MB_1_3\"} 1000",
            "valise_cluster_canaries_total{fate=\"lost\"} 1",
            "valise_cluster_canary_seconds_count 1",
            "valise_cluster_canaries_held 9",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
            assert!(!before.contains(&format!("{line}\n")), "{line} is there before");
        }
        metrics.unseen();
        assert!(metrics.encode().contains("valise_cluster_rounds_total{result=\"unseen\"} 1\n"));
    }
}
