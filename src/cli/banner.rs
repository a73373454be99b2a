//! What a relay prints when it is ready: its address first and alone on its line, then commands
//! that work when they are pasted.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use valise_proto::RelayAddress;

/// The text for standard output.
#[derive(Debug)]
pub struct Banner<'a> {
    /// What clients are given.
    pub address: &'a RelayAddress,
    /// The development CA, if the certificate is our own.
    pub ca: Option<&'a Path>,
    /// Where the admin side listens.
    pub admin: Option<SocketAddr>,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RelayAddress { host, port, .. } = self.address;
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        let trust = self.ca.map_or_else(String::new, |ca| format!("--cacert {} ", quoted(ca)));
        // Without quotes a shell takes the brackets of an IPv6 address for a pattern.
        let well_known = format!("'https://{open}{host}{close}:{port}/.well-known/valise'");

        writeln!(f, "{}", self.address)?;
        if let Some(ca) = self.ca {
            writeln!(f, "development CA: {}", ca.display())?;
        }
        writeln!(f, "try: curl {trust}{well_known}")?;
        if let Some(admin) = self.admin {
            writeln!(f, "     curl 'http://{admin}/metrics'")?;
        }
        Ok(())
    }
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use valise_proto::RealmId;

    use super::*;

    fn address(host: &str) -> RelayAddress {
        RelayAddress { host: host.to_owned(), port: 7443, realm: RealmId::new([1; 20]) }
    }

    #[test]
    fn the_address_is_the_first_line() {
        let address = address("127.0.0.1");
        let ca = Path::new("/state/dev-ca.pem");
        let admin = Some("127.0.0.1:7480".parse().unwrap());
        let text = Banner { address: &address, ca: Some(ca), admin }.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].parse(), Ok(address));
        let expected = [
            "development CA: /state/dev-ca.pem",
            "try: curl --cacert /state/dev-ca.pem 'https://127.0.0.1:7443/.well-known/valise'",
            "     curl 'http://127.0.0.1:7480/metrics'",
        ];
        assert_eq!(lines[1..], expected);
    }

    #[test]
    fn nothing_is_printed_of_what_there_is_not() {
        let address = address("::1");
        let text = Banner { address: &address, ca: None, admin: None }.to_string();
        let expected = format!("{address}\ntry: curl 'https://[::1]:7443/.well-known/valise'\n");
        assert_eq!(text, expected);
    }

    #[test]
    fn paths_survive_the_shell() {
        let path = Path::new("/a b/it's/dev-ca.pem");
        let command = format!("printf %s {}", quoted(path));
        let output = std::process::Command::new("sh").arg("-c").arg(command).output().unwrap();
        assert_eq!(output.stdout, path.display().to_string().as_bytes());
    }
}
