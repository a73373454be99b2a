//! A check as people read it, and as programs do.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::finding::{Finding, few};
use crate::judge::skews;
use crate::said::Said;

/// For people: each finding with its cause and what to do.
pub(crate) fn text(said: &Said, findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { kind, subject, cause } in findings {
        let severity = kind.severity().name();
        // A string takes everything.
        writeln!(text, "{severity}: {kind} ({subject})\n    {cause}\n    {}\n", kind.fix()).ok();
    }
    let names: Vec<&str> = said.servers.iter().map(|server| server.name.as_str()).collect();
    let streams = said.streams().iter().map(|held| &held.stream.name);
    let streams: std::collections::BTreeSet<_> = streams.collect();
    let clients: usize = said.servers.iter().map(|server| server.connections.len()).sum();
    let verdict = match findings.len() {
        0 => "nothing was found".to_owned(),
        1 => "1 finding".to_owned(),
        many => format!("{many} findings"),
    };
    writeln!(
        text,
        "{verdict}; looked at {} servers ({}), {} streams and {clients} connections",
        names.len(),
        few(&names),
        streams.len(),
    )
    .ok();
    text
}

/// For programs. Fields are added, and never taken away.
pub(crate) fn json(said: &Said, findings: &[Finding]) -> String {
    let finding = |finding: &Finding| {
        json!({
            "kind": finding.kind,
            "severity": finding.kind.severity(),
            "subject": finding.subject,
            "cause": finding.cause,
            "fix": finding.kind.fix(),
        })
    };
    let servers: Vec<Value> = skews(said)
        .into_iter()
        .map(|(name, skew)| json!({ "name": name, "clock_ahead_ms": skew }))
        .collect();
    let findings: Vec<Value> = findings.iter().map(finding).collect();
    format!("{:#}\n", json!({ "servers": servers, "findings": findings }))
}
