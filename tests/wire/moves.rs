//! No metric and no key without effect: every declared metric moves here, and every key of the
//! configuration names the test that shows what it does.

use std::collections::BTreeMap;

use bytes::Bytes;
use valise::app::Drained;
use valise::config::{KEYS, Key};
use valise::metrics::DECLARED;
use valise_client::OwnerKeyPair;
use valise_proto::{ClientPacket, Signal, Token};

use crate::deliver::never_written;
use crate::limits::connect_at_once;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload, tls};

/// The sum of the values of each metric.
fn sums(text: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let name = name.strip_suffix("_bucket").or(name.strip_suffix("_sum")).unwrap_or(name);
        let name = name.strip_suffix("_count").unwrap_or(name);
        *sums.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap();
    }
    sums
}

/// Nothing expires before a relay has run for an hour; `expiry.rs` moves the clock and this one.
/// `disk.rs` lets a store fail and a disk fill up.
const NOT_WITHIN_A_TEST: &[&str] = &[
    "valise_frames_expired_total",
    "valise_store_reopened_total",
    "valise_disk_refusing",
    // Of a data centre: tests/cluster/steering.rs.
    "valise_moves_total",
    "valise_nodes_live",
    "valise_partitions",
    // Of a supernode that moves into one: tests/migration.rs.
    "valise_migration_importers",
    "valise_migration_entries_exported_total",
    "valise_migration_posts_passed_total",
    "valise_migration_posts_unanswered_total",
    "valise_newer_epochs_claimed_total",
    // Of its bus: tests/cluster/bus.rs.
    "valise_bus_connected",
    "valise_bus_gaps_total",
    "valise_bus_stale_reads_total",
    "valise_bus_claims_total",
    "valise_bus_purges_total",
    "valise_bus_publications_repeated_total",
    "valise_bus_publications_given_up_total",
    "valise_bus_streams_full",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_moves() {
    let limits = "[limits]\nring_bytes_per_mailbox = 4096\nconnects_per_second_per_prefix = 1\n\
        connects_burst_per_prefix = 12\nposts_per_second = 100000\nposts_burst = 100000\n";
    let mut relay = Relay::configured(limits).await;
    let (mut wire, mine) = Wire::serve(&relay, Via::WebSocket).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    // Acknowledged in time, delivered, repeated, spilled.
    let last = never_written(&relay, &mut sender, (&mut wire, &mine), 1).await;
    sender.post(last, &[mine.capability], payload(1)).await;
    for id in last + 1..last + 11 {
        sender.post(id, &[mine.capability, Token::new([0; 60])], payload(1)).await;
    }
    // Signals, refusals, a page, a takeover.
    for capability in [mine.capability, mine.member] {
        let signal = Signal { capabilities: vec![capability], payload: payload(2) };
        sender.say(&ClientPacket::Signal(signal)).await;
    }
    sender.say(&ClientPacket::Detach { request: 9, attachment: 9 }).await;
    sender.refused().await;
    let tcp = tokio::net::TcpStream::connect(relay.socket()).await.unwrap();
    let mut page = tls(tcp, b"http/1.1").await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut page, request).await.unwrap();
    tokio::io::AsyncReadExt::read_to_end(&mut page, &mut Vec::new()).await.unwrap();
    let mut other = Wire::open(&relay, Via::Raw).await;
    other.attach(&mine.owner, &mine.member).await;
    other.delivered().await;
    relay.running().reload_failed();
    let first = sums(&relay.running().scrape());

    relay.restart().await;
    connect_at_once(&relay, 20).await;
    let refused = "valise_accepts_refused_total{reason=\"prefix_rate\"}";
    relay.until(refused, |count| count > 0.0).await;
    let second = sums(&relay.running().scrape());
    let third = sums(&relay.stop().await);

    let moved = |name: &&str| {
        let values = [&first, &second, &third].map(|sums| sums.get(*name).copied());
        values.iter().flatten().any(|value| *value > 0.0)
    };
    for name in DECLARED.iter().filter(|name| !NOT_WITHIN_A_TEST.contains(name)) {
        assert!(moved(name), "{name} did not move");
    }
}

