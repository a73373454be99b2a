//! The data centre's part of the configuration.

use std::net::IpAddr;

use super::check::Check;
use super::error::ConfigError;
use super::{ClusterConfig, defaults};
use crate::store::jetstream::{BusOptions, BusTls};

/// The smallest stream that holds one full mailbox.
const STREAM_MIB_MIN: u64 = 64;
const STREAM_MIB_MAX: u64 = 16 * 1024 * 1024;

/// Checks the section.
pub(super) fn check(check: &Check<'_>) -> Result<Option<ClusterConfig>, ConfigError> {
    let raw = &check.raw.cluster;
    let set = [
        ("ca", raw.ca.is_some()),
        ("certificate", raw.certificate.is_some()),
        ("key", raw.key.is_some()),
        ("stream_mib", raw.stream_mib.is_some()),
    ];
    let Some(servers) = &raw.servers else {
        let Some((name, _)) = set.into_iter().find(|(_, set)| *set) else { return Ok(None) };
        let message = format!("cluster.{name} has no effect without cluster.servers");
        return Err(check.conflict("cluster", name, message));
    };
    let tls = tls(check)?;
    for server in servers {
        let local = host(server)
            .ok_or_else(|| check.wrong("cluster", "servers", format!("`{server}`"), None))?;
        if tls.is_none() && !local {
            let message = format!(
                "{server} is on another machine, so cluster.ca, cluster.certificate and cluster.key \
                 have to say by what the servers and this relay know each other"
            );
            return Err(check.conflict("cluster", "servers", message));
        }
    }
    if servers.is_empty() {
        let message = "cluster.servers names no server".to_owned();
        return Err(check.conflict("cluster", "servers", message));
    }
    let range = STREAM_MIB_MIN..=STREAM_MIB_MAX;
    let stream_mib =
        check.number("cluster", "stream_mib", raw.stream_mib, defaults::STREAM_MIB, range)?;
    let bus = BusOptions { servers: servers.clone(), tls };
    Ok(Some(ClusterConfig { bus, stream_mib }))
}

fn tls(check: &Check<'_>) -> Result<Option<BusTls>, ConfigError> {
    let raw = &check.raw.cluster;
    match (&raw.ca, &raw.certificate, &raw.key) {
        (None, None, None) => Ok(None),
        (Some(ca), Some(certificate), Some(key)) => Ok(Some(BusTls {
            ca: check.path("cluster", "ca", ca)?,
            certificate: check.path("cluster", "certificate", certificate)?,
            key: check.path("cluster", "key", key)?,
        })),
        (ca, certificate, _) => {
            let name = if ca.is_some() {
                "ca"
            } else if certificate.is_some() {
                "certificate"
            } else {
                "key"
            };
            let message = "cluster.ca, cluster.certificate and cluster.key go together: mutual TLS \
                           needs all three";
            Err(check.conflict("cluster", name, message.to_owned()))
        }
    }
}

/// Whether the server is on this machine; none where it is no `nats://host:port`.
fn host(server: &str) -> Option<bool> {
    let rest = server.strip_prefix("nats://").or_else(|| server.strip_prefix("tls://"))?;
    let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains(['/', ' ', '?', '#']) {
        return None;
    }
    let ip = host.parse::<IpAddr>().ok();
    Some(host == "localhost" || ip.is_some_and(|ip| ip.to_canonical().is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_apart() {
        let cases = [
            ("nats://127.0.0.1:4222", Some(true)),
            ("nats://[::1]:4222", Some(true)),
            ("nats://user:word@localhost:1", Some(true)),
            ("nats://10.0.0.1:4222", Some(false)),
            ("tls://nats.example:4222", Some(false)),
            ("127.0.0.1:4222", None),
            ("nats://127.0.0.1", None),
            ("nats://:4222", None),
            ("nats://host/path:1", None),
        ];
        for (server, expected) in cases {
            assert_eq!(host(server), expected, "{server}");
        }
    }
}
