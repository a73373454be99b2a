//! From the raw form to the checked one.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use valise_proto::limits::REALM_RECORD_LIST_MAX;
use valise_proto::{RealmId, RelayAddress};

use super::error::{ConfigError, Origin, nearest, suggestion};
use super::key::{Key, Layer, key};
use super::source::FileLayer;
use super::{
    AdminListen, Config, Limits, LogLevel, RateClass, StoreConfig, Surroundings, allow_list,
    cluster, defaults, migration, rate_class,
};
use crate::access::Access;
use crate::limits::RATE_MAX;
use crate::tls::CertificateFiles;

/// The smallest journal the store can work with, in MiB (fjall).
const JOURNAL_MIB_MIN: u64 = 64;

/// What each source says, in order of precedence.
pub(super) struct Sources {
    pub(super) flags: Layer,
    pub(super) environment: Layer,
    pub(super) file: FileLayer,
}

/// Checks everything.
pub(super) fn check(sources: &Sources, surroundings: &Surroundings) -> Result<Config, ConfigError> {
    let check = Check { sources, raw: sources.merged() };
    let (listen, listen_or_next_free) = check.listen()?;
    let (access, allow_list) = check.access()?;
    let certificate = check.certificate()?;
    let endpoints = check.endpoints()?;
    check.fit_for_the_public(&listen, certificate.is_some(), &endpoints)?;
    Ok(Config {
        listen,
        listen_or_next_free,
        endpoints,
        state_directory: state_directory(sources, surroundings)?,
        access,
        allow_list,
        certificate,
        admin: check.admin()?,
        limits: check.limits(surroundings)?,
        store: check.store()?,
        cluster: cluster::check(&check)?,
        migration: migration::check(&check)?,
        log: check.log()?,
        accept_missing_commits: 0,
    })
}

/// Where keys and frames are kept.
pub(super) fn state_directory(
    sources: &Sources,
    surroundings: &Surroundings,
) -> Result<PathBuf, ConfigError> {
    let check = Check { sources, raw: sources.merged() };
    match &check.raw.relay.state_directory {
        Some(text) => check.path("relay", "state_directory", text),
        None => defaults::state_directory(surroundings).ok_or(ConfigError::NoStateDirectory),
    }
}

impl Sources {
    fn merged(&self) -> Layer {
        self.flags.clone().over(self.environment.clone()).over(self.file.layer.clone())
    }

    fn origin(&self, key: &Key) -> Origin {
        if self.flags.has(key) {
            Origin::CommandLine
        } else if self.environment.has(key) {
            Origin::Variable(key.variable())
        } else {
            self.file.origin(key).unwrap_or(Origin::Default)
        }
    }
}

/// One call of [`check`].
pub(super) struct Check<'a> {
    sources: &'a Sources,
    pub(super) raw: Layer,
}

