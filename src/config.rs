//! What an operator can set, checked.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::access::Access;
use crate::tls::CertificateFiles;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Where the admin side listens.
#[derive(Debug, Clone, Copy)]
pub enum AdminListen {
    /// Nowhere.
    Off,
    /// Here.
    On {
        /// The address.
        address: SocketAddr,
        /// A taken port is no error.
        or_next_free: bool,
    },
}

/// The checked configuration.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Config {
    pub state_directory: PathBuf,
    pub listen: Vec<SocketAddr>,
    pub listen_or_next_free: bool,
    pub certificate: Option<CertificateFiles>,
    pub access: Access,
    pub admin: AdminListen,
    pub limits: Limits,
    pub store: Store,
    pub accept_missing_commits: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Limits {
    pub connections_max: usize,
    pub handshakes_max: usize,
    pub connects_per_second_per_prefix: u32,
    pub connects_burst_per_prefix: u32,
    pub packets_per_second: u32,
    pub packets_burst: u32,
    pub posts_per_second: u32,
    pub posts_burst: u32,
    pub joins_per_minute_per_prefix: u32,
    pub ring_bytes_per_mailbox: usize,
    pub drain_seconds: u32,
    pub reconnect_spread_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16384,
            handshakes_max: 64,
            connects_per_second_per_prefix: 20,
            connects_burst_per_prefix: 200,
            packets_per_second: 500,
            packets_burst: 2000,
            posts_per_second: 20,
            posts_burst: 200,
            joins_per_minute_per_prefix: 60,
            ring_bytes_per_mailbox: 262_144,
            drain_seconds: 10,
            reconnect_spread_seconds: 5,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Store {
    pub cache_mib: u64,
    pub journal_mib: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self { cache_mib: 32, journal_mib: 256 }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Raw {
    relay: RawRelay,
    admin: RawAdmin,
    limits: Limits,
    store: Store,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawRelay {
    listen: Vec<SocketAddr>,
    access: Option<String>,
    allow_list: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawAdmin {
    listen: Option<String>,
}

impl Config {
    /// Interim.
    pub fn read(text: &str, state_directory: PathBuf, listen: Vec<SocketAddr>) -> Self {
        let raw: Raw = toml::from_str(text).expect("valid TOML");
        let mut listen = if listen.is_empty() { raw.relay.listen } else { listen };
        let listen_or_next_free = listen.is_empty();
        if listen.is_empty() {
            listen.push(([127, 0, 0, 1], 7443).into());
        }
        Self {
            state_directory,
            listen,
            listen_or_next_free,
            certificate: None,
            access: match raw.relay.access.as_deref() {
                Some("codes") => Access::Codes,
                Some("allow-list") => {
                    let text = std::fs::read_to_string(raw.relay.allow_list.expect("list"));
                    let keys = text.expect("list");
                    let keys = keys.lines().filter(|line| !line.starts_with('#')).map(|line| {
                        let bytes = data_encoding::HEXLOWER.decode(line.as_bytes()).expect("hex");
                        valise_proto::OwnerKey::try_from(&bytes[..]).expect("key")
                    });
                    Access::AllowList(keys.collect())
                }
                _ => Access::Open,
            },
            admin: match raw.admin.listen.as_deref() {
                Some("off") => AdminListen::Off,
                Some(at) => {
                    AdminListen::On { address: at.parse().expect("address"), or_next_free: false }
                }
                None => {
                    AdminListen::On { address: ([127, 0, 0, 1], 7480).into(), or_next_free: true }
                }
            },
            limits: raw.limits,
            store: raw.store,
            accept_missing_commits: 0,
        }
    }

    /// Interim.
    pub fn endpoints_for(&self, addresses: &[SocketAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }
}
