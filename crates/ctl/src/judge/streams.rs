//! The streams: which there are, how they are set up, who leads them, and how full they are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use valise::limits::STREAM_FULL_PERCENT;
use valise::store::jetstream::{Unsafe, judge_stream, needed_streams};

use super::access::shown;
use crate::finding::{Finding, Kind, few};
use crate::limits::STREAM_FILLING_PERCENT;
use crate::said::{Held, Said};

pub(super) fn judge(said: &Said) -> Vec<Finding> {
    // How large they are made is the operator's choice.
    let needed: BTreeMap<String, Value> = needed_streams(1).into_iter().collect();
    let mut findings = Vec::new();
    let there: BTreeSet<&str> =
        said.streams().iter().map(|held| held.stream.name.as_str()).collect();
    let missing: Vec<&String> =
        needed.keys().filter(|name| !there.contains(name.as_str())).collect();
    if !missing.is_empty() {
        let cause = format!("{} streams are not there: {}", missing.len(), few(&missing));
        findings.push(Finding::new(Kind::StreamMissing, "streams", cause));
    }
    for held in said.streams() {
        match needed.get(&held.stream.name) {
            Some(needed) => findings.extend(ours(held, needed)),
            None => findings.push(foreign(held)),
        }
        findings.extend(consumers(held));
    }
    findings.extend(leaders(said, &needed));
    findings.extend(lagging(said));
    findings
}

fn ours(held: &Held, needed: &Value) -> Vec<Finding> {
    let (stream, mut findings) = (&held.stream, Vec::new());
    for wrong in judge_stream(&stream.name, needed, &stream.config) {
        let subject = match &wrong {
            Unsafe::Stream { stream, setting, .. } => format!("{stream}: {setting}"),
            _ => stream.name.clone(),
        };
        findings.push(Finding::new(Kind::StreamSetting, subject, wrong.to_string()));
    }
    // Only the leader's own figures: a copy that is behind may not know what was purged.
    let max = stream.config["max_bytes"].as_u64().unwrap_or_default();
    if max > 0 && held.server == stream.cluster.leader {
        let percent = u128::from(stream.state.bytes) * 100 / u128::from(max);
        let kind = match percent {
            percent if percent >= u128::from(STREAM_FULL_PERCENT) => Some(Kind::Full),
            percent if percent >= u128::from(STREAM_FILLING_PERCENT) => Some(Kind::Filling),
            _ => None,
        };
        let cause = format!("{} is {percent} % full", stream.name);
        findings.extend(kind.map(|kind| Finding::new(kind, &stream.name, cause)));
    }
    findings
}

fn foreign(held: &Held) -> Finding {
    let (name, config) = (shown(&held.stream.name), &held.stream.config);
    let of = |origin: &Value| shown(origin["name"].as_str().unwrap_or_default());
    let place = format!("stream {name} of account {}", shown(&held.account));
    if !config["mirror"].is_null() {
        let cause = format!("{place} is a mirror of {}", of(&config["mirror"]));
        return Finding::new(Kind::Mirror, name, cause);
    }
    if let Some(sources) = config["sources"].as_array().filter(|sources| !sources.is_empty()) {
        let origins: Vec<String> = sources.iter().map(of).collect();
        let cause = format!("{place} takes what is stored in {}", few(&origins));
        return Finding::new(Kind::Source, name, cause);
    }
    let subjects: Vec<String> = config["subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(shown)
        .collect();
    let cause = format!("{place} is none of a relay's; it stores {}", few(&subjects));
    Finding::new(Kind::ForeignStream, name, cause)
}

fn consumers(held: &Held) -> Option<Finding> {
    let stream = &held.stream;
    let count = stream.state.consumer_count.max(stream.consumer_detail.len() as u64);
    if count == 0 {
        return None;
    }
    let names: Vec<String> =
        stream.consumer_detail.iter().map(|named| shown(&named.name)).collect();
    let name = shown(&stream.name);
    // Servers may know of a different number for a moment; it is one fault.
    let cause = match names.is_empty() {
        true => format!("stream {name} has a consumer"),
        false => format!("stream {name} has a consumer: {}", few(&names)),
    };
    Some(Finding::new(Kind::Consumer, name, cause))
}

/// Streams that nobody leads who answers, in every look.
fn leaders(said: &Said, needed: &BTreeMap<String, Value>) -> Option<Finding> {
    let led = |sample: &Vec<Held>| -> BTreeSet<String> {
        let led = sample.iter().filter(|held| said.has_answered(&held.stream.cluster.leader));
        led.map(|held| held.stream.name.clone()).collect()
    };
    let led: BTreeSet<String> = said.samples.iter().flat_map(led).collect();
    let there: BTreeSet<&String> = said.streams().iter().map(|held| &held.stream.name).collect();
    let without: Vec<&String> =
        needed.keys().filter(|name| there.contains(name) && !led.contains(*name)).collect();
    let cause = format!("{} streams have no leader: {}", without.len(), few(&without));
    (!without.is_empty()).then(|| Finding::new(Kind::Leaderless, "streams", cause))
}

/// Copies that were behind in every look, by their servers. Only a leader knows.
fn lagging(said: &Said) -> Vec<Finding> {
    let behind = |sample: &Vec<Held>| -> BTreeMap<(String, String), u64> {
        let mut behind = BTreeMap::new();
        for held in sample.iter().filter(|held| held.stream.cluster.leader == held.server) {
            for replica in &held.stream.cluster.replicas {
                // Of one that does not answer it is told once, by its name.
                if (!replica.current || replica.offline) && said.has_answered(&replica.name) {
                    let key = (replica.name.clone(), held.stream.name.clone());
                    behind.insert(key, replica.lag);
                }
            }
        }
        behind
    };
    let mut samples = said.samples.iter().map(behind);
    let Some(mut all) = samples.next() else { return Vec::new() };
    for sample in samples {
        all.retain(|key, lag| match sample.get(key) {
            Some(now) => {
                *lag = *now;
                true
            }
            None => false,
        });
    }
    let mut by_server: BTreeMap<String, (Vec<String>, u64)> = BTreeMap::new();
    for ((server, stream), lag) in all {
        let (streams, most) = by_server.entry(server).or_default();
        streams.push(stream);
        *most = lag.max(*most);
    }
    let tell = |(server, (streams, most)): (String, (Vec<String>, u64))| {
        let count = streams.len();
        let cause =
            format!("{server} is behind in {count} streams, by {most} at most: {}", few(&streams));
        Finding::new(Kind::Lagging, server, cause)
    };
    by_server.into_iter().map(tell).collect()
}
