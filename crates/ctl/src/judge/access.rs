//! Who is on the bus beside the relays: the bus is inside the operator's trust, so whoever else is there
//! is found.

use std::collections::BTreeMap;

use serde_json::Value;
use valise::store::jetstream::{IMPORTER, NODE, is_subscription_of_node};

use super::Expected;
use crate::TOOL;
use crate::finding::{Finding, Kind};
use crate::said::{Connection, Said};

/// The accounts of deploy/nats/common.conf, and the one that a server has by itself.
const RELAYS: &str = "RELAY";
const OPERATORS: &str = "SYS";
const DEFAULT: &str = "$G";

pub(super) fn judge(said: &Said, expected: Expected) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut inboxes: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut nodes, mut importers, mut subscribed) = (0, 0, Vec::new());
    for server in &said.servers {
        for connection in &server.connections {
            if connection.account == RELAYS && connection.name == NODE {
                nodes += 1;
            } else if connection.account == RELAYS && connection.name == IMPORTER && importers == 0
            {
                // While a realm moves here; one is enough.
                importers += 1;
            } else {
                findings.extend(stranger(connection));
            }
            if connection.account != OPERATORS {
                subscribed
                    .extend(connection.subscriptions.iter().map(|s| (connection, &s.subject)));
            }
        }
        findings.extend(accounts(&server.name, &server.accounts, &server.relays));
    }
    for (connection, subject) in subscribed {
        let times = inboxes.entry(subject).or_default();
        *times += usize::from(subject.starts_with("_INBOX."));
        if *times > 1 || !is_subscription_of_node(subject) && is_told(connection, subject) {
            let (who, subject) = (client(connection), shown(subject));
            let cause = format!("{who} listens to {subject}");
            findings.push(Finding::new(
                Kind::ForeignSubscription,
                format!("{who}: {subject}"),
                cause,
            ));
        }
    }
    if let Some(most) = expected.nodes.filter(|most| nodes > *most) {
        let cause = format!("{nodes} nodes are connected, and there are {most}");
        findings.push(Finding::new(Kind::TooManyNodes, "nodes", cause));
    }
    findings
}

/// Whether a subscription is worth a finding beside the one about the connection: of a stranger's, only
/// what has frames or answers in it.
fn is_told(connection: &Connection, subject: &str) -> bool {
    let first = subject.split('.').next().unwrap_or_default();
    let ours = ["m", "live", "eph", "dir", "*", ">", "$JS"].contains(&first);
    let others_answers = first == "_INBOX" && subject.split('.').nth(1).is_some_and(is_wild);
    [NODE, IMPORTER].contains(&connection.name.as_str()) || ours || others_answers
}

fn is_wild(token: &str) -> bool {
    token == "*" || token == ">"
}

fn stranger(connection: &Connection) -> Option<Finding> {
    let who = client(connection);
    if connection.account != OPERATORS {
        let cause = format!("{who} is connected and is no node");
        return Some(Finding::new(Kind::ForeignConnection, who, cause));
    }
    let cause = format!("{who} is connected to the system account and is not {TOOL}");
    (connection.name != TOOL).then(|| Finding::new(Kind::ForeignOperator, who, cause))
}

fn accounts(server: &str, accounts: &[String], relays: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for account in accounts.iter().filter(|a| ![RELAYS, OPERATORS, DEFAULT].contains(&a.as_str())) {
        let account = shown(account);
        let cause = format!("the servers have an account {account}");
        findings.push(Finding::new(Kind::ForeignAccount, account, cause));
    }
    let subjects = |list: &Value| {
        let list = list.as_array().into_iter().flatten();
        let subjects = list.filter_map(|item| item["subject"].as_str()).map(shown);
        subjects.collect::<Vec<_>>().join(", ")
    };
    let mut wrong = |what: &str, cause: String| {
        let cause = format!("on {server} the relays' account {cause}");
        findings.push(Finding::new(Kind::AccountSetting, format!("{server}: {what}"), cause));
    };
    let exports = &relays["exports"];
    if exports.as_array().is_some_and(|exports| !exports.is_empty()) {
        wrong("exports", format!("lets others have {}", subjects(exports)));
    }
    // What every account imports: JetStream's services, and what is said of itself.
    let imported: Vec<Value> = relays["imports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|import| import["type"] != "service" || import["account"] != OPERATORS)
        .cloned()
        .collect();
    if !imported.is_empty() {
        wrong("imports", format!("imports {}", subjects(&Value::Array(imported))));
    }
    if let Some(mappings) = relays["mappings"].as_object().filter(|map| !map.is_empty()) {
        let from: Vec<String> = mappings.keys().map(|subject| shown(subject)).collect();
        wrong("mappings", format!("sends {} elsewhere", from.join(", ")));
    }
    findings
}

/// Who a client is.
fn client(connection: &Connection) -> String {
    let Connection { ip, name, account, authorized_user, .. } = connection;
    let name = if name.is_empty() { "a client without a name".to_owned() } else { shown(name) };
    format!("{name} at {} (user {}, account {})", shown(ip), shown(authorized_user), shown(account))
}

/// A name or a subject that others chose, as it may be shown: no control characters, no end without an
/// end, and no id of a realm or a mailbox.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let id = |token: &str| token.len() >= 16 && token.bytes().all(|b| b.is_ascii_hexdigit());
    let tokens = text.split('.').map(|token| if id(token) { "<id>" } else { token });
    let text = tokens.collect::<Vec<_>>().join(".");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_chose_is_shown_without_ids_and_without_tricks() {
        let subject = format!("live.{}.13.{}.f", "09".repeat(20), "01".repeat(16));
        assert_eq!(shown(&subject), "live.<id>.13.<id>.f");
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a [2Jb ");
        assert_eq!(shown(&"x".repeat(500)).len(), 80);
    }
}
