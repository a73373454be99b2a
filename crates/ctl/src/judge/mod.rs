//! What is wrong with a data centre, from what its servers said. Pure: the same answers, the same
//! findings.

mod access;
mod replicas;
mod servers;
mod streams;

use crate::finding::Finding;
use crate::said::Said;

pub(crate) use replicas::is_settled;
pub(crate) use servers::skews;

/// What the operator knows and the servers do not.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expected {
    /// Nodes of relays that there are at the most.
    pub(crate) nodes: Option<usize>,
}

/// Everything that is not as it must be.
pub(crate) fn judge(said: &Said, expected: Expected) -> Vec<Finding> {
    let mut findings = servers::judge(said);
    findings.extend(streams::judge(said));
    findings.extend(replicas::judge(said));
    findings.extend(access::judge(said, expected));
    findings.sort_by(|a, b| (a.kind, &a.subject, &a.cause).cmp(&(b.kind, &b.subject, &b.cause)));
    // Servers say the same of one thing; whoever says more comes later.
    findings.dedup_by(|later, earlier| {
        let same = (later.kind, &later.subject) == (earlier.kind, &earlier.subject);
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    findings
}

/// Answers of a cluster in which nothing is wrong, for tests to spoil.
#[cfg(test)]
pub(crate) mod fixture {
    use serde_json::{Value, json};
    use valise::store::jetstream::needed_streams;

    use crate::said::{
        ASKED, Between, Connection, Group, Held, Replica, Said, Seat, Server, State, Stream,
        Subscription,
    };

    pub(crate) const SERVERS: [&str; 3] = ["n0", "n1", "n2"];

    pub(crate) fn well() -> Said {
        Said {
            seats: SERVERS.map(seat).into(),
            servers: SERVERS.map(server).into(),
            samples: vec![SERVERS.iter().flat_map(|name| streams(name)).collect()],
        }
    }

    fn seat(name: &str) -> Seat {
        Seat { url: format!("nats://{name}:4222"), found: Ok(name.to_owned()) }
    }

    fn server(name: &str) -> Server {
        let others: Vec<Value> =
            SERVERS.iter().filter(|other| **other != name).map(|n| json!({ "name": n })).collect();
        Server {
            name: name.to_owned(),
            id: format!("ID{name}"),
            told: ASKED.into(),
            ahead: Between { least: -1, most: 1 },
            varz: json!({ "data": {
                "server_name": name, "version": "2.15.1", "remotes": 2, "leafnodes": 0, "gateway": {},
                "jetstream": { "config": { "sync_always": true } },
            } }),
            jsz: json!({ "meta_cluster": { "name": "c", "leader": "n0", "replicas": others } }),
            unwell: None,
            connections: vec![node(name), operator()],
            accounts: ["SYS", "RELAY", "$G"].map(str::to_owned).into(),
            relays: json!({ "account_name": "RELAY", "imports": [
                { "type": "service", "account": "SYS", "subject": "$JS.API.>" },
            ] }),
        }
    }

    /// The node at a server.
    pub(crate) fn node(server: &str) -> Connection {
        let realm = "09".repeat(20);
        let subjects = [
            format!("_INBOX.{server:a>22}.*"),
            format!("live.{realm}.13.*.f"),
            format!("eph.{realm}.13.>"),
        ];
        Connection {
            ip: "10.0.0.9".into(),
            name: "valise".into(),
            account: "RELAY".into(),
            authorized_user: "valise-relay".into(),
            subscriptions: subjects.map(|subject| Subscription { subject }).into(),
        }
    }

    pub(crate) fn operator() -> Connection {
        Connection {
            ip: "10.0.0.8".into(),
            name: "valisectl".into(),
            account: "SYS".into(),
            authorized_user: "valise-operator".into(),
            subscriptions: vec![Subscription { subject: "_INBOX.x.*".into() }],
        }
    }

    fn streams(server: &str) -> Vec<Held> {
        let replica = |name: &&str| Replica {
            name: (*name).to_owned(),
            current: true,
            offline: false,
            lag: 0,
        };
        let held = |(name, config): (String, Value)| Held {
            server: server.to_owned(),
            account: "RELAY".to_owned(),
            stream: Stream {
                name,
                config,
                state: State {
                    messages: 10,
                    bytes: 100,
                    first_seq: 1,
                    last_seq: 12,
                    num_deleted: 2,
                    consumer_count: 0,
                },
                cluster: Group {
                    leader: "n0".into(),
                    replicas: SERVERS.iter().filter(|n| **n != server).map(replica).collect(),
                },
                consumer_detail: Vec::new(),
            },
        };
        needed_streams(1_000).into_iter().map(held).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::Kind;
    use crate::said::{ASKED, Between, Connection, Held, Named, Server, Stream, Subscription};

    /// The kinds and subjects of what is found when this was done to a cluster that is well.
    fn found(spoil: impl FnOnce(&mut Said)) -> Vec<(Kind, String)> {
        let mut said = fixture::well();
        spoil(&mut said);
        let findings = judge(&said, Expected { nodes: Some(3) });
        findings.into_iter().map(|finding| (finding.kind, finding.subject)).collect()
    }

    fn one(spoil: impl FnOnce(&mut Said)) -> (Kind, String) {
        let mut found = found(spoil);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn is(kind: Kind, subject: &str) -> (Kind, String) {
        (kind, subject.to_owned())
    }

    /// One server's stream.
    fn stream<'a>(said: &'a mut Said, server: &str, name: &str) -> &'a mut Stream {
        let mut held = said.samples.last_mut().expect("there is a sample").iter_mut();
        let held = held.find(|held| held.server == server && held.stream.name == name);
        &mut held.expect("it is there").stream
    }

    fn everywhere(said: &mut Said, name: &str, change: impl Fn(&mut Stream)) {
        fixture::SERVERS.into_iter().for_each(|server| change(stream(said, server, name)));
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        assert_eq!(found(|_| ()), []);
    }

    #[test]
    fn servers_are_missed_by_address_and_by_name() {
        let gone = found(|said| {
            said.seats[2].found = Err("timed out".into());
            said.servers.remove(2);
            said.samples[0].retain(|held| held.server != "n2");
            for held in &mut said.samples[0] {
                for replica in &mut held.stream.cluster.replicas {
                    replica.current = replica.name != "n2";
                }
            }
        });
        let url = "nats://n2:4222";
        assert_eq!(gone, [is(Kind::Unreachable, url), is(Kind::Silent, "n2")]);
    }

    #[test]
    fn a_server_nobody_named_is_found() {
        let more = found(|said| {
            let spy = Server { name: "spy".into(), ..said.servers[0].clone() };
            said.servers.push(spy);
            said.servers[3].connections.clear();
            said.servers.iter_mut().for_each(|s| s.varz["data"]["remotes"] = json!(3));
        });
        assert_eq!(more, [is(Kind::ForeignServer, "spy")]);
        let few = one(|said| {
            said.seats.truncate(2);
            said.servers.truncate(2);
            for server in &mut said.servers {
                server.jsz =
                    json!({ "meta_cluster": { "leader": "n0", "replicas": [{ "name": "n1" }] } });
            }
            said.samples[0].retain(|held| held.server != "n2");
            for held in &mut said.samples[0] {
                held.stream.cluster.replicas.retain(|replica| replica.name != "n2");
            }
        });
        assert_eq!(few, is(Kind::TooFew, "servers"));
    }

    #[test]
    fn settings_of_servers_and_streams_are_judged_as_a_relay_judges_them() {
        let lazy = one(|said| said.servers[1].varz["data"]["jetstream"]["config"] = json!({}));
        assert_eq!(lazy, is(Kind::ServerSetting, "n1: sync_interval"));
        let single = one(|said| {
            everywhere(said, "MB_1_3", |stream| stream.config["num_replicas"] = json!(1));
        });
        assert_eq!(single, is(Kind::StreamSetting, "MB_1_3: num_replicas"));
        let gone = one(|said| said.samples[0].retain(|held| held.stream.name != "MB_1_3"));
        assert_eq!(gone, is(Kind::StreamMissing, "streams"));
    }

    #[test]
    fn servers_say_whether_they_are_well() {
        let unwell = one(|said| said.servers[1].unwell = Some("catching up".into()));
        assert_eq!(unwell, is(Kind::Unhealthy, "n1"));
        let silent = found(|said| said.servers[1].told.clear());
        assert_eq!(silent.len(), ASKED.len(), "{silent:?}");
        assert!(silent.contains(&is(Kind::Blind, "n1: connections")), "{silent:?}");
        let unreadable = json!([{ "name": 7, "subscriptions_list_detail": null }]);
        let connections = Connection::all(unreadable.as_array().expect("it is one"));
        let unknown = one(move |said| said.servers[1].connections.extend(connections));
        assert_eq!(unknown.0, Kind::ForeignConnection);
        let apart = one(|said| said.servers[1].varz["data"]["remotes"] = json!(1));
        assert_eq!(apart, is(Kind::Routes, "n1"));
        let leaf = one(|said| said.servers[1].varz["data"]["leafnodes"] = json!(1));
        assert_eq!(leaf, is(Kind::ForeignLink, "n1: leaf nodes"));
        let gateway = one(|said| said.servers[1].varz["data"]["gateway"] = json!({ "name": "x" }));
        assert_eq!(gateway, is(Kind::ForeignLink, "n1: gateway"));
    }

    #[test]
    fn leaders_have_to_be_there_and_copies_up_to_date() {
        let none = one(|said| everywhere(said, "DIR", |stream| stream.cluster.leader.clear()));
        assert_eq!(none, is(Kind::Leaderless, "streams"));
        let dead = one(|said| everywhere(said, "DIR", |s| s.cluster.leader = "n7".into()));
        assert_eq!(dead, is(Kind::Leaderless, "streams"));
        // Who follows knows nothing of the others.
        assert_eq!(found(|s| stream(s, "n1", "DIR").cluster.replicas[0].current = false), []);
        let behind = one(|s| stream(s, "n0", "DIR").cluster.replicas[1].current = false);
        assert_eq!(behind, is(Kind::Lagging, "n2"));
        // It has caught up by the next look.
        let caught_up = found(|said| {
            let well = said.samples[0].clone();
            stream(said, "n0", "DIR").cluster.replicas[1].current = false;
            said.samples.push(well);
        });
        assert_eq!(caught_up, []);
    }

    #[test]
    fn full_streams_are_told_before_they_are() {
        let of = |bytes| {
            found(move |said| everywhere(said, "MB_1_3", move |stream| stream.state.bytes = bytes))
        };
        assert_eq!(of(699), []);
        assert_eq!(of(700), [is(Kind::Filling, "MB_1_3")]);
        assert_eq!(of(850), [is(Kind::Full, "MB_1_3")]);
    }

    #[test]
    fn whoever_gets_copies_is_found() {
        let foreign = |config| {
            one(move |said| {
                let stream = Stream { name: "SPY".into(), config, ..Stream::default() };
                let held = Held { server: "n1".into(), account: "RELAY".into(), stream };
                said.samples[0].push(held);
            })
        };
        assert_eq!(foreign(json!({ "subjects": ["live.>"] })), is(Kind::ForeignStream, "SPY"));
        assert_eq!(foreign(json!({ "mirror": { "name": "MB_1_3" } })), is(Kind::Mirror, "SPY"));
        assert_eq!(foreign(json!({ "sources": [{ "name": "MB_1_3" }] })), is(Kind::Source, "SPY"));
        let consumer = one(|said| {
            let stream = stream(said, "n0", "MB_1_3");
            stream.consumer_detail = vec![Named { name: "spy".into() }];
            stream.state.consumer_count = 1;
        });
        assert_eq!(consumer, is(Kind::Consumer, "MB_1_3"));
    }

    fn subscribed(connection: Connection, subject: &str) -> Connection {
        let subject = subject.to_owned();
        Connection { subscriptions: vec![Subscription { subject }], ..connection }
    }

    #[test]
    fn whoever_listens_is_found() {
        let listening = |connection: Connection| {
            found(move |said| said.servers[1].connections.push(connection))
                .into_iter()
                .map(|(kind, _)| kind)
                .filter(|kind| *kind != Kind::TooManyNodes)
                .collect::<Vec<_>>()
        };
        for subject in ["live.>", "m.>", "eph.>", "dir.>", ">", "_INBOX.>", "live.*.13.*.f"] {
            let as_node = subscribed(fixture::node("x"), subject);
            assert_eq!(listening(as_node), [Kind::ForeignSubscription], "{subject}");
        }
        let other = Connection { name: "nats cli".into(), ..fixture::node("x") };
        let both = [Kind::ForeignSubscription, Kind::ForeignConnection];
        assert_eq!(listening(subscribed(other, "live.>")), both);
        // While a realm moves in. One is enough.
        let importer = || Connection {
            name: "valise-importer".into(),
            subscriptions: vec![],
            ..fixture::node("x")
        };
        assert_eq!(listening(importer()), []);
        let two = found(|said| said.servers[1].connections.extend([importer(), importer()]));
        assert_eq!(two.len(), 1, "{two:?}");
        assert_eq!(two[0].0, Kind::ForeignConnection);
        assert_eq!(listening(subscribed(importer(), "live.>")), [Kind::ForeignSubscription]);
        let quiet = Connection { name: String::new(), subscriptions: vec![], ..fixture::node("x") };
        assert_eq!(listening(quiet), [Kind::ForeignConnection]);
        let elsewhere =
            Connection { account: "$G".into(), name: "x".into(), ..fixture::operator() };
        assert_eq!(listening(elsewhere), [Kind::ForeignConnection]);
        let operator = Connection { name: "nats cli".into(), ..fixture::operator() };
        assert_eq!(listening(operator), [Kind::ForeignOperator]);
        // A second one with a node's inbox sees what that node reads.
        let inbox = "_INBOX.fdWJYv9zH1r37ut9zfCQ1X.*";
        let twice = found(|said| {
            for server in &mut said.servers[..2] {
                server.connections[0] = subscribed(fixture::node("x"), inbox);
            }
        });
        assert_eq!(twice.len(), 1, "{twice:?}");
        assert_eq!(twice[0].0, Kind::ForeignSubscription);
    }

    #[test]
    fn more_nodes_than_there_are_is_told() {
        let more = one(|said| said.servers[1].connections.push(fixture::node("x")));
        assert_eq!(more, is(Kind::TooManyNodes, "nodes"));
    }

    #[test]
    fn an_account_that_lets_something_out_is_found() {
        let account = |change: fn(&mut serde_json::Value)| {
            one(move |said| change(&mut said.servers[1].relays))
        };
        let exports = account(|relays| relays["exports"] = json!([{ "subject": "live.>" }]));
        assert_eq!(exports, is(Kind::AccountSetting, "n1: exports"));
        let mappings = account(|relays| relays["mappings"] = json!({ "m.>": [] }));
        assert_eq!(mappings, is(Kind::AccountSetting, "n1: mappings"));
        let import = account(|relays| {
            relays["imports"] = json!([{ "type": "stream", "account": "SYS", "subject": "x" }]);
        });
        assert_eq!(import, is(Kind::AccountSetting, "n1: imports"));
        let other = one(|said| said.servers[1].accounts.push("SPY".into()));
        assert_eq!(other, is(Kind::ForeignAccount, "SPY"));
    }

    #[test]
    fn clocks_are_judged_by_what_is_certain() {
        // (asked, heard, the server's time, what is found)
        let cases = [
            (0, 100, 50, None),
            (0, 100, 600, None), // 500 to 600 ahead: not more than 500 for certain
            (0, 100, 601, Some("n1")),
            (0, 100, -500, None),
            (0, 100, -501, Some("n1")),
            // An answer that took long says little.
            (0, 5_000, 5_400, None),
        ];
        for (asked, heard, said, expected) in cases {
            let found = found(|all| all.servers[1].ahead = Between::of(said, asked, heard));
            let subjects: Vec<_> = found.iter().map(|(_, subject)| subject.as_str()).collect();
            assert_eq!(
                subjects,
                expected.into_iter().collect::<Vec<_>>(),
                "{asked} {heard} {said}"
            );
            assert!(found.iter().all(|(kind, _)| *kind == Kind::Skew));
        }
        // All of them differ from here, and not from each other: it is this machine's.
        let here = one(|all| {
            all.servers.iter_mut().for_each(|s| s.ahead = Between { least: 700, most: 701 });
        });
        assert_eq!(here, is(Kind::Skew, "this machine"));
        // Two that differ by more from each other than either from here.
        let two = found(|all| {
            all.servers[0].ahead = Between { least: 300, most: 301 };
            all.servers[1].ahead = Between { least: -301, most: -300 };
        });
        assert_eq!(two, [is(Kind::Skew, "n0, n1")]);
    }
}
