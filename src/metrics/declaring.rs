//! How metrics are declared: each series exists from the start.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use valise_proto::Reason;

use super::labels::REFUSABLE;

/// A fixed list of label values with one counter each.
pub(super) struct Labelled {
    counters: Vec<(&'static str, Counter)>,
}

type Label = [(&'static str, &'static str); 1];
type TwoLabels = [(&'static str, &'static str); 2];

impl Labelled {
    pub(super) fn get(&self, value: &str) -> &Counter {
        let found = self.counters.iter().find(|(name, _)| *name == value);
        &found.unwrap_or_else(|| self.counters.last().expect("a label has values")).1
    }
}

/// Registers metrics while [`Metrics::new`] declares them.
pub(super) struct Declaring {
    pub(super) registry: Registry,
}

impl Declaring {
    pub(super) fn counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.registry.register(name, help, counter.clone());
        counter
    }

    pub(super) fn bytes(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
        counter
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.registry.register(name, help, gauge.clone());
        gauge
    }

    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[&'static str],
    ) -> Labelled {
        let family = Family::<Label, Counter>::default();
        self.registry.register(name, help, family.clone());
        let counter =
            |value: &&'static str| (*value, family.get_or_create_owned(&[(label, *value)]));
        Labelled { counters: values.iter().map(counter).collect() }
    }

    pub(super) fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[&'static str],
    ) -> Vec<(&'static str, Gauge)> {
        let family = Family::<Label, Gauge>::default();
        self.registry.register(name, help, family.clone());
        let gauge = |value: &&'static str| (*value, family.get_or_create_owned(&[(label, *value)]));
        values.iter().map(gauge).collect()
    }

    pub(super) fn refusals(
        &mut self,
        reasons: &[&'static str],
    ) -> Vec<(&'static str, &'static str, Counter)> {
        let family = Family::<TwoLabels, Counter>::default();
        self.registry.register("refusals", "Requests refused", family.clone());
        let mut all = Vec::new();
        for packet in REFUSABLE {
            for reason in reasons.iter().filter(|reason| **reason != Reason::Accepted.name()) {
                let labels = [("packet", *packet), ("reason", *reason)];
                all.push((*packet, *reason, family.get_or_create_owned(&labels)));
            }
        }
        all
    }
}
