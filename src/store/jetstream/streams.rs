//! The streams and the servers under them: what has to be set so that nothing is lost, what is
//! made where it is not there, and how full it is.

use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};
use valise_proto::limits::MAILBOX_FRAMES_MAX;

use super::bus::{Bus, NO_STREAM};
use super::subject::{
    DIRECTORY, STREAMS, number_of_stream, stream_name, stream_number, stream_subjects,
};
use super::{BusError, JetStream};
use crate::limits::{STREAM_FULL_PERCENT, STREAM_RECORD_BYTES_MAX};

/// The server that this version was tried with, and the oldest that is taken.
pub const RECOMMENDED_VERSION: &str = "2.15.1";

/// Where the servers say how they are set up: the deployed configuration lets the relay's account
/// ask there.
const VARZ: &str = "valise.varz";

/// Copies of each stream.
pub const REPLICAS: u64 = 3;

/// A setting by which accepted frames would be lost. The text says which, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// The servers' settings cannot be seen.
    #[error(
        "the servers do not say how they are set up, so `sync_interval: always` cannot be checked; \
         export the service \"$SYS.REQ.SERVER.PING.VARZ\" of the system account and import it into \
         the relay's account as \"valise.varz\", as deploy/nats/server.conf does"
    )]
    Unseen,
    /// Too few of them answer.
    #[error("only {seen} of {replicas} servers answer; a majority has to be there at the start")]
    TooFew {
        /// How many do.
        seen: usize,
        /// How many there have to be.
        replicas: usize,
    },
    /// A server's setting.
    #[error(
        "server {server}: {setting} is {found} and must be {needed}; see deploy/nats/server.conf"
    )]
    Server {
        /// Its name.
        server: String,
        /// The setting's name.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        needed: &'static str,
    },
    /// A stream's setting.
    #[error(
        "stream {stream}: {setting} is {found} and must be {needed}; whoever changed it put accepted \
         frames at risk: set it back before a relay is started"
    )]
    Stream {
        /// Its name.
        stream: String,
        /// The setting's name.
        setting: String,
        /// What it is.
        found: String,
        /// What it must be.
        needed: String,
    },
}

impl Unsafe {
    /// Whether it is about how something is set up, and not about who answers.
    pub fn is_a_setting(&self) -> bool {
        matches!(self, Self::Server { .. } | Self::Stream { .. })
    }
}

impl JetStream {
    /// Looks at every server that answers.
    ///
    /// # Errors
    /// [`BusError::Unsafe`] names the first thing that is not as it must be.
    pub async fn check_servers(&self) -> Result<(), BusError> {
        check_servers(&self.bus).await
    }

    /// Makes the streams that are not there; those that are must be as they would be made.
    pub(super) async fn make_streams(&self) -> Result<(), BusError> {
        let making = needed_streams(self.stream_bytes)
            .into_iter()
            .map(|(name, settings)| self.make_stream(name, settings));
        futures_util::future::try_join_all(making).await?;
        Ok(())
    }

    async fn make_stream(&self, name: String, settings: Value) -> Result<(), BusError> {
        let mut request = settings.clone();
        request["name"] = json!(name);
        let info = match self.bus.ask_patiently(&format!("STREAM.INFO.{name}"), &json!({})).await {
            Err(BusError::Refused { code: NO_STREAM, .. }) => {
                let api = format!("STREAM.CREATE.{name}");
                match self.bus.ask_patiently(&api, &request).await {
                    // Another node was first, with other settings or a moment ago, or it is still
                    // being made.
                    Err(BusError::Refused { code: STREAM_NAME_IN_USE, .. }) => {
                        match self.bus.info(&name, &json!({})).await {
                            Err(BusError::Refused { code: NO_STREAM, .. }) => {
                                return Err(BusError::Silent);
                            }
                            answer => answer?,
                        }
                    }
                    answer => answer?,
                }
            }
            answer => answer?,
        };
        match judge_stream(&name, &settings, &info["config"]).into_iter().next() {
            Some(wrong) => Err(wrong.into()),
            None => Ok(()),
        }
    }

    /// Looks how full the streams are: one that is nearly full takes no more posts, so that there
    /// is room for what drains it.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn look_at_room(&self) -> Result<(), BusError> {
        let full = full_streams(&self.bus).await?;
        let before = self.full.swap(full, Ordering::Relaxed);
        if full != 0 && full & !before != 0 {
            tracing::error!(
                streams = full.count_ones(),
                "streams are nearly full: posts are refused"
            );
        }
        Ok(())
    }

    /// A stream has refused a frame for want of room.
    pub(super) fn is_full(&self, shard: u8) {
        self.full.fetch_or(1 << stream_number(shard), Ordering::Relaxed);
    }
}

