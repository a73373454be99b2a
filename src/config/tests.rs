use std::collections::HashSet;

use valise_proto::OwnerKey;

use super::*;

fn surroundings() -> Surroundings {
    let variables = vec![("HOME".to_owned(), "/operator".to_owned())];
    Surroundings { variables, descriptors: 20_000 }
}

/// Loads a file of this text.
fn load(text: &str) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::load(Some(file.path()), Layer::default(), &surroundings()).map_err(|error| {
        error.to_string().replace(&file.path().display().to_string(), "valise.toml")
    })
}

/// A configuration in which every key has another value than its default, and the allow list that
/// it names.
fn everything() -> (String, tempfile::NamedTempFile) {
    let list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(list.path(), format!("{}\n", "0a".repeat(32))).unwrap();
    let text = format!(
        r#"
[relay]
listen = ["0.0.0.0:443", "[::1]:7443"]
endpoints = ["relay.example:443", "[2001:db8::1]:443"]
state_directory = "/var/lib/valise"
access = "allow-list"
allow_list = "{}"

[tls]
certificate = "/etc/valise/chain.pem"
key = "/etc/valise/key.pem"

[admin]
listen = "127.0.0.1:9000"

[limits]
connections_max = 101
handshakes_max = 102
connects_per_second_per_prefix = 103
connects_burst_per_prefix = 104
packets_per_second = 105
packets_burst = 106
posts_per_second = 107
posts_burst = 108
rate_classes = ["1=5/20", "200=1000/4000"]
joins_per_minute_per_prefix = 109
slot_mib_per_day_per_mailbox = 113
takes_per_hour_per_token = 114
ring_bytes_per_mailbox = 110
drain_seconds = 111
reconnect_spread_seconds = 112

[store]
cache_mib = 113
journal_mib = 114
budget_mib = 1115
free_min_mib = 116
ballast_mib = 117

[cluster]
servers = ["nats://10.0.0.1:4222", "tls://nats.example:4222"]
ca = "/etc/valise/bus-ca.pem"
certificate = "/etc/valise/bus.pem"
key = "/etc/valise/bus-key.pem"
stream_mib = 118

[log]
level = "debug"
"#,
        list.path().display()
    );
    (text, list)
}

/// The same, or the same for a relay that moves into a data centre: it is no node of one.
fn everything_with(key: &Key) -> (String, tempfile::NamedTempFile) {
    let (text, list) = everything();
    if key.section != "migration" {
        return (text, list);
    }
    let (before, rest) = text.split_once("[cluster]").unwrap();
    let (_, after) = rest.split_once("[log]").unwrap();
    let importer = "0b".repeat(32);
    let section = format!("listen = \"192.0.2.1:7444\"\nimporter = \"{importer}\"\n");
    (format!("{before}[migration]\n{section}\n[log]{after}"), list)
}

#[test]
fn nothing_configured_is_a_relay_for_this_machine() {
    let config = load("").unwrap();
    assert_eq!(config.listen, ["127.0.0.1:7443".parse().unwrap()]);
    assert!(config.listen_or_next_free);
    assert_eq!(config.access, Access::Open);
    assert_eq!(config.certificate, None);
    assert_eq!(config.state_directory, Path::new("/operator/.local/state/valise"));
    let address = "127.0.0.1:7480".parse().unwrap();
    assert_eq!(config.admin, AdminListen::On { address, or_next_free: true });
    assert_eq!(config.limits.connections_max, 16_384);
    assert_eq!(config.log, LogLevel::Info);
    let bound = ["127.0.0.1:7445".parse().unwrap()];
    assert_eq!(config.endpoints_for(&bound), ["127.0.0.1:7445"]);
}