impl Check<'_> {
    fn listen(&self) -> Result<(Vec<SocketAddr>, bool), ConfigError> {
        let Some(texts) = &self.raw.relay.listen else {
            return Ok((vec![defaults::LISTEN], true));
        };
        let mut addresses: Vec<SocketAddr> = Vec::with_capacity(texts.len());
        for text in texts {
            let address = text
                .parse()
                .map_err(|_| self.wrong("relay", "listen", format!("`{text}`"), None))?;
            if addresses.contains(&address) {
                let message = format!("relay.listen names {address} twice; once is enough");
                return Err(self.conflict("relay", "listen", message));
            }
            addresses.push(address);
        }
        self.count("relay", "listen", addresses.len(), 1)?;
        Ok((addresses, false))
    }

    fn endpoints(&self) -> Result<Vec<String>, ConfigError> {
        let endpoints = self.raw.relay.endpoints.clone().unwrap_or_default();
        // What a client will have to parse: the realm is not at issue here.
        let realm = RealmId::new([0; RealmId::LEN]).to_text();
        for endpoint in &endpoints {
            if format!("valise://{endpoint}/{realm}").parse::<RelayAddress>().is_err() {
                return Err(self.wrong("relay", "endpoints", format!("`{endpoint}`"), None));
            }
        }
        self.count("relay", "endpoints", endpoints.len(), 0)?;
        Ok(endpoints)
    }

    /// A realm record, and with it everything that goes into one, has a limit.
    fn count(&self, section: &str, name: &str, got: usize, min: usize) -> Result<(), ConfigError> {
        if (min..=REALM_RECORD_LIST_MAX).contains(&got) {
            return Ok(());
        }
        let full = self.key(section, name).full_name();
        let message =
            format!("{full} has {got} entries; it takes {min} to {REALM_RECORD_LIST_MAX}");
        Err(self.conflict(section, name, message))
    }

    fn access(&self) -> Result<(Access, Option<PathBuf>), ConfigError> {
        const POLICIES: [&str; 3] = ["open", "codes", "allow-list"];
        let list = self.raw.relay.allow_list.as_ref();
        let policy = self.raw.relay.access.as_deref();
        match (policy.unwrap_or("open"), list) {
            ("allow-list", Some(text)) => {
                let path = self.path("relay", "allow_list", text)?;
                Ok((Access::AllowList(allow_list::read(&path)?), Some(path)))
            }
            ("allow-list", None) => {
                let message = "access = \"allow-list\" needs the list: add relay.allow_list, a file \
                               of owner keys in hex, one a line";
                Err(self.conflict("relay", "access", message.to_owned()))
            }
            ("open" | "codes", Some(_)) => {
                let message = "relay.allow_list has no effect unless access = \"allow-list\"; set \
                               that, or remove the list";
                Err(self.conflict("relay", "allow_list", message.to_owned()))
            }
            ("open", None) => Ok((Access::Open, None)),
            ("codes", None) => Ok((Access::Codes, None)),
            (other, _) => {
                Err(self.wrong("relay", "access", format!("`{other}`"), nearest(other, POLICIES)))
            }
        }
    }

    fn certificate(&self) -> Result<Option<CertificateFiles>, ConfigError> {
        match (&self.raw.tls.certificate, &self.raw.tls.key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some(CertificateFiles {
                certificate: self.path("tls", "certificate", certificate)?,
                key: self.path("tls", "key", key)?,
            })),
            (Some(_), None) => {
                let message = "tls.certificate needs its private key: add tls.key".to_owned();
                Err(self.conflict("tls", "certificate", message))
            }
            (None, Some(_)) => {
                let message = "tls.key needs its certificate: add tls.certificate".to_owned();
                Err(self.conflict("tls", "key", message))
            }
        }
    }

    /// Whoever opens a relay to others has to say for whom, as whom, and where it is found.
    fn fit_for_the_public(
        &self,
        listen: &[SocketAddr],
        has_certificate: bool,
        endpoints: &[String],
    ) -> Result<(), ConfigError> {
        let refuse = |message| Err(self.conflict("relay", "listen", message));
        let public = listen.iter().find(|address| !address.ip().to_canonical().is_loopback());
        let Some(address) = public else { return Ok(()) };
        if self.raw.relay.access.is_none() {
            return refuse(format!(
                "{address} can be reached from other machines, so say who may join: set \
                 relay.access (or --access) to \"open\", \"codes\" or \"allow-list\""
            ));
        }
        if !has_certificate {
            return refuse(format!(
                "{address} can be reached from other machines, and the development certificate is \
                 for this one only: set tls.certificate and tls.key"
            ));
        }
        let wildcard = listen.iter().find(|address| address.ip().is_unspecified());
        if let Some(address) = wildcard
            && endpoints.is_empty()
        {
            return refuse(format!(
                "nobody can dial {address}: say what clients dial in relay.endpoints, such as \
                 [\"relay.example:{}\"]",
                address.port()
            ));
        }
        Ok(())
    }

    fn admin(&self) -> Result<AdminListen, ConfigError> {
        match self.raw.admin.listen.as_deref() {
            None => Ok(AdminListen::On { address: defaults::ADMIN, or_next_free: true }),
            Some("off") => Ok(AdminListen::Off),
            Some(text) => match text.parse() {
                Ok(address) => Ok(AdminListen::On { address, or_next_free: false }),
                Err(_) => Err(self.wrong("admin", "listen", format!("`{text}`"), None)),
            },
        }
    }

    fn limits(&self, surroundings: &Surroundings) -> Result<Limits, ConfigError> {
        const RATE: RangeInclusive<u64> = 1..=RATE_MAX as u64;
        let raw = &self.raw.limits;
        let default = defaults::limits(surroundings);
        let rate = |name, value, default| self.number("limits", name, value, default, RATE);
        let limits = Limits {
            connections_max: self.number(
                "limits",
                "connections_max",
                raw.connections_max,
                default.connections_max,
                1..=4_000_000,
            )?,
            handshakes_max: self.number(
                "limits",
                "handshakes_max",
                raw.handshakes_max,
                default.handshakes_max,
                1..=1_000_000,
            )?,
            connects_per_second_per_prefix: rate(
                "connects_per_second_per_prefix",
                raw.connects_per_second_per_prefix,
                default.connects_per_second_per_prefix,
            )?,
            connects_burst_per_prefix: rate(
                "connects_burst_per_prefix",
                raw.connects_burst_per_prefix,
                default.connects_burst_per_prefix,
            )?,
            packets_per_second: rate(
                "packets_per_second",
                raw.packets_per_second,
                default.packets_per_second,
            )?,
            packets_burst: rate("packets_burst", raw.packets_burst, default.packets_burst)?,
            posts_per_second: rate(
                "posts_per_second",
                raw.posts_per_second,
                default.posts_per_second,
            )?,
            posts_burst: rate("posts_burst", raw.posts_burst, default.posts_burst)?,
            rate_classes: self.rate_classes()?,
            joins_per_minute_per_prefix: rate(
                "joins_per_minute_per_prefix",
                raw.joins_per_minute_per_prefix,
                default.joins_per_minute_per_prefix,
            )?,
            slot_mib_per_day_per_mailbox: self.number(
                "limits",
                "slot_mib_per_day_per_mailbox",
                raw.slot_mib_per_day_per_mailbox,
                default.slot_mib_per_day_per_mailbox,
                1..=1_024,
            )?,
            takes_per_hour_per_token: rate(
                "takes_per_hour_per_token",
                raw.takes_per_hour_per_token,
                default.takes_per_hour_per_token,
            )?,
            ring_bytes_per_mailbox: self.number(
                "limits",
                "ring_bytes_per_mailbox",
                raw.ring_bytes_per_mailbox,
                default.ring_bytes_per_mailbox,
                0..=valise_proto::limits::MAILBOX_BYTES_MAX,
            )?,
            drain_seconds: self.number(
                "limits",
                "drain_seconds",
                raw.drain_seconds,
                default.drain_seconds,
                0..=3_600,
            )?,
            reconnect_spread_seconds: self.number(
                "limits",
                "reconnect_spread_seconds",
                raw.reconnect_spread_seconds,
                default.reconnect_spread_seconds,
                0..=3_600,
            )?,
        };
        self.descriptors_for(limits.connections_max, surroundings)?;
        Ok(limits)
    }

    /// A capability's owner chooses its class, so the least that anybody may have is the operator's
    /// word: both stricter and laxer classes than class 0 are taken as they are.
    fn rate_classes(&self) -> Result<Vec<RateClass>, ConfigError> {
        let mut classes: Vec<RateClass> = Vec::new();
        for text in self.raw.limits.rate_classes.iter().flatten() {
            let class = rate_class::parse(text)
                .ok_or_else(|| self.wrong("limits", "rate_classes", format!("`{text}`"), None))?;
            if classes.iter().any(|earlier| earlier.class == class.class) {
                let message = format!("limits.rate_classes has class {} twice", class.class);
                return Err(self.conflict("limits", "rate_classes", message));
            }
            classes.push(class);
        }
        Ok(classes)
    }

    /// More connections than descriptors would end in failing accepts, hours later.
    fn descriptors_for(
        &self,
        connections_max: usize,
        surroundings: &Surroundings,
    ) -> Result<(), ConfigError> {
        let possible = defaults::connections_possible(surroundings);
        if connections_max as u64 <= possible {
            return Ok(());
        }
        let message = format!(
            "limits.connections_max is {connections_max}, but the system lets this process have \
             {} files and sockets, which is enough for {possible} connections; raise that limit \
             (LimitNOFILE= in the service, ulimit -Hn in a shell) or lower this one",
            surroundings.descriptors
        );
        Err(self.conflict("limits", "connections_max", message))
    }

    fn store(&self) -> Result<StoreConfig, ConfigError> {
        const MIB_MAX: u64 = 1024 * 1024;
        let (raw, default) = (&self.raw.store, defaults::STORE);
        let number =
            |name, value, default, min| self.number("store", name, value, default, min..=MIB_MAX);
        let chosen =
            |name, value: Option<u64>, min| value.map(|_| number(name, value, 0, min)).transpose();
        let store = StoreConfig {
            cache_mib: number("cache_mib", raw.cache_mib, default.cache_mib, 1)?,
            journal_mib: number(
                "journal_mib",
                raw.journal_mib,
                default.journal_mib,
                JOURNAL_MIB_MIN,
            )?,
            budget_mib: chosen("budget_mib", raw.budget_mib, 1)?,
            free_min_mib: chosen("free_min_mib", raw.free_min_mib, 0)?,
            ballast_mib: number("ballast_mib", raw.ballast_mib, default.ballast_mib, 0)?,
        };
        if store.budget_mib.is_some_and(|budget| budget < 2 * store.journal_mib) {
            let message = format!(
                "store.budget_mib is less than twice store.journal_mib ({}): the journals alone \
                 would take most of it",
                store.journal_mib
            );
            return Err(self.conflict("store", "budget_mib", message));
        }
        Ok(store)
    }

    fn log(&self) -> Result<LogLevel, ConfigError> {
        let Some(text) = self.raw.log.level.as_deref() else { return Ok(defaults::LOG_LEVEL) };
        LogLevel::ALL.into_iter().find(|level| level.name() == text).ok_or_else(|| {
            let meant = nearest(text, LogLevel::ALL.map(LogLevel::name));
            self.wrong("log", "level", format!("`{text}`"), meant)
        })
    }

    /// Relative paths are relative to where the relay was started.
    pub(super) fn path(
        &self,
        section: &str,
        name: &str,
        text: &str,
    ) -> Result<PathBuf, ConfigError> {
        std::path::absolute(text).map_err(|_| self.wrong(section, name, format!("`{text}`"), None))
    }

    pub(super) fn number<T: TryFrom<u64>>(
        &self,
        section: &str,
        name: &str,
        value: Option<u64>,
        default: T,
        range: RangeInclusive<u64>,
    ) -> Result<T, ConfigError> {
        let Some(value) = value else { return Ok(default) };
        let checked = Some(value).filter(|value| range.contains(value));
        checked.and_then(|value| T::try_from(value).ok()).ok_or_else(|| {
            let key = self.key(section, name);
            ConfigError::Value {
                origin: self.sources.origin(key),
                key,
                value: value.to_string(),
                hint: format!(" ({} to {})", range.start(), range.end()),
            }
        })
    }

    pub(super) fn wrong(
        &self,
        section: &str,
        name: &str,
        value: String,
        meant: Option<&str>,
    ) -> ConfigError {
        let key = self.key(section, name);
        ConfigError::Value { origin: self.sources.origin(key), key, value, hint: suggestion(meant) }
    }

    pub(super) fn conflict(&self, section: &str, name: &str, message: String) -> ConfigError {
        ConfigError::Conflict { origin: self.sources.origin(self.key(section, name)), message }
    }

    fn key(&self, section: &str, name: &str) -> &'static Key {
        key(section, name).expect("every key that is checked is in the table")
    }
}
