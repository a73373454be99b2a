//! docs/OPERATIONS.md names every setting, every metric and every bound that there is, and no other.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;

use valise::config::KEYS;
use valise::metrics::DECLARED;

const DOCUMENT: &str = include_str!("../docs/OPERATIONS.md");
const LIMITS: &str = include_str!("../src/limits.rs");

/// What stands between backticks in the document's tables.
fn named(document: &str) -> BTreeSet<&str> {
    let rows = document.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect()
}

/// Names of metrics without their labels.
fn metrics(document: &str) -> BTreeSet<&str> {
    named(document)
        .into_iter()
        .filter(|name| name.starts_with("valise_"))
        .map(|name| name.split('{').next().unwrap())
        .collect()
}

/// A watch exposes metrics of its own, which `crates/ctl` compares.
#[test]
fn every_metric_is_in_the_list_and_no_other() {
    let declared: BTreeSet<&str> = DECLARED.iter().copied().collect();
    let documented = metrics(DOCUMENT);
    let missing: Vec<_> = declared.difference(&documented).collect();
    assert!(missing.is_empty(), "{missing:?} are in no table");
    let mut more = documented.difference(&declared);
    assert_eq!(more.find(|name| !name.starts_with("valise_cluster_")), None);
}

#[test]
fn every_setting_is_named() {
    // A key may stand beside another of its table without the table's name.
    let named = named(DOCUMENT);
    for key in KEYS {
        let found = named.contains(key.full_name().as_str()) || named.contains(key.name);
        assert!(found, "{} is in no table", key.full_name());
    }
}

#[test]
fn every_bound_is_named() {
    let named = named(DOCUMENT);
    let constants =
        LIMITS.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    for constant in constants {
        assert!(named.contains(constant), "{constant} is in no table");
    }
}

mod mutants {
    use super::*;

    #[test]
    fn a_bound_or_a_metric_that_goes_is_noticed() {
        assert!(named(DOCUMENT).contains("OUTBOX_BYTES"));
        assert!(!named(&DOCUMENT.replace("`OUTBOX_BYTES`", "")).contains("OUTBOX_BYTES"));
        let without = DOCUMENT.replace("`valise_draining`", "");
        assert!(!metrics(&without).contains("valise_draining"));
    }
}
