//! Which endpoints are reachable from everywhere, and which only from where we are. An address that
//! someone else has given us must not make this machine knock at doors of its own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a host as it stands in a relay's address may be a public one: a name with a dot, or an
/// IP address that is routed. A name can still resolve to a private address; see
/// [`Dial::public_only`](crate::Dial::public_only).
pub fn is_public_host(host: &str) -> bool {
    if let Ok(address) = host.parse() {
        return is_public_address(address);
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // `localhost`, and whatever the local resolver completes.
    let Some((_, last)) = host.rsplit_once('.') else { return false };
    // Resolvers read 127.1 and 0x7f.1 as addresses.
    let is_number = last.starts_with(|c: char| c.is_ascii_digit());
    // RFC 6761, 6762, 8375, 9476 (alt), and what ICANN keeps for private use.
    let is_local = matches!(last, "localhost" | "local" | "internal" | "alt" | "lan")
        || host == "home.arpa"
        || host.ends_with(".home.arpa");
    !is_number && !is_local
}

/// Whether an IP address is routed on the public internet, by the registries of special-purpose
/// addresses (RFC 6890). What embeds an IPv4 address is as public as that.
pub fn is_public_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    match address.octets() {
        // This network, private, loopback, link-local; multicast and reserved.
        [0 | 10 | 127, ..] | [169, 254, ..] | [192, 168, ..] | [224..=255, ..] => false,
        // Private; shared by the customers of one carrier.
        [172, 16..=31, ..] | [100, 64..=127, ..] => false,
        // Protocol assignments, examples and benchmarks.
        [192, 0, 0 | 2, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => false,
        _ => true,
    }
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let v4 = |high: u16, low: u16| is_public_v4(((u32::from(high) << 16) | u32::from(low)).into());
    match address.segments() {
        // Unspecified, loopback, and the IPv4-compatible ones nobody routes.
        [0, 0, 0, 0, 0, 0, _, _] => false,
        // IPv4-mapped, translated (RFC 6052), and 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        // Protocol assignments (Teredo among them) and examples.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Global unicast is 2000::/3; the rest is local, multicast or not assigned.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_the_internet_are_public() {
        for host in [
            "relay.example.org",
            "RELAY.example.",
            "9.9.9.9",
            "100.63.1.1",
            "172.32.0.1",
            "2620:fe::fe",
            "::ffff:9.9.9.9",
            "64:ff9b::909:909",
            "2002:909:909::1",
            "a.b-c.io",
        ] {
            assert!(is_public_host(host), "{host}");
        }
    }

    #[test]
    fn hosts_of_ones_own_network_are_not() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "printer.local",
            "nas",
            "x.internal",
            "box.home.arpa",
            "router.lan",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f.0x1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "::7f00:1",
            "",
        ] {
            assert!(!is_public_host(host), "{host}");
        }
    }
}
