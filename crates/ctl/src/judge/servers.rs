//! The servers: which there are, how they are set up, and what time they have.

use std::collections::BTreeSet;

use serde_json::Value;
use valise::store::jetstream::{REPLICAS, Unsafe, judge_server};

use crate::finding::{Finding, Kind, few};
use crate::limits::SKEW_MS_MAX;
use crate::said::{ASKED, Said, Server};

pub(super) fn judge(said: &Said) -> Vec<Finding> {
    let mut findings = presence(said);
    for server in &said.servers {
        for wrong in judge_server(&server.varz) {
            let subject = match &wrong {
                Unsafe::Server { server, setting, .. } => format!("{server}: {setting}"),
                _ => server.name.clone(),
            };
            findings.push(Finding::new(Kind::ServerSetting, subject, wrong.to_string()));
        }
        for what in ASKED.iter().filter(|what| !server.told.contains(what)) {
            let (subject, cause) = (
                format!("{}: {what}", server.name),
                format!("{} does not say anything of its {what}", server.name),
            );
            findings.push(Finding::new(Kind::Blind, subject, cause));
        }
        if let Some(why) = &server.unwell {
            let cause = format!("{} says that it is not well: {why}", server.name);
            findings.push(Finding::new(Kind::Unhealthy, &server.name, cause));
        }
        findings.extend(links(server, said.servers.len()));
    }
    findings.extend(clocks(said));
    findings
}

/// Who is there, and who is not.
fn presence(said: &Said) -> Vec<Finding> {
    let mut findings = Vec::new();
    for seat in &said.seats {
        if let Err(why) = &seat.found {
            let cause = format!("nobody answers at {}: {why}", seat.url);
            findings.push(Finding::new(Kind::Unreachable, &seat.url, cause));
        }
    }
    let known = known(said);
    for server in known.iter().filter(|server| !said.has_answered(server)) {
        let cause = format!("the others know {server}, and it does not answer");
        findings.push(Finding::new(Kind::Silent, server, cause));
    }
    let named: BTreeSet<&str> =
        said.seats.iter().filter_map(|seat| seat.found.as_deref().ok()).collect();
    // Only where every server was named by an address of its own.
    if named.len() == said.seats.len() && said.seats.len() >= REPLICAS as usize {
        for server in known.iter().filter(|server| !named.contains(server.as_str())) {
            let cause = format!("{server} is in the cluster, and none of the addresses is its");
            findings.push(Finding::new(Kind::ForeignServer, server, cause));
        }
    }
    if (known.len() as u64) < REPLICAS {
        let cause = format!("there are {} servers, and {REPLICAS} are needed", known.len());
        findings.push(Finding::new(Kind::TooFew, "servers", cause));
    }
    findings
}

/// The names of all servers that anybody knows.
fn known(said: &Said) -> BTreeSet<String> {
    let mut known: BTreeSet<String> = said.servers.iter().map(|s| s.name.clone()).collect();
    for server in &said.servers {
        let meta = &server.jsz["meta_cluster"];
        let replicas = meta["replicas"].as_array().into_iter().flatten();
        let names = replicas.map(|replica| &replica["name"]).chain([&meta["leader"]]);
        known.extend(names.filter_map(Value::as_str).map(str::to_owned));
    }
    for held in said.streams() {
        known.extend(held.stream.cluster.replicas.iter().map(|replica| replica.name.clone()));
    }
    known.retain(|name| !name.is_empty());
    known
}

/// What a server is linked with, the other ones of the cluster being so many.
fn links(server: &Server, answered: usize) -> Vec<Finding> {
    let varz = server.varz.get("data").unwrap_or(&server.varz);
    let name = &server.name;
    let mut findings = Vec::new();
    let remotes = varz["remotes"].as_u64().unwrap_or_default() as usize;
    if remotes + 1 < answered {
        let cause = format!("{name} sees {remotes} of {} other servers", answered - 1);
        findings.push(Finding::new(Kind::Routes, name, cause));
    }
    let leaves = varz["leafnodes"].as_u64().unwrap_or_default();
    if leaves > 0 || varz["leaf"]["port"].as_u64().is_some_and(|port| port > 0) {
        let cause = format!("{name} takes leaf nodes; {leaves} are connected");
        findings.push(Finding::new(Kind::ForeignLink, format!("{name}: leaf nodes"), cause));
    }
    if varz["gateway"]["name"].as_str().is_some_and(|gateway| !gateway.is_empty()) {
        let cause = format!("{name} is a gateway to other clusters");
        findings.push(Finding::new(Kind::ForeignLink, format!("{name}: gateway"), cause));
    }
    findings
}

/// How many milliseconds each server's clock is ahead, for certain.
pub(crate) fn skews(said: &Said) -> Vec<(&str, i64)> {
    said.servers.iter().map(|server| (server.name.as_str(), server.ahead.certain())).collect()
}

fn clocks(said: &Said) -> Vec<Finding> {
    let off: Vec<&Server> =
        said.servers.iter().filter(|s| s.ahead.certain().abs() > SKEW_MS_MAX).collect();
    let apart = |a: &Server, b: &Server| a.ahead.minus(b.ahead).certain();
    let mut findings = Vec::new();
    let together = off.len() > 1
        && off.len() == said.servers.len()
        && off.iter().all(|server| apart(server, off[0]).abs() <= SKEW_MS_MAX);
    if together {
        let (names, by) = (off.iter().map(|s| &s.name).collect::<Vec<_>>(), off[0].ahead.middle());
        let cause =
            format!("the clock of this machine is {} than those of {}", told(-by), few(&names));
        findings.push(Finding::new(Kind::Skew, "this machine", cause));
        return findings;
    }
    for server in &off {
        let by = told(server.ahead.middle());
        let cause = format!("the clock of {} is {by} than that of this machine", server.name);
        findings.push(Finding::new(Kind::Skew, &server.name, cause));
    }
    for (i, one) in said.servers.iter().enumerate() {
        for other in &said.servers[i + 1..] {
            // Of a clock that is wrong it was said already.
            let said = [one, other].iter().any(|s| off.iter().any(|off| off.name == s.name));
            if apart(one, other).abs() > SKEW_MS_MAX && !said {
                let by = told(one.ahead.minus(other.ahead).middle());
                let cause =
                    format!("the clock of {} is {by} than that of {}", one.name, other.name);
                let subject = format!("{}, {}", one.name, other.name);
                findings.push(Finding::new(Kind::Skew, subject, cause));
            }
        }
    }
    findings
}

fn told(ahead: i64) -> String {
    let direction = if ahead > 0 { "later" } else { "earlier" };
    format!("about {} ms {direction}", ahead.abs())
}
