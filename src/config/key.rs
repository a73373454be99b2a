//! Every key of the configuration, in the order in which it is documented and printed. The table
//! makes the raw form too, so that a key cannot be in one and not in the other.

use serde::Deserialize;

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// Its table in the file.
    pub section: &'static str,
    /// Its name in that table.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// When a changed value takes effect.
    pub change: Change,
    /// What to write there, with an example.
    pub takes: &'static str,
}

/// The three kinds of values there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// An array of strings; in an environment variable, separated by commas.
    List,
    /// A whole number, not negative.
    Number,
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// On SIGHUP.
    Reload,
    /// At the next start.
    Restart,
}

impl Key {
    /// `section.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("VALISE_{}_{}", self.section, self.name).to_uppercase()
    }
}

/// The key of this name.
pub(super) fn key(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

macro_rules! value_of {
    (Text) => { String };
    (List) => { Vec<String> };
    (Number) => { u64 };
}

macro_rules! sections {
    ($(
        $(#[$doc:meta])*
        $section:ident: $Section:ident {
            $($name:ident: $kind:ident, $change:ident, $takes:literal;)*
        }
    )*) => {
        /// Every key there is.
        pub const KEYS: &[Key] = &[$($(Key {
            section: stringify!($section),
            name: stringify!($name),
            kind: Kind::$kind,
            change: Change::$change,
            takes: $takes,
        },)*)*];

        /// What one source (flags, environment, file) says; the raw form.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Layer {
            $($(#[$doc])* pub $section: $Section,)*
        }

        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $Section {
                $(#[doc = $takes] pub $name: Option<value_of!($kind)>,)*
            }
        )*

        impl Layer {
            /// This source where it says something, else the other.
            pub(super) fn over(self, lower: Self) -> Self {
                Self {
                    $($section: $Section {
                        $($name: self.$section.$name.or(lower.$section.$name),)*
                    },)*
                }
            }

            /// Whether it says something about this key.
            pub(super) fn has(&self, key: &Key) -> bool {
                match (key.section, key.name) {
                    $($((stringify!($section), stringify!($name)) => {
                        self.$section.$name.is_some()
                    })*)*
                    _ => false,
                }
            }
        }
    };
}

sections! {
    /// Where the relay is, what it keeps, and who may join.
    relay: RelayLayer {
        listen: List, Restart, r#"a list of addresses, such as ["127.0.0.1:7443"]"#;
        endpoints: List, Restart, r#"a list of what clients dial, such as ["relay.example:443"]"#;
        state_directory: Text, Restart, r#"a directory, such as "/var/lib/valise""#;
        access: Text, Reload, r#""open", "codes" or "allow-list""#;
        allow_list: Text, Reload, "a file of owner keys in hex, one a line";
    }
    /// The certificate.
    tls: TlsLayer {
        certificate: Text, Restart, "a PEM file: the certificate chain, leaf first";
        key: Text, Restart, "a PEM file: the leaf's private key";
    }
    /// Metrics and health.
    admin: AdminLayer {
        listen: Text, Restart, r#"an address, such as "127.0.0.1:7480", or "off""#;
    }
    /// What one peer, and all of them together, may take.
    limits: LimitsLayer {
        connections_max: Number, Restart, "a number of connections";
        handshakes_max: Number, Restart, "a number of TLS handshakes at one time";
        connects_per_second_per_prefix: Number, Reload,
            "new connections a second from one IPv4 address or IPv6 /56";
        connects_burst_per_prefix: Number, Reload, "new connections at once from there";
        packets_per_second: Number, Reload, "packets a second on one connection";
        packets_burst: Number, Reload, "packets at once on one connection";
        posts_per_second: Number, Reload, "posts and signals a second with one capability";
        posts_burst: Number, Reload, "posts and signals at once with one capability";
        rate_classes: List, Reload,
            r#"a list of classes with posts a second and at once, such as ["1=5/20"]"#;
        joins_per_minute_per_prefix: Number, Reload,
            "joins a minute from one IPv4 address or IPv6 /56";
        slot_mib_per_day_per_mailbox: Number, Reload,
            "MiB put into slots in 24 hours on the account of one mailbox";
        takes_per_hour_per_token: Number, Reload,
            "bundle items taken in an hour with one take token";
        ring_bytes_per_mailbox: Number, Reload, "bytes of frames kept in memory for a live mailbox";
        drain_seconds: Number, Reload, "seconds that a shutdown may take";
        reconnect_spread_seconds: Number, Reload,
            "seconds over which clients come back after a restart";
    }
    /// The store on disk.
    store: StoreLayer {
        cache_mib: Number, Restart, "MiB of memory for reading";
        journal_mib: Number, Restart, "MiB of journals on disk, 64 at least";
        budget_mib: Number, Restart, "MiB that the state directory may take";
        free_min_mib: Number, Restart, "MiB of the disk that posts leave free";
        ballast_mib: Number, Restart, "MiB of ballast for a full disk, 0 for none";
    }
    /// The data centre of which the relay is a node.
    cluster: ClusterLayer {
        servers: List, Restart, r#"a list of NATS servers, such as ["nats://10.0.0.1:4222"]"#;
        ca: Text, Restart, "a PEM file: who signs the servers' certificates";
        certificate: Text, Restart, "a PEM file: the relay's certificate for the servers";
        key: Text, Restart, "a PEM file: that certificate's private key";
        stream_mib: Number, Restart, "MiB that each of the 32 streams may hold";
    }
    /// The port for the move into a data centre.
    migration: MigrationLayer {
        listen: Text, Restart, r#"an address, such as "127.0.0.1:7444""#;
        importer: Text, Restart, "the importer's pin, as `valisectl migrate key` prints it";
    }
    /// What is logged.
    log: LogLayer {
        level: Text, Reload, r#""off", "error", "warn", "info", "debug" or "trace""#;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_unique() {
        let mut names: Vec<_> = KEYS.iter().map(Key::variable).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
        let listen = key("relay", "listen").unwrap();
        assert_eq!(listen.full_name(), "relay.listen");
        assert_eq!(listen.variable(), "VALISE_RELAY_LISTEN");
        assert_eq!(key("relay", "level"), None);
    }

    #[test]
    fn the_upper_layer_wins_key_by_key() {
        let text = |text| toml::from_str::<Layer>(text).unwrap();
        let upper = text("[limits]\npackets_burst = 1\n");
        let lower = text("[limits]\npackets_burst = 2\nposts_burst = 3\n[log]\nlevel = 'warn'\n");
        let both = upper.over(lower);
        assert_eq!(both.limits.packets_burst, Some(1));
        assert_eq!(both.limits.posts_burst, Some(3));
        assert_eq!(both.log.level.as_deref(), Some("warn"));
        assert!(both.has(key("log", "level").unwrap()));
        assert!(!both.has(key("store", "cache_mib").unwrap()));
    }
}