/// Looks at every server that answers.
pub(super) async fn check_servers(bus: &Bus) -> Result<(), BusError> {
    let replicas = REPLICAS as usize;
    let servers = bus.servers(VARZ, replicas).await?;
    if servers.is_empty() {
        return Err(Unsafe::Unseen.into());
    }
    if let Some(wrong) = servers.iter().flat_map(judge_server).next() {
        return Err(wrong.into());
    }
    if servers.len() <= replicas / 2 {
        return Err(Unsafe::TooFew { seen: servers.len(), replicas }.into());
    }
    Ok(())
}

/// One bit for each stream of mailboxes that is nearly full.
pub(super) async fn full_streams(bus: &Bus) -> Result<u32, BusError> {
    let list = bus.ask_patiently("STREAM.LIST", &json!({ "subject": "m.>" })).await?;
    let mut full = 0;
    for stream in list["streams"].as_array().into_iter().flatten() {
        let name = stream["config"]["name"].as_str().unwrap_or_default();
        let Some(number) = number_of_stream(name) else { continue };
        let bytes = stream["state"]["bytes"].as_u64().unwrap_or_default();
        let max = stream["config"]["max_bytes"].as_u64().unwrap_or_default();
        if bytes / 100 * 100 >= max / 100 * STREAM_FULL_PERCENT {
            full |= 1 << number;
        }
    }
    Ok(full)
}

const STREAM_NAME_IN_USE: u64 = 10_058;
const MINUTE_NANOSECONDS: u64 = 60_000_000_000;

/// Every stream there has to be, and its settings, where mailbox streams are made this large.
pub fn needed_streams(bytes: u64) -> Vec<(String, Value)> {
    let mailboxes = (0..STREAMS)
        .map(|number| (stream_name(number), mailbox_stream(stream_subjects(number), bytes)));
    mailboxes.chain([(DIRECTORY.to_owned(), directory_stream())]).collect()
}

/// The settings of a stream of mailboxes. Every one of them is checked at each start.
fn mailbox_stream(subjects: Vec<String>, bytes: u64) -> Value {
    json!({
        "subjects": subjects,
        "storage": "file",
        "num_replicas": REPLICAS,
        "retention": "limits",
        "discard": "new",
        "discard_new_per_subject": true,
        "max_msgs_per_subject": MAILBOX_FRAMES_MAX,
        "max_msgs": -1,
        "max_bytes": bytes,
        "max_age": 0,
        "max_msg_size": STREAM_RECORD_BYTES_MAX,
        "duplicate_window": MINUTE_NANOSECONDS,
        "allow_direct": true,
        "allow_msg_ttl": true,
        "allow_rollup_hdrs": true,
        "allow_atomic": true,
        "deny_delete": false,
        "deny_purge": false,
        "sealed": false,
        "republish": { "src": "m.>", "dest": "live.>" },
    })
}

fn directory_stream() -> Value {
    json!({
        "subjects": ["dir.*"],
        "storage": "file",
        "num_replicas": REPLICAS,
        "retention": "limits",
        "discard": "new",
        "max_bytes": DIRECTORY_BYTES,
        "max_age": 0,
        "allow_msg_ttl": true,
        "allow_rollup_hdrs": true,
        "deny_purge": false,
        "sealed": false,
        "republish": { "src": "dir.>", "dest": "live.dir.>" },
    })
}

/// Room for the records of a thousand realms.
const DIRECTORY_BYTES: u64 = 16 << 20;

/// What a stream must not have at all: by the first two others would get copies of every frame, by
/// the last its servers would acknowledge what they have not written.
const ABSENT: [&str; 3] = ["mirror", "sources", "persist_mode"];

/// What is not as it must be in a stream's settings, as its servers give them.
pub fn judge_stream(stream: &str, needed: &Value, found: &Value) -> Vec<Unsafe> {
    let mut all = Vec::new();
    let wrong = |setting: &str, found: &Value, needed: &str| Unsafe::Stream {
        stream: stream.to_owned(),
        setting: setting.to_owned(),
        found: found.to_string(),
        needed: needed.to_owned(),
    };
    let empty = Map::new();
    for (setting, needed) in needed.as_object().unwrap_or(&empty) {
        let found = &found[setting];
        let fits = match setting.as_str() {
            // The operator's choice, but never without a bound.
            "max_bytes" => found.as_i64().is_some_and(|bytes| bytes > 0),
            "num_replicas" => found.as_u64().is_some_and(|replicas| replicas >= REPLICAS),
            // Servers leave out what is not set.
            _ => found == needed || (found.is_null() && *needed == json!(false)),
        };
        if !fits {
            let needed = match setting.as_str() {
                "max_bytes" => "more than 0".to_owned(),
                _ => needed.to_string(),
            };
            all.push(wrong(setting, found, &needed));
        }
    }
    for setting in ABSENT {
        let found = &found[setting];
        if !(found.is_null() || found == &json!("default") || found == &json!("")) {
            all.push(wrong(setting, found, "absent"));
        }
    }
    all
}

