//! The importer as the data centre's servers know it: a user who writes one realm's mailboxes.

use data_encoding::HEXLOWER as HEX;
use valise_client::proto::RealmId;

/// What an importer asks of the servers, beside writing: to look, to read, and to remove again.
const ASKED: [&str; 7] = [
    "valise.varz",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.STREAM.MSG.DELETE.*",
    "$JS.API.STREAM.PURGE.*",
    "$JS.API.DIRECT.GET.>",
];

/// What it listens to: answers, and who leads a stream.
const HEARD: [&str; 2] = ["_INBOX.>", "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*"];

/// The user's entry in the relays' account, in the servers' configuration.
pub(crate) fn entry(realm: &RealmId) -> String {
    let writes = format!("m.{}.>", HEX.encode(realm.as_bytes()));
    let list = |subjects: &[&str]| {
        let quoted: Vec<_> = subjects.iter().map(|subject| format!("\"{subject}\"")).collect();
        quoted.join(", ")
    };
    let publish = [&[writes.as_str()][..], &ASKED].concat();
    format!(
        "{{ user: \"valise-importer\", permissions: {{\n    publish: [ {} ],\n    subscribe: [ {} ]\n}} }}\n",
        list(&publish),
        list(&HEARD)
    )
}
