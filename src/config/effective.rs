//! The whole configuration in force, as a file that gives the same again, and the difference
//! between two of them.

use std::fmt;

use toml::Value;

use super::key::{Change, KEYS, Key};
use super::{AdminListen, Config};
use crate::access::Access;

/// A key whose new value waits for the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedsRestart(pub &'static Key);

impl fmt::Display for NeedsRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} needs a restart; the old value stays in force", self.0.full_name())
    }
}

/// One key's value in force.
#[derive(Debug, PartialEq)]
enum InForce {
    /// A value, whoever set it.
    Value(Value),
    /// No value; what that means.
    Unset(String),
}

impl Config {
    /// The configuration in force, in TOML: every key, those without a value as comments. An allow
    /// list is named, not shown.
    pub fn effective_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            if key.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                section = key.section;
                text.push_str(&format!("{gap}[{section}]\n"));
            }
            text.push_str(&match self.in_force(key) {
                InForce::Value(value) => format!("{} = {value}\n", key.name),
                InForce::Unset(meaning) => format!("# {}: {meaning}\n", key.name),
            });
        }
        text
    }

    /// This configuration with what a reload may change taken from a newer one, and what has to
    /// wait for a restart.
    pub fn reloaded(&self, newer: &Self) -> (Self, Vec<NeedsRestart>) {
        let limits = super::Limits {
            connections_max: self.limits.connections_max,
            handshakes_max: self.limits.handshakes_max,
            ..newer.limits.clone()
        };
        let reloaded = Self {
            access: newer.access.clone(),
            allow_list: newer.allow_list.clone(),
            limits,
            log: newer.log,
            ..self.clone()
        };
        let waits = |key: &&Key| reloaded.in_force(key) != newer.in_force(key);
        let waiting = KEYS.iter().filter(waits).map(NeedsRestart).collect();
        (reloaded, waiting)
    }

    fn in_force(&self, key: &Key) -> InForce {
        let limits = &self.limits;
        match (key.section, key.name) {
            ("relay", "listen") if self.listen_or_next_free => {
                InForce::Unset(format!("{}, or the next free port", self.listen[0]))
            }
            ("relay", "listen") => list(self.listen.iter().map(ToString::to_string)),
            ("relay", "endpoints") if self.endpoints.is_empty() => {
                InForce::Unset("what is listened on".to_owned())
            }
            ("relay", "endpoints") => list(self.endpoints.iter().cloned()),
            ("relay", "state_directory") => path(&self.state_directory),
            ("relay", "access") => match self.access {
                Access::Open => text("open"),
                Access::Codes => text("codes"),
                Access::AllowList(_) => text("allow-list"),
            },
            ("relay", "allow_list") => {
                self.allow_list.as_deref().map_or_else(|| unset("none"), path)
            }
            ("tls", name) => match (&self.certificate, name) {
                (Some(files), "certificate") => path(&files.certificate),
                (Some(files), _) => path(&files.key),
                (None, _) => unset("of the development certificate, made at start"),
            },
            ("admin", _) => match self.admin {
                AdminListen::Off => text("off"),
                AdminListen::On { address, or_next_free: true } => {
                    InForce::Unset(format!("{address}, or the next free port"))
                }
                AdminListen::On { address, or_next_free: false } => text(&address.to_string()),
            },
            ("limits", "connections_max") => number(limits.connections_max as u64),
            ("limits", "handshakes_max") => number(limits.handshakes_max as u64),
            ("limits", "connects_per_second_per_prefix") => {
                number(limits.connects_per_second_per_prefix.into())
            }
            ("limits", "connects_burst_per_prefix") => {
                number(limits.connects_burst_per_prefix.into())
            }
            ("limits", "packets_per_second") => number(limits.packets_per_second.into()),
            ("limits", "packets_burst") => number(limits.packets_burst.into()),
            ("limits", "posts_per_second") => number(limits.posts_per_second.into()),
            ("limits", "posts_burst") => number(limits.posts_burst.into()),
            ("limits", "rate_classes") => list(limits.rate_classes.iter().map(ToString::to_string)),
            ("limits", "joins_per_minute_per_prefix") => {
                number(limits.joins_per_minute_per_prefix.into())
            }
            ("limits", "slot_mib_per_day_per_mailbox") => {
                number(limits.slot_mib_per_day_per_mailbox.into())
            }
            ("limits", "takes_per_hour_per_token") => {
                number(limits.takes_per_hour_per_token.into())
            }
            ("limits", "ring_bytes_per_mailbox") => number(limits.ring_bytes_per_mailbox as u64),
            ("limits", "drain_seconds") => number(limits.drain_seconds.into()),
            ("limits", "reconnect_spread_seconds") => {
                number(limits.reconnect_spread_seconds.into())
            }
            ("store", "cache_mib") => number(self.store.cache_mib),
            ("store", "journal_mib") => number(self.store.journal_mib),
            ("store", "budget_mib") => {
                self.store.budget_mib.map_or_else(|| unset("the whole disk"), number)
            }
            ("store", "free_min_mib") => self
                .store
                .free_min_mib
                .map_or_else(|| unset("5 % of the disk, 1024 at most"), number),
            ("store", "ballast_mib") => number(self.store.ballast_mib),
            ("cluster", name) => self.cluster_in_force(name),
            ("migration", name) => match (&self.migration, name) {
                (None, _) => unset("none: no port for an importer"),
                (Some(migration), "listen") => text(&migration.listen.to_string()),
                (Some(migration), _) => text(&migration.importer.to_string()),
            },
            ("log", _) => text(self.log.name()),
            (section, name) => unreachable!("{section}.{name} has no value; a test walks the keys"),
        }
    }
}

impl Config {
    fn cluster_in_force(&self, name: &str) -> InForce {
        let Some(cluster) = &self.cluster else { return unset("none: a relay by itself") };
        match (name, &cluster.bus.tls) {
            ("servers", _) => list(cluster.bus.servers.iter().cloned()),
            ("stream_mib", _) => number(cluster.stream_mib),
            (_, None) => unset("no TLS: the servers are on this machine"),
            ("ca", Some(tls)) => path(&tls.ca),
            ("certificate", Some(tls)) => path(&tls.certificate),
            (_, Some(tls)) => path(&tls.key),
        }
    }
}

fn text(value: &str) -> InForce {
    InForce::Value(Value::String(value.to_owned()))
}

fn path(value: &std::path::Path) -> InForce {
    text(&value.display().to_string())
}

fn list(values: impl Iterator<Item = String>) -> InForce {
    InForce::Value(Value::Array(values.map(Value::String).collect()))
}

fn number(value: u64) -> InForce {
    InForce::Value(Value::Integer(i64::try_from(value).expect("the limits are far below")))
}

fn unset(meaning: &str) -> InForce {
    InForce::Unset(meaning.to_owned())
}

impl Key {
    /// Whether SIGHUP puts a new value into force.
    pub fn is_reloadable(&self) -> bool {
        self.change == Change::Reload
    }
}
