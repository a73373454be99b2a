//! The source of a connection for rates: its address prefix under a random key that changes every
//! hour and lives in memory only, so that not even a core of the process lists addresses for long.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::rate::{Buckets, Rate};

/// A keyed hash of an IPv4 address or an IPv6 /56. Comparable within an hour, meaningless outside
/// the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix(u64);

/// Names prefixes under this hour's key, and counts what each does.
pub struct Prefixes {
    hour: Mutex<Hour>,
}

struct Hour {
    began: Instant,
    key: RandomState,
    connects: Buckets<Prefix>,
    joins: Buckets<Prefix>,
}

const HOUR: Duration = Duration::from_secs(3_600);

impl Prefixes {
    /// Begins with a fresh key.
    pub fn new(now: Instant) -> Self {
        Self { hour: Mutex::new(Hour::begin(now)) }
    }

    /// Takes one connection from the budget of the address's prefix.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take_connect(
        &self,
        address: IpAddr,
        rate: &Rate,
        now: Instant,
    ) -> Result<Prefix, Duration> {
        let mut hour = self.hour.lock().expect("no one panics while counting");
        if now.duration_since(hour.began) >= HOUR {
            *hour = Hour::begin(now);
        }
        let prefix = Prefix(hour.key.hash_one(prefix_of(address)));
        hour.connects.take(prefix, rate, now).map(|()| prefix)
    }

    /// Takes one join from the prefix's budget.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take_join(&self, prefix: Prefix, rate: &Rate, now: Instant) -> Result<(), Duration> {
        let mut hour = self.hour.lock().expect("no one panics while counting");
        hour.joins.take(prefix, rate, now)
    }
}

impl Hour {
    fn begin(now: Instant) -> Self {
        Self {
            began: now,
            key: RandomState::new(),
            connects: Buckets::default(),
            joins: Buckets::default(),
        }
    }
}

/// An IPv4 address is one household; of an IPv6 address the first 56 bits are.
fn prefix_of(address: IpAddr) -> [u8; 8] {
    let mut prefix = [0; 8];
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            prefix[0] = 4;
            prefix[1..5].copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            prefix[0] = 6;
            prefix[1..8].copy_from_slice(&v6.octets()[..7]);
        }
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_household() {
        let prefix = |text: &str| prefix_of(text.parse().unwrap());
        assert_eq!(prefix("2001:db8:1:2300::1"), prefix("2001:db8:1:23ff::2"));
        assert_ne!(prefix("2001:db8:1:2300::1"), prefix("2001:db8:1:2400::1"));
        assert_ne!(prefix("192.0.2.1"), prefix("192.0.2.2"));
        assert_eq!(prefix("::ffff:192.0.2.1"), prefix("192.0.2.1"));
    }

    #[test]
    fn each_prefix_has_its_own_budget_and_the_key_changes() {
        let start = Instant::now();
        let prefixes = Prefixes::new(start);
        let rate = Rate::new(1, 1);
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let first = prefixes.take_connect(one, &rate, start).unwrap();
        assert!(prefixes.take_connect(one, &rate, start).is_err());
        assert!(prefixes.take_connect(two, &rate, start).is_ok());
        let later = prefixes.take_connect(one, &rate, start + HOUR).unwrap();
        assert_ne!(first, later);
    }
}