#[test]
fn every_key_reaches_the_checked_form() {
    let (text, _list) = everything();
    let config = load(&text).unwrap();
    let default = load("").unwrap();
    for key in KEYS {
        let (text, _list) = everything_with(key);
        let config = load(&text).unwrap();
        let (line, default_line) = (line(&config, key), line(&default, key));
        assert_ne!(line, default_line, "{}", key.full_name());
        assert!(text.contains(&line), "{line}");
    }
    let owners = HashSet::from([OwnerKey::new([0x0a; 32])]);
    assert_eq!(config.access, Access::AllowList(owners));
    assert_eq!(config.endpoints_for(&[]), ["relay.example:443", "[2001:db8::1]:443"]);
    let files = config.certificate.unwrap();
    assert_eq!(files.certificate, Path::new("/etc/valise/chain.pem"));
    assert_eq!(files.key, Path::new("/etc/valise/key.pem"));
    let expected = Limits {
        connections_max: 101,
        handshakes_max: 102,
        connects_per_second_per_prefix: 103,
        connects_burst_per_prefix: 104,
        packets_per_second: 105,
        packets_burst: 106,
        posts_per_second: 107,
        posts_burst: 108,
        rate_classes: vec![
            RateClass { class: 1, per_second: 5, burst: 20 },
            RateClass { class: 200, per_second: 1_000, burst: 4_000 },
        ],
        joins_per_minute_per_prefix: 109,
        slot_mib_per_day_per_mailbox: 113,
        takes_per_hour_per_token: 114,
        ring_bytes_per_mailbox: 110,
        drain_seconds: 111,
        reconnect_spread_seconds: 112,
    };
    assert_eq!(config.limits, expected);
    let expected = StoreConfig {
        cache_mib: 113,
        journal_mib: 114,
        budget_mib: Some(1_115),
        free_min_mib: Some(116),
        ballast_mib: 117,
    };
    assert_eq!(config.store, expected);
    assert_eq!(config.log, LogLevel::Debug);
}

/// The line of a key in the effective configuration.
fn line(config: &Config, key: &Key) -> String {
    let text = config.effective_toml();
    let section = text.split(&format!("[{}]\n", key.section)).nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let of_key =
        |line: &&str| line.trim_start_matches("# ").split([' ', ':']).next() == Some(key.name);
    section.lines().find(of_key).unwrap().to_owned()
}

#[test]
fn the_effective_configuration_gives_the_same_again() {
    let (text, _list) = everything();
    let (moving, _list) = everything_with(key::key("migration", "listen").unwrap());
    for text in
        [&moving, text.as_str(), "", "[admin]\nlisten = \"off\"\n", "[relay]\naccess = \"codes\"\n"]
    {
        let config = load(text).unwrap();
        assert_eq!(load(&config.effective_toml()).unwrap(), config);
    }
}

#[test]
fn an_allow_list_is_named_and_not_shown() {
    let (text, list) = everything();
    let shown = load(&text).unwrap().effective_toml();
    assert!(shown.contains(&list.path().display().to_string()));
    assert!(!shown.contains("0a0a"));
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "[limits]\npackets_burst = 1\nposts_burst = 1\ndrain_seconds = 1\n";
    std::fs::write(file.path(), text).unwrap();
    let mut surroundings = surroundings();
    for (name, value) in [("VALISE_LIMITS_PACKETS_BURST", "2"), ("VALISE_LIMITS_POSTS_BURST", "2")]
    {
        surroundings.variables.push((name.to_owned(), value.to_owned()));
    }
    let limits = LimitsLayer { packets_burst: Some(3), ..LimitsLayer::default() };
    let flags = Layer { limits, ..Layer::default() };
    let config = Config::load(Some(file.path()), flags, &surroundings).unwrap();
    let limits = config.limits;
    assert_eq!((limits.packets_burst, limits.posts_burst, limits.drain_seconds), (3, 2, 1));
    assert_eq!(limits.reconnect_spread_seconds, 5);
}

#[test]
fn a_relay_for_others_has_to_say_for_whom_as_whom_and_where() {
    let tls = "[tls]\ncertificate = 'c'\nkey = 'k'\n";
    let relay = |keys: &str| format!("[relay]\nlisten = ['0.0.0.0:443']\n{keys}\n{tls}");
    let refused = |text: &str, why: &str| {
        let error = load(text).unwrap_err();
        assert!(error.starts_with("valise.toml:2: ") && error.contains(why), "{error}");
    };
    refused(&relay(""), "relay.access");
    refused("[relay]\nlisten = ['0.0.0.0:443']\naccess = 'open'\n", "tls.certificate and tls.key");
    refused(&relay("access = 'open'"), "relay.endpoints");
    load(&relay("access = 'open'\nendpoints = ['relay.example:443']")).unwrap();

    // One address that can be dialled needs no endpoints; any public one among others counts.
    load(&format!("[relay]\nlisten = ['192.0.2.1:443']\naccess = 'codes'\n{tls}")).unwrap();
    refused("[relay]\nlisten = ['127.0.0.1:1', '[::]:1']\n", "[::]:1 can be reached");
    refused("[relay]\nlisten = ['[::ffff:192.0.2.1]:1']\n", "can be reached");
    load("[relay]\nlisten = ['127.0.0.2:1', '[::1]:1', '[::ffff:127.0.0.1]:1']\n").unwrap();
}

