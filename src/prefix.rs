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
pub struct Prefix {
    /// Counted since the start.
    hour: u64,
    hash: u64,
}

impl Prefix {
    /// Everybody of an earlier hour. Their names could be kept, and whoever held a connection from
    /// each hour would then have a budget for each.
    const EARLIER: Self = Self { hour: u64::MAX, hash: 0 };
}

/// Names prefixes under this hour's key, and counts what each does.
pub struct Prefixes {
    hour: Mutex<Hour>,
}

struct Hour {
    number: u64,
    began: Instant,
    key: RandomState,
    connects: Buckets<Prefix>,
    joins: Buckets<Prefix>,
}

const HOUR: Duration = Duration::from_secs(3_600);

impl Prefixes {
    /// Begins with a fresh key.
    pub fn new(now: Instant) -> Self {
        Self { hour: Mutex::new(Hour::begin(0, now)) }
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
            *hour = Hour::begin(hour.number + 1, now);
        }
        let hash = hour.key.hash_one(prefix_of(address));
        let prefix = Prefix { hour: hour.number, hash };
        hour.connects.take(prefix, rate, now).map(|()| prefix)
    }

    /// Takes one join from the prefix's budget.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take_join(&self, prefix: Prefix, rate: &Rate, now: Instant) -> Result<(), Duration> {
        let mut hour = self.hour.lock().expect("no one panics while counting");
        let counted = if prefix.hour == hour.number { prefix } else { Prefix::EARLIER };
        hour.joins.take(counted, rate, now)
    }
}

impl Hour {
    fn begin(number: u64, now: Instant) -> Self {
        Self {
            number,
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

    #[test]
    fn connections_kept_from_earlier_hours_are_one_source() {
        let start = Instant::now();
        let prefixes = Prefixes::new(start);
        let rate = Rate::new(1, 1);
        let address = "192.0.2.1".parse().unwrap();
        let kept: Vec<_> = (0..4)
            .map(|hour| prefixes.take_connect(address, &rate, start + HOUR * hour).unwrap())
            .collect();
        let now = start + HOUR * 3;
        let joins: Vec<bool> =
            kept.iter().map(|prefix| prefixes.take_join(*prefix, &rate, now).is_ok()).collect();
        assert_eq!(joins, [true, false, false, true]);
    }

    #[test]
    fn many_prefixes_are_forgotten_as_fast_as_they_come() {
        let start = Instant::now();
        let prefixes = Prefixes::new(start);
        let rate = Rate::new(20, 400);
        // 10,000 a second from everywhere: each is remembered for 50 ms.
        for n in 0..200_000u32 {
            let now = start + Duration::from_micros(100) * n;
            prefixes.take_connect(std::net::Ipv4Addr::from(n).into(), &rate, now).unwrap();
        }
        let remembered = prefixes.hour.lock().unwrap().connects.len();
        assert!(remembered <= 2 * 500, "{remembered}");
    }
}