/// What is not as it must be in a server's settings, as it says them (`VARZ`).
pub fn judge_server(said: &Value) -> Vec<Unsafe> {
    // In an envelope where it comes from the system account.
    let varz = said.get("data").unwrap_or(said);
    let name = |field: &str| varz[field].as_str().unwrap_or_default().to_owned();
    let server = name("server_name");
    let wrong = |setting, found: String, needed| Unsafe::Server {
        server: server.clone(),
        setting,
        found,
        needed,
    };
    let mut all = Vec::new();
    let version = name("version");
    if numbers(&version) < numbers(RECOMMENDED_VERSION) {
        all.push(wrong("version", version, RECOMMENDED_VERSION));
    }
    let jetstream = &varz["jetstream"]["config"];
    if jetstream.is_null() {
        all.push(wrong("jetstream", "off".to_owned(), "on"));
    } else if jetstream["sync_always"].as_bool() != Some(true) {
        let interval = jetstream["sync_interval"].as_u64().unwrap_or_default();
        let found = format!("{} s", interval / 1_000_000_000);
        all.push(wrong("sync_interval", found, "always"));
    }
    all
}

fn numbers(version: &str) -> Vec<u64> {
    let plain = version.split('-').next().unwrap_or_default();
    plain.split('.').map(|number| number.parse().unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_as_it_was_made_or_refused_by_name() {
        let made = mailbox_stream(stream_subjects(3), 1 << 30);
        assert_eq!(judge_stream("MB_1_3", &made, &made), []);
        let changes = [
            ("num_replicas", json!(1)),
            ("storage", json!("memory")),
            ("discard", json!("old")),
            ("discard_new_per_subject", json!(null)),
            ("max_msgs_per_subject", json!(1)),
            ("max_age", json!(1_000)),
            ("max_bytes", json!(-1)),
            ("duplicate_window", json!(1)),
            ("allow_direct", json!(false)),
            ("sealed", json!(true)),
            ("subjects", json!(["m.>"])),
            ("republish", json!({ "src": "m.>", "dest": "elsewhere.>" })),
            ("persist_mode", json!("async")),
            ("mirror", json!({ "name": "x" })),
            ("sources", json!([{ "name": "x" }])),
        ];
        for (setting, value) in changes {
            let mut found = made.clone();
            found[setting] = value;
            let wrong = judge_stream("MB_1_3", &made, &found);
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            let error = wrong[0].to_string();
            assert!(error.starts_with(&format!("stream MB_1_3: {setting} is ")), "{error}");
        }
        let mut more = made.clone();
        (more["num_replicas"], more["max_bytes"]) = (json!(5), json!(7));
        (more["deny_purge"], more["persist_mode"]) = (json!(null), json!("default"));
        assert_eq!(judge_stream("MB_1_3", &made, &more), []);
    }

    #[test]
    fn a_server_that_would_lose_frames_is_refused_by_name() {
        let server = |version: &str, jetstream: Value| {
            let varz = json!({ "server_name": "n1", "version": version, "jetstream": jetstream });
            let wrong = judge_server(&json!({ "data": varz }));
            wrong.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let always =
            json!({ "config": { "sync_always": true, "sync_interval": 120_000_000_000_u64 } });
        assert!(server("2.15.1", always.clone()).is_empty());
        assert!(server("2.16.0-beta", always.clone()).is_empty());
        let old = server("2.14.9", always);
        assert!(old[0].starts_with("server n1: version is 2.14.9 and must be 2.15.1"), "{old:?}");
        let lazy = json!({ "config": { "sync_interval": 120_000_000_000_u64 } });
        let lazy = server("2.14.9", lazy);
        assert_eq!(lazy.len(), 2, "every one is told: {lazy:?}");
        let late = "server n1: sync_interval is 120 s and must be always";
        assert!(lazy[1].starts_with(late), "{lazy:?}");
        assert!(server("2.15.1", json!({}))[0].contains("jetstream is off"));
    }
}