/// Each key and a test that fails without its effect: `file::path` below `tests/`, or a unit test.
const EFFECTS: &[(&str, &str)] = &[
    ("relay.listen", "tests/binary.rs::the_first_command_works_when_pasted"),
    (
        "relay.endpoints",
        "src/identity/tests.rs::changed_endpoints_are_signed_again_if_the_root_key_is_here",
    ),
    ("relay.state_directory", "tests/binary.rs::two_relays_do_not_share_a_state_directory"),
    ("relay.access", "tests/wire/join.rs::join_code_required"),
    ("relay.allow_list", "tests/wire/join.rs::join_not_allowed"),
    ("tls.certificate", "tests/wire/moves.rs::the_certificate_is_the_one_configured"),
    ("tls.key", "tests/wire/moves.rs::the_certificate_is_the_one_configured"),
    ("admin.listen", "tests/binary.rs::the_first_command_works_when_pasted"),
    ("limits.connections_max", "tests/wire/limits.rs::the_third_of_two_waits_for_a_place"),
    ("limits.handshakes_max", "tests/wire/limits.rs::the_second_of_one_handshake_waits"),
    (
        "limits.connects_per_second_per_prefix",
        "tests/wire/limits.rs::a_prefix_that_connects_too_often_is_refused",
    ),
    (
        "limits.connects_burst_per_prefix",
        "tests/wire/limits.rs::a_prefix_that_connects_too_often_is_refused",
    ),
    ("limits.packets_per_second", "tests/wire/framing.rs::too_many_packets_are_read_later"),
    ("limits.packets_burst", "tests/wire/framing.rs::too_many_packets_are_read_later"),
    ("limits.posts_per_second", "tests/wire/post.rs::post_rate_limited"),
    ("limits.posts_burst", "tests/wire/post.rs::post_rate_limited"),
    ("limits.joins_per_minute_per_prefix", "tests/wire/join.rs::join_rate_limited"),
    ("limits.slot_mib_per_day_per_mailbox", "tests/wire/slots.rs::put_rate_limited"),
    ("limits.takes_per_hour_per_token", "tests/wire/bundles.rs::take_rate_limited"),
    ("limits.ring_bytes_per_mailbox", "tests/wire/deliver.rs::order_is_kept_across_the_spill"),
    ("limits.drain_seconds", "tests/wire/moves.rs::a_drain_takes_as_long_as_it_may"),
    ("limits.reconnect_spread_seconds", "tests/wire/shutdown.rs::a_shutdown_tells_everyone"),
    ("store.cache_mib", "src/store/embedded/tests.rs::the_engine_gets_its_options"),
    ("limits.rate_classes", "tests/wire/post.rs::a_capability_has_the_rate_of_its_class"),
    ("store.budget_mib", "tests/wire/disk.rs::a_budget_is_shared_and_ends"),
    (
        "store.free_min_mib",
        "tests/wire/disk.rs::a_nearly_full_disk_takes_nothing_and_lets_everything_go",
    ),
    ("store.ballast_mib", "tests/wire/disk.rs::the_ballast_is_as_large_as_configured"),
    (
        "log.level",
        "tests/binary.rs::sighup_takes_what_it_may_and_keeps_the_old_if_the_new_is_wrong",
    ),
];

/// They are a node's: `tests/cluster`, where there are servers.
const OF_A_NODE: &[(&str, &str)] = &[
    ("cluster.servers", "tests/cluster/nodes.rs::realms_are_apart"),
    ("cluster.ca", "tests/cluster/mutual_tls.rs::a_node_and_its_servers_know_each_other"),
    ("cluster.certificate", "tests/cluster/mutual_tls.rs::a_node_and_its_servers_know_each_other"),
    ("cluster.key", "tests/cluster/mutual_tls.rs::a_node_and_its_servers_know_each_other"),
    ("cluster.stream_mib", "tests/cluster/refused.rs::a_stream_is_as_large_as_it_was_to_be"),
];

/// They are a supernode's that moves into a data centre.
const OF_A_MOVE: &[(&str, &str)] = &[
    ("migration.listen", "tests/migration.rs::it_says_who_it_is_and_how_its_shards_are"),
    ("migration.importer", "tests/migration.rs::strangers_and_nonsense_are_let_out"),
];

/// The engine tells nobody how long its journals may get; it flushes sooner or later by it.
const NOT_TO_BE_SEEN: &[&str] = &["store.journal_mib"];

#[test]
fn every_key_has_an_effect() {
    let effects = || EFFECTS.iter().chain(OF_A_NODE).chain(OF_A_MOVE);
    let shown = effects().map(|(key, _)| *key);
    let mut named: Vec<&str> = shown.chain(NOT_TO_BE_SEEN.iter().copied()).collect();
    named.sort_unstable();
    let mut keys: Vec<String> = KEYS.iter().map(Key::full_name).collect();
    keys.sort_unstable();
    assert_eq!(named, keys);
    for (key, test) in effects() {
        let (file, name) = test.rsplit_once("::").unwrap();
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text.contains(&format!("fn {name}")), "{key}: there is no {test}");
    }
}

/// A client that does not close when it is told keeps its connection for a moment; a drain that
/// may take no time does not wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_takes_as_long_as_it_may() {
    for (seconds, expected) in [(0, Drained::InTime), (10, Drained::Completely)] {
        let relay = Relay::configured(&format!("[limits]\ndrain_seconds = {seconds}\n")).await;
        let (_wire, _) = Wire::serve(&relay, Via::Raw).await;
        assert_eq!(relay.drain().await, expected, "{seconds} s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_is_the_one_configured() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let [certificate, key] = ["c.pem", "k.pem"].map(|name| directory.path().join(name));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let configuration = format!(
        "[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
        certificate.display(),
        key.display()
    );
    let relay = Relay::configured(&configuration).await;
    let wire = Wire::open(&relay, Via::Raw).await;
    assert_eq!(wire.channel, valise_proto::Channel::of_certificate(made.cert.der()));
}

/// A ring that holds nothing only means that everything is read from disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_nothing_still_delivers() {
    let relay = Relay::configured("[limits]\nring_bytes_per_mailbox = 0\n").await;
    let mut wire = Wire::open(&relay, Via::Raw).await;
    let mine = wire.join_and_attach(OwnerKeyPair::generate()).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    sender.say_post(1, &[mine.capability], Bytes::from(vec![7; 64 * 1024])).await;
    assert_eq!(wire.delivered().await.payload, vec![7; 64 * 1024]);
    wire.ack(mine.attachment, 1).await;
    sender.posted().await;
    relay.finish().await;
}