#[test]
fn mistakes_have_line_cause_and_fix() {
    let cases = [
        ("[relay]\nlisten = ['localhost']\n", "valise.toml:2: relay.listen cannot be `localhost`"),
        ("[relay]\nlisten = []\n", "valise.toml:2: relay.listen has 0 entries; it takes 1 to 16"),
        (
            "[relay]\nlisten = ['127.0.0.1:1', '127.0.0.1:1']\n",
            "valise.toml:2: relay.listen names 127.0.0.1:1 twice",
        ),
        (
            "[relay]\nendpoints = ['https://relay.example']\n",
            "valise.toml:2: relay.endpoints cannot be `https://relay.example`",
        ),
        ("[relay]\nstate_directory = ''\n", "valise.toml:2: relay.state_directory cannot be ``"),
        (
            "[relay]\naccess = 'opne'\n",
            "valise.toml:2: relay.access cannot be `opne`; it takes \"open\", \"codes\" or \
             \"allow-list\"; did you mean `open`?",
        ),
        (
            "[relay]\naccess = 'allow-list'\n",
            "valise.toml:2: access = \"allow-list\" needs the list",
        ),
        ("[relay]\nallow_list = 'x'\n", "valise.toml:2: relay.allow_list has no effect"),
        (
            "[relay]\naccess = 'allow-list'\nallow_list = '/nonexistent/list'\n",
            "cannot read /nonexistent/list: ",
        ),
        ("[tls]\ncertificate = 'x'\n", "valise.toml:2: tls.certificate needs its private key"),
        ("[tls]\nkey = 'x'\n", "valise.toml:2: tls.key needs its certificate"),
        ("[admin]\nlisten = 'of'\n", "valise.toml:2: admin.listen cannot be `of`"),
        (
            "[limits]\n\npackets_per_second = 0\n",
            "valise.toml:3: limits.packets_per_second cannot be 0; it takes packets a second on one \
             connection (1 to 1000000000)",
        ),
        (
            "[limits]\nconnections_max = 19000\n",
            "valise.toml:2: limits.connections_max is 19000, but the system lets this process have \
             20000",
        ),
        ("[store]\njournal_mib = 63\n", "valise.toml:2: store.journal_mib cannot be 63"),
        (
            "[log]\nlevel = 'warning'\n",
            "valise.toml:2: log.level cannot be `warning`; it takes \"off\", \"error\", \"warn\", \
             \"info\", \"debug\" or \"trace\"",
        ),
        ("[log]\nlevel = 'inof'\n", "valise.toml:2: log.level cannot be `inof`"),
    ];
    for (text, expected) in cases {
        let error = load(text).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n got {error}\nwant {expected}");
    }
    let error =
        Config::load(Some(Path::new("/nonexistent/v.toml")), Layer::default(), &surroundings());
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("cannot read /nonexistent/v.toml: "), "{error}");
}

#[test]
fn mistakes_outside_the_file_name_their_source() {
    let relay = RelayLayer { access: Some("close".to_owned()), ..RelayLayer::default() };
    let flags = Layer { relay, ..Layer::default() };
    let error = Config::load(None, flags, &surroundings()).unwrap_err().to_string();
    assert!(error.starts_with("command line: relay.access cannot be `close`"), "{error}");

    let mut surroundings = surroundings();
    surroundings.variables.push(("VALISE_RELAY_LISTEN".to_owned(), "0.0.0.0:1".to_owned()));
    let error = Config::load(None, Layer::default(), &surroundings).unwrap_err().to_string();
    assert!(error.starts_with("VALISE_RELAY_LISTEN: 0.0.0.0:1 can be reached"), "{error}");
}

