//! SOCKS5 (RFC 1928) without authentication or with user name and password (RFC 1929). The proxy
//! resolves names, so nothing about the relay reaches the local resolver.
//!
//! Written out here: the exchange is four small messages, and the crates for it bring a second
//! version of an error crate or a resolver along.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits::SOCKS_ANSWER_BYTES_MAX;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// A proxy to dial through.
#[derive(Clone, PartialEq, Eq)]
pub struct SocksProxy {
    /// The proxy's host name or IP address.
    pub host: String,
    /// The proxy's TCP port.
    pub port: u16,
    /// User name and password, at most 255 bytes each. Tor and others keep connections with
    /// different names apart.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for SocksProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let login = if self.credentials.is_some() { ", credentials redacted" } else { "" };
        write!(f, "SocksProxy({}:{}{login})", self.host, self.port)
    }
}

/// The proxy did not connect us.
#[derive(Debug, thiserror::Error)]
pub enum SocksError {
    /// Reading from or writing to the proxy failed.
    #[error("the connection to the proxy failed: {0}")]
    Io(#[from] std::io::Error),
    /// It answered something else.
    #[error("the proxy does not speak SOCKS5")]
    NotSocks,
    /// It wants an authentication we do not have.
    #[error("the proxy accepts none of the offered authentication methods")]
    Method,
    /// User name or password are wrong.
    #[error("the proxy refused the user name or password")]
    Credentials,
    /// A name of more than 255 bytes does not fit into the request.
    #[error("a host name, user name or password is longer than 255 bytes")]
    TooLong,
    /// It refused to connect to the relay (RFC 1928, section 6).
    #[error("the proxy could not connect to the relay: {}", reply_text(*.0))]
    Reply(u8),
}

/// Asks the proxy on `stream` to connect to `host:port`. Afterwards the stream is the relay's.
pub(crate) async fn through<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &SocksProxy,
    host: &str,
    port: u16,
) -> Result<(), SocksError> {
    authenticate(stream, proxy.credentials.as_ref()).await?;
    stream.write_all(&request(host, port)?).await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    if head[0] != VERSION {
        return Err(SocksError::NotSocks);
    }
    if head[1] != 0 {
        return Err(SocksError::Reply(head[1]));
    }
    // The address the proxy bound is of no interest, but it has to be read.
    let address_len = match head[3] {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(stream.read_u8().await?),
        _ => return Err(SocksError::NotSocks),
    };
    let mut rest = [0; SOCKS_ANSWER_BYTES_MAX];
    stream.read_exact(&mut rest[..address_len + 2]).await?;
    Ok(())
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: Option<&(String, String)>,
) -> Result<(), SocksError> {
    let greeting: &[u8] = match credentials {
        None => &[VERSION, 1, NO_AUTHENTICATION],
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
    };
    stream.write_all(greeting).await?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice).await?;
    if choice[0] != VERSION {
        return Err(SocksError::NotSocks);
    }
    match (choice[1], credentials) {
        (NO_AUTHENTICATION, _) => Ok(()),
        (USER_AND_PASSWORD, Some((user, password))) => {
            let mut login = vec![1];
            put_text(&mut login, user)?;
            put_text(&mut login, password)?;
            stream.write_all(&login).await?;
            let mut verdict = [0; 2];
            stream.read_exact(&mut verdict).await?;
            if verdict[1] == 0 { Ok(()) } else { Err(SocksError::Credentials) }
        }
        _ => Err(SocksError::Method),
    }
}

fn request(host: &str, port: u16) -> Result<Vec<u8>, SocksError> {
    let mut request = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(std::net::IpAddr::V4(ip)) => {
            request.push(IPV4);
            request.extend(ip.octets());
        }
        Ok(std::net::IpAddr::V6(ip)) => {
            request.push(IPV6);
            request.extend(ip.octets());
        }
        Err(_) => {
            request.push(NAME);
            put_text(&mut request, host)?;
        }
    }
    request.extend(port.to_be_bytes());
    Ok(request)
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Result<(), SocksError> {
    out.push(u8::try_from(text.len()).map_err(|_| SocksError::TooLong)?);
    out.extend(text.as_bytes());
    Ok(())
}

fn reply_text(reply: u8) -> &'static str {
    match reply {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "time to live expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "unknown reason",
    }
}
