//! What command lines mean.

use clap::Parser;

use super::*;
use crate::cli::Cli;
use crate::report::Report;

fn plan(arguments: &str) -> Result<Plan, String> {
    let words = std::iter::once("valise-load").chain(arguments.split_whitespace());
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    let report = serde_json::to_value(Report::default()).unwrap();
    let (scenario, options) = cli.command.scenario().expect("a scenario");
    Plan::new(scenario, options, &fail_if::numbers(&report), 20_000)
        .map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_the_scenarios() {
    let kill = plan("kill --spawn").unwrap();
    assert_eq!((kill.clients, kill.kills, kill.pace), (200, 20, Pace::Rate(2_000.0)));
    assert_eq!(kill.duration, Duration::from_secs(30));
    assert_eq!(plan("kill --kills 4").unwrap().duration, Duration::from_secs(6));
    let pairs = plan("one-to-one --conversations 64").unwrap();
    assert_eq!((pairs.clients, pairs.pace), (100, Pace::Window(64)));
    assert_eq!(pairs.duration, Duration::from_secs(10));
    let offline = plan("offline").unwrap();
    assert_eq!((offline.clients, offline.connections()), (600, 615));
    assert_eq!(plan("fan-out --clients 4").unwrap().conversations, 3);
    assert!(plan("idle --clients 18800").is_ok());
    let restart = plan("restart --queued 1500").unwrap();
    assert_eq!((restart.queue(), restart.connections()), ((2, 750), 1_003));
    assert_eq!(plan("restart --queued 1000000").unwrap().queue(), (1_000, 1_000));
    let storm = plan("reconnect-storm --within 500ms").unwrap();
    assert_eq!((storm.clients, storm.others), (2_000, 100));
    assert_eq!((storm.within, storm.pace), (Duration::from_millis(500), Pace::Rate(500.0)));
    assert_eq!(plan("connect-storm").unwrap().others, 0);
    let migrate = plan("migrate --queued 1500").unwrap();
    assert_eq!((migrate.nodes, migrate.repeat, migrate.pace), (2, 1, Pace::Rate(200.0)));
    // Two for each client: some mailboxes are served here for a while, and some there.
    assert_eq!((migrate.queue(), migrate.connections()), ((2, 750), 403));
    let crowded = plan("migrate --clients 9000 --others 1000").unwrap();
    assert_eq!((crowded.others, crowded.connections()), (1_000, 18_800), "as many as there may be");
    assert!(migrate.at.is_empty() && migrate.crash.is_none() && migrate.abort_at.is_none());
}

#[test]
fn kills_come_in_the_order_of_a_migration() {
    let all = plan("migrate --crash importer").unwrap().at;
    assert_eq!(
        (all.len(), all.first(), all.last()),
        (6, Some(&Moment::Begin), Some(&Moment::Finish))
    );
    let some = plan("migrate --crash node --at finish,copy").unwrap().at;
    assert_eq!(some, [Moment::Copy, Moment::Finish]);
}

#[test]
fn what_cannot_work_is_refused_and_named() {
    for (arguments, expected) in [
        ("idle --clients 19000", "enough for 18800 connections, and 19000 are needed"),
        ("migrate --clients 9401", "18802 are needed"),
        ("migrate --clients 100 --others 9402", "18804 are needed"),
        ("migrate --clients 9400 --queued 1000000 --others 8400", "19825 are needed"),
        ("migrate --clients 3000000000", "6000000000 are needed"),
        ("one-to-one --following --kind signal", "--kind signal means nothing"),
        ("migrate --others 3", "even number"),
        ("one-to-one --following --clients 9402", "18804 are needed"),
        ("idle --following", "--following means nothing"),
        ("one-to-one --clients 3", "even number"),
        ("one-to-one --clients 0", "at least 2"),
        ("one-to-one --window 2", "a sender has 1"),
        ("one-to-one --window 0", "at least one"),
        ("one-to-one --conversations 0", "at least one"),
        ("one-to-one --size 500", "[512, 2048, 8192, 65536]"),
        ("one-to-one --rate 0", "above 0"),
        ("one-to-one --rate NaN", "above 0"),
        ("one-to-one --rate 5 --window 1", "cannot be used with"),
        ("one-to-one --duration 0s", "--duration"),
        ("one-to-one --kills 1", "--kills means nothing in the scenario one-to-one"),
        ("offline --kind signal", "--kind signal means nothing in the scenario offline"),
        ("offline --conversations 257 --size 65536", "holds 256 such frames"),
        ("idle --rate 5", "--rate means nothing"),
        ("fan-out --clients 5 --conversations 5", "4 others"),
        ("fan-out --clients 99 --conversations 17 --size 65536", "at most 16 targets"),
        ("stalled --others 3", "even number"),
        ("slow-readers --others 0", "even number"),
        ("groups --clients 10", "multiple of the 8"),
        ("groups --members 1 --clients 4", "2 to 1025 members"),
        ("restart --queued 1000001", "1,000,000"),
        ("one-to-one --queued 5", "--queued means nothing"),
        ("migrate --window 1", "--window means nothing"),
        ("migrate --nodes 1", "--nodes: 2 to 16"),
        ("migrate --repeat 0", "--repeat: 1 to 1000"),
        ("migrate --at copy", "--crash"),
        ("migrate --again", "--abort-at"),
        ("kill --crash importer", "--crash means nothing"),
        ("idle --within 5s", "--within means nothing"),
        ("one-to-one --fail-if p98>1", "no number 'p98'"),
        ("one-to-one --target https://a", "valise://"),
        ("one-to-one --spawn --target x", "cannot be used with"),
        ("one-to-one --invite-code x", "--target"),
    ] {
        let error = plan(arguments).unwrap_err();
        assert!(error.contains(expected), "{arguments}: {error}");
    }
    let realm = valise_proto::RealmId::new([1; 20]).to_text();
    let code = Token::new([1; 60]).to_text();
    let target = format!("--target valise://127.0.0.1:1/{realm}");
    let error = plan(&format!("kill {target}")).unwrap_err();
    assert!(error.contains("leave --target away"), "{error}");
    let error = plan(&format!("idle --clients 2 {target} --invite-code {code}")).unwrap_err();
    assert!(error.contains("2 clients need as many codes"), "{error}");
    assert!(plan(&format!("idle --clients 1 {target} --invite-code {code}")).is_ok());
    let error = plan(&format!("idle {target} --invite-code short")).unwrap_err();
    assert!(error.contains("96 characters"), "{error}");
}

#[test]
fn conditions_use_the_names_of_the_report() {
    let every = "p99>50ms,lost>0,accepted_latency.p99>1s,rss_bytes_per_connection>12KiB,\
                 ready_max>1s,conservation.queued>0,accepted_per_s<36000";
    assert_eq!(plan(&format!("idle --fail-if {every}")).unwrap().sinks.conditions.len(), 7);
}
