//! A network of namespaces, one for each NATS server, with a router between them: parting two of
//! them is a rule of the router. Needs root, and `ip` of iproute2. Gone when dropped.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use valise_client::testing::{NatsPlace, SERVERS};

/// The network.
pub(crate) struct Network {
    /// In the names of the namespaces and interfaces, so that several runs are apart.
    run: u32,
    /// The second byte of the addresses: 10.N.0.0/16.
    subnet: u8,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("network namespaces need root and iproute2: `ip {command}`: {said}")]
pub(crate) struct NetworkError {
    command: String,
    said: String,
}

/// Who is not heard by whom. Packets are dropped on the way, silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parting {
    /// Two servers do not hear each other; the third hears both.
    Pair(usize, usize),
    /// The first is not heard by the second, which it hears.
    OneWay(usize, usize),
    /// One hears no other server, and none hears it; relays do.
    Alone(usize),
    /// The same, and no relay either.
    Gone(usize),
}

impl Display for Parting {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair(a, b) => write!(f, "n{a} and n{b} parted"),
            Self::OneWay(a, b) => write!(f, "n{a} not heard by n{b}"),
            Self::Alone(a) => write!(f, "n{a} parted from the servers"),
            Self::Gone(a) => write!(f, "n{a} parted from all"),
        }
    }
}

/// Where relays are, as servers see them.
const RELAYS: usize = SERVERS;

impl Network {
    /// Makes the namespaces, the router, and a way from here.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub(crate) fn new() -> Result<Self, NetworkError> {
        let run = std::process::id();
        // Private addresses that few have; a run of another process gets others.
        let subnet = 128 + u8::try_from(run % 100).expect("it is below 100");
        let network = Self { run, subnet };
        let router = network.router();
        ip(&["netns", "add", &router])?;
        in_namespace(&router, &["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?;
        for i in 0..SERVERS {
            let namespace = network.namespace(i);
            ip(&["netns", "add", &namespace])?;
            network.connect(i, Some(&namespace))?;
        }
        network.connect(RELAYS, None)?;
        Ok(network)
    }

    /// Where the servers listen.
    pub(crate) fn places(&self) -> [NatsPlace; SERVERS] {
        std::array::from_fn(|i| NatsPlace {
            relays: SocketAddr::new(self.address(i), 4222),
            cluster: SocketAddr::new(self.address(i), 6222),
            namespace: Some(self.namespace(i)),
        })
    }

    /// The address of a server.
    pub(crate) fn address(&self, i: usize) -> IpAddr {
        let third = u8::try_from(i).expect("there are few");
        Ipv4Addr::new(10, self.subnet, third, 2).into()
    }

    /// Parts them, or brings them together again.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub(crate) fn set(&self, parting: Parting, parted: bool) -> Result<(), NetworkError> {
        let what = if parted { "add" } else { "del" };
        for (from, to) in parting.ways() {
            let (from, to) = (self.address(from).to_string(), self.address(to).to_string());
            let rule = ["netns", "exec", &self.router(), "ip", "rule", what];
            let ways = ["from", &from, "to", &to, "blackhole"];
            ip(&[&rule[..], &ways[..]].concat())?;
        }
        // What was routed before is routed anew.
        ip(&["netns", "exec", &self.router(), "ip", "route", "flush", "cache"])
    }

    /// A pair of interfaces between the router and somebody: 10.N.I.1 and 10.N.I.2.
    fn connect(&self, i: usize, namespace: Option<&str>) -> Result<(), NetworkError> {
        let router = self.router();
        let (there, here) = (format!("vr{}n{i}", self.run), format!("vl{}n{i}", self.run));
        ip(&["link", "add", &there, "type", "veth", "peer", "name", &here])?;
        ip(&["link", "set", &there, "netns", &router])?;
        if let Some(namespace) = namespace {
            ip(&["link", "set", &here, "netns", namespace])?;
        }
        let gateway = format!("10.{}.{i}.1", self.subnet);
        let own = self.address(i).to_string();
        let at_router = |words: &[&str]| in_namespace(&router, &[&["ip"], words].concat());
        let at_end = |words: &[&str]| match namespace {
            Some(namespace) => in_namespace(namespace, &[&["ip"], words].concat()),
            None => ip(words),
        };
        at_router(&["addr", "add", &format!("{gateway}/24"), "dev", &there])?;
        at_router(&["link", "set", &there, "up"])?;
        at_end(&["addr", "add", &format!("{own}/24"), "dev", &here])?;
        at_end(&["link", "set", &here, "up"])?;
        if namespace.is_some() {
            at_end(&["link", "set", "lo", "up"])?;
        }
        let all = format!("10.{}.0.0/16", self.subnet);
        at_end(&["route", "add", &all, "via", &gateway])
    }

    fn router(&self) -> String {
        format!("valise-{}-router", self.run)
    }

    fn namespace(&self, i: usize) -> String {
        format!("valise-{}-n{i}", self.run)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let link = format!("vl{}n{RELAYS}", self.run);
        ip(&["link", "del", &link]).ok();
        for i in 0..SERVERS {
            ip(&["netns", "del", &self.namespace(i)]).ok();
        }
        ip(&["netns", "del", &self.router()]).ok();
    }
}

impl Parting {
    /// The packets that do not arrive: from where, to where.
    fn ways(self) -> Vec<(usize, usize)> {
        let both = |a, b| [(a, b), (b, a)];
        let others = |a| (0..SERVERS).filter(move |other| *other != a);
        match self {
            Self::Pair(a, b) => both(a, b).to_vec(),
            Self::OneWay(a, b) => vec![(a, b)],
            Self::Alone(a) => others(a).flat_map(|b| both(a, b)).collect(),
            Self::Gone(a) => others(a).chain([RELAYS]).flat_map(|b| both(a, b)).collect(),
        }
    }
}

fn in_namespace(namespace: &str, words: &[&str]) -> Result<(), NetworkError> {
    ip(&[&["netns", "exec", namespace], words].concat())
}

fn ip(words: &[&str]) -> Result<(), NetworkError> {
    let failed = |said: String| NetworkError { command: words.join(" "), said };
    let output = Command::new("ip").args(words).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_heard() {
        assert_eq!(Parting::OneWay(0, 1).ways(), [(0, 1)]);
        assert_eq!(Parting::Pair(0, 2).ways(), [(0, 2), (2, 0)]);
        assert_eq!(Parting::Alone(1).ways(), [(1, 0), (0, 1), (1, 2), (2, 1)]);
        assert_eq!(Parting::Gone(1).ways()[4..], [(1, RELAYS), (RELAYS, 1)]);
    }
}
