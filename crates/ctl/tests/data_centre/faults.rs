//! One data centre, well at first; then one fault after the other.

use serde_json::json;
use valise_client::testing::{NatsPlan, TestPlace, TestRelay};

use crate::bus::{api, info, intruder};
use crate::tool::{Checked, servers, until, until_of, until_well};

fn has(kind: &'static str, subject: &'static str) -> impl Fn(&Checked) -> bool {
    move |checked| checked.code == 2 && checked.has(kind, subject)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_well_is_told_so_and_each_fault_is_found() {
    let Some(nats) = servers(NatsPlan::default()) else { return };
    let first = TestRelay::with_config(&nats.section()).unwrap();
    let second = first.further_node(&nats.section(), TestPlace::default()).unwrap();
    until_well(&nats);

    // A node more than there should be.
    until_of("1", &nats, "a node too many", has("nodes_many", "nodes"));

    let spy = intruder(&nats).await;
    until(&nats, "a stranger", has("foreign_connection", "nats cli"));
    let subscription = spy.subscribe("live.>").await.unwrap();
    spy.flush().await.unwrap();
    until(&nats, "a listener", has("foreign_subscription", "live.>"));
    drop((subscription, spy));
    until_well(&nats);
    // Whoever calls himself a node is known by what he listens to.
    let options = async_nats::ConnectOptions::new().name("valise");
    let spy = options.connect(nats.urls()).await.unwrap();
    let subscription = spy.subscribe("m.>").await.unwrap();
    spy.flush().await.unwrap();
    until(&nats, "a disguised listener", has("foreign_subscription", "m.>"));
    drop((subscription, spy));
    // The last one of many is seen too.
    let mut many = Vec::new();
    for _ in 0..70 {
        many.push(async_nats::connect(&nats.urls()[0]).await.unwrap());
    }
    let subscription = many[69].subscribe("eph.>").await.unwrap();
    many[69].flush().await.unwrap();
    until(&nats, "a listener among many", has("foreign_subscription", "eph.>"));
    drop((subscription, many));
    until_well(&nats);

    {
        let spy = intruder(&nats).await;
        let consumer = json!({ "stream_name": "MB_1_4", "config": {
            "ack_policy": "none", "deliver_policy": "all", "durable_name": "spy",
        } });
        api(&spy, "CONSUMER.DURABLE.CREATE.MB_1_4.spy", consumer).await;
        until(&nats, "a consumer", has("consumer", "MB_1_4"));
        api(&spy, "CONSUMER.DELETE.MB_1_4.spy", json!({})).await;

        let mirror = json!({ "name": "SPY", "mirror": { "name": "MB_1_3" }, "num_replicas": 1 });
        api(&spy, "STREAM.CREATE.SPY", mirror).await;
        until(&nats, "a mirror", has("mirror", "SPY"));
        api(&spy, "STREAM.DELETE.SPY", json!({})).await;

        let source = json!({ "name": "SPY", "sources": [{ "name": "MB_1_3" }], "num_replicas": 1 });
        api(&spy, "STREAM.CREATE.SPY", source).await;
        until(&nats, "a stream that sources", has("source", "SPY"));
        api(&spy, "STREAM.DELETE.SPY", json!({})).await;

        let copy = json!({ "name": "SPY", "subjects": ["live.>"], "num_replicas": 1 });
        api(&spy, "STREAM.CREATE.SPY", copy).await;
        until(&nats, "a stream of what is pushed", has("foreign_stream", "SPY"));
        api(&spy, "STREAM.DELETE.SPY", json!({})).await;

        let mut single = info(&spy, "MB_1_5").await["config"].clone();
        single["num_replicas"] = json!(1);
        api(&spy, "STREAM.UPDATE.MB_1_5", single.clone()).await;
        until(&nats, "one copy", has("stream_setting", "MB_1_5: num_replicas"));
        single["num_replicas"] = json!(3);
        api(&spy, "STREAM.UPDATE.MB_1_5", single).await;
    }
    until_well(&nats);

    nats.hang(1).unwrap();
    until(&nats, "a server that hangs", has("server_silent", "n1"));
    nats.go_on(1).unwrap();
    until_well(&nats);
    nats.kill(1).unwrap();
    until(&nats, "a killed server", |checked| {
        checked.has("server_silent", "n1") && checked.has("server_unreachable", &nats.urls()[1])
    });
    // With a second one nobody leads any more.
    nats.kill(2).unwrap();
    until(&nats, "streams without a leader", has("leaderless", "streams"));
    nats.kill(0).unwrap();
    let nobody = crate::tool::check(&nats, &[]);
    assert_eq!(nobody.code, 69, "{nobody:#?}");
    drop((first, second));
}
