//! Every default, on one screen. Rates are what one busy person's devices need, times ten: they
//! stop machines, not people.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::{Limits, LogLevel, StoreConfig, Surroundings};

/// Where the relay listens; the next free port if this one is taken.
pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);

/// Where the admin side listens; likewise.
pub(super) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7480);

pub(super) const LOG_LEVEL: LogLevel = LogLevel::Info;

/// Connections, if the system lets us have so many.
const CONNECTIONS_MAX: u64 = 16_384;

/// Descriptors that are not for connections, at least: 64 for the admin side, the rest for
/// listeners, journals and the runtime.
const DESCRIPTORS_RESERVED: u64 = 128;

/// The store keeps up to 900 tables open (fjall). Where descriptors are few, a quarter of them is
/// set aside for it: such a host has no store of that size.
const DESCRIPTORS_OF_STORE_MAX: u64 = 900;

pub(super) fn limits(surroundings: &Surroundings) -> Limits {
    Limits {
        connections_max: usize::try_from(connections_possible(surroundings).min(CONNECTIONS_MAX))
            .expect("16,384 is a usize"),
        // Half-made handshakes hold their place for up to 10 s: room for 400 a second of them.
        handshakes_max: 4_096,
        connects_per_second_per_prefix: 20, // an office behind one address
        connects_burst_per_prefix: 400,     // ... that comes back after a restart
        packets_per_second: 500,
        packets_burst: 2_000,
        posts_per_second: 50,
        posts_burst: 500,
        rate_classes: Vec::new(),
        joins_per_minute_per_prefix: 30,
        slot_mib_per_day_per_mailbox: 16, // four of the largest group changes
        takes_per_hour_per_token: 60,
        ring_bytes_per_mailbox: 256 * 1024, // twice an attachment's window
        drain_seconds: 10,
        reconnect_spread_seconds: 5,
    }
}

pub(super) const STORE: StoreConfig = StoreConfig {
    cache_mib: 32,
    journal_mib: 256,
    budget_mib: None,
    free_min_mib: None, // 5 % of the disk, 1 GiB at most
    ballast_mib: 64,    // the largest table and what it is merged with
};

/// 32 streams of this make 32 GiB on each server.
pub(super) const STREAM_MIB: u64 = 1_024;

/// `$XDG_STATE_HOME/valise`, else `~/.local/state/valise`. An empty or relative variable counts as
/// unset (XDG Base Directory Specification 0.8).
pub(super) fn state_directory(surroundings: &Surroundings) -> Option<PathBuf> {
    let absolute = |name| {
        let path = PathBuf::from(surroundings.variable(name)?);
        path.is_absolute().then_some(path)
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("valise"))
}

/// How many connections the descriptors are good for.
pub(super) fn connections_possible(surroundings: &Surroundings) -> u64 {
    let descriptors = surroundings.descriptors;
    let store = (descriptors / 4).min(DESCRIPTORS_OF_STORE_MAX);
    descriptors.saturating_sub(store + DESCRIPTORS_RESERVED).max(1)
}