#[test]
fn the_state_directory_follows_xdg() {
    type Variables = &'static [(&'static str, &'static str)];
    let cases: [(Variables, Option<&str>); 6] = [
        (&[("XDG_STATE_HOME", "/xdg"), ("HOME", "/a")], Some("/xdg/valise")),
        (&[("XDG_STATE_HOME", ""), ("HOME", "/a")], Some("/a/.local/state/valise")),
        (&[("XDG_STATE_HOME", "xdg"), ("HOME", "/a")], Some("/a/.local/state/valise")),
        (&[("HOME", "/a")], Some("/a/.local/state/valise")),
        (&[("HOME", "")], None),
        (&[], None),
    ];
    for (variables, expected) in cases {
        let variables: Vec<_> =
            variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let surroundings = Surroundings { variables, descriptors: 20_000 };
        let found = Config::state_directory_of(None, Layer::default(), &surroundings);
        assert_eq!(found.ok().as_deref(), expected.map(Path::new), "{surroundings:?}");
    }
}

#[test]
fn a_node_says_by_what_it_is_known() {
    let cases = [
        ("servers = []", "cluster.servers names no server"),
        ("servers = ['10.0.0.1:4222']", "cluster.servers cannot be `10.0.0.1:4222`"),
        ("servers = ['nats://10.0.0.1:4222']", "nats://10.0.0.1:4222 is on another machine"),
        ("servers = ['nats://127.0.0.1:1']\nkey = 'k'", "cluster.ca, cluster.certificate and"),
        ("servers = ['nats://127.0.0.1:1']\nstream_mib = 1", "cluster.stream_mib cannot be 1"),
        ("stream_mib = 100", "cluster.stream_mib has no effect without cluster.servers"),
    ];
    for (text, expected) in cases {
        let error = load(&format!("[cluster]\n{text}\n")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let local = load("[cluster]\nservers = ['nats://127.0.0.1:1', 'nats://[::1]:2']\n").unwrap();
    assert_eq!(local.cluster.unwrap().bus.tls, None);
    assert_eq!(load("").unwrap().cluster, None);
}

#[test]
fn a_relay_that_moves_knows_where_and_who() {
    let pin = "0b".repeat(32);
    let listen = "listen = '127.0.0.1:7444'";
    let cases = [
        (listen.to_owned(), "migration.listen needs to know who is let in"),
        (format!("importer = '{pin}'"), "migration.importer has no effect without"),
        (format!("listen = 'here'\nimporter = '{pin}'"), "migration.listen cannot be `here`"),
        (format!("{listen}\nimporter = '{pin}0'"), "migration.importer cannot be `0b"),
        (
            format!("{listen}\nimporter = '{pin}'\n[cluster]\nservers = ['nats://127.0.0.1:1']"),
            "a node of a data centre cannot move into one",
        ),
    ];
    for (text, expected) in cases {
        let error = load(&format!("[migration]\n{text}\n")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(load("").unwrap().migration, None);
}

#[test]
fn few_descriptors_are_shared_out() {
    for (descriptors, expected) in [(1_024, 640), (4_096, 3_068), (1 << 40, 16_384), (64, 1)] {
        let surroundings = Surroundings { descriptors, ..surroundings() };
        let config = Config::load(None, Layer::default(), &surroundings).unwrap();
        assert_eq!(config.limits.connections_max, expected, "{descriptors} descriptors");
    }
}

#[test]
fn a_reload_takes_what_it_may_and_names_the_rest() {
    let (text, _list) = everything();
    let (old, newer) = (load("").unwrap(), load(&text).unwrap());
    let (reloaded, _) = old.reloaded(&newer);
    assert_eq!(reloaded.access, newer.access);
    for key in KEYS {
        let (text, _list) = everything_with(key);
        let newer = load(&text).unwrap();
        let (reloaded, waiting) = old.reloaded(&newer);
        let taken = line(&reloaded, key) == line(&newer, key);
        assert_eq!(taken, key.is_reloadable(), "{}", key.full_name());
        assert_eq!(!taken, waiting.contains(&NeedsRestart(key)), "{}", key.full_name());
    }
    assert_eq!(old.reloaded(&old), (old.clone(), Vec::new()));
    let notice = NeedsRestart(key::key("relay", "listen").unwrap()).to_string();
    assert!(notice.starts_with("relay.listen needs a restart"), "{notice}");
}
