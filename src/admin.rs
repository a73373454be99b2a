//! The admin side: four GET routes on a thread of their own, so that health answers under load.
//! It has counts and two flags, and no way to a frame, a mailbox or a connection.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_REQUEST_SECONDS, HTTP_HEAD_BYTES_MAX};

/// Every route there is.
pub const ROUTES: [&str; 4] = ["/metrics", "/healthz", "/readyz", "/version"];

/// Whether the relay should be sent new connections.
#[derive(Debug, Default)]
pub struct Readiness {
    draining: AtomicBool,
    /// Why the store takes nothing, while that is so.
    store: Mutex<Option<String>>,
    realm: Mutex<Realm>,
}

/// How it stands with the realm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Realm {
    /// All is well.
    #[default]
    Served,
    /// The operator should look at this; clients are served all the same.
    Note(String),
    /// Nobody is served, for this reason.
    Left(String),
}

impl Readiness {
    /// From the first moment of a shutdown.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Nothing can be accepted, for this reason.
    pub fn store_failed(&self, reason: &str) {
        *self.store() = Some(reason.to_owned());
    }

    /// It can be again.
    pub fn store_open(&self) {
        *self.store() = None;
    }

    /// How it stands with the realm.
    pub fn realm(&self, realm: Realm) {
        *self.realm.lock().expect("nothing panics while it holds the lock") = realm;
    }

    fn is_ready(&self) -> bool {
        let left = matches!(self.realm_now(), Realm::Left(_));
        !self.draining.load(Ordering::Relaxed) && self.store().is_none() && !left
    }

    fn realm_now(&self) -> Realm {
        self.realm.lock().expect("nothing panics while it holds the lock").clone()
    }

    fn to_json(&self) -> String {
        let store = self.store().clone().unwrap_or_else(|| "ok".to_owned());
        let accepting = if self.draining.load(Ordering::Relaxed) { "failed" } else { "ok" };
        let ready = self.is_ready();
        let store = quoted(&store);
        let realm = match self.realm_now() {
            Realm::Served => quoted("ok"),
            Realm::Note(text) | Realm::Left(text) => quoted(&text),
        };
        format!(
            "{{\"ready\":{ready},\"checks\":{{\"store\":{store},\"accepting\":\"{accepting}\",\
             \"realm\":{realm}}}}}\n"
        )
    }

    fn store(&self) -> MutexGuard<'_, Option<String>> {
        self.store.lock().expect("nothing panics while it holds the lock")
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Produces the OpenMetrics text.
pub type Scrape = Box<dyn Fn() -> String + Send + Sync>;

/// The running admin side. Dropping it ends its thread, and with it what it holds of the relay.
pub struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    scrape: Scrape,
    readiness: Arc<Readiness>,
}

/// How many ports are tried when none was configured.
const PORTS_TRIED: u16 = 100;

impl Admin {
    /// Binds and serves; with `or_next_free` a taken port is no error.
    ///
    /// # Errors
    /// The system's, when nothing can be bound.
    pub fn start(
        address: SocketAddr,
        or_next_free: bool,
        scrape: Scrape,
        readiness: Arc<Readiness>,
    ) -> io::Result<Self> {
        let listener = bind(address, or_next_free)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { address, scrape, readiness });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let life = async move {
            match TcpListener::from_std(listener) {
                // Biased: after the stop nothing is accepted any more.
                Ok(listener) => tokio::select! {
                    biased;
                    _ = stopped => {}
                    () = accept(listener, shared) => {}
                },
                Err(error) => tracing::error!(%error, "the admin side cannot listen"),
            }
        };
        let thread = std::thread::Builder::new()
            .name("valise-admin".to_owned())
            .spawn(move || runtime.block_on(life))?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // None of its handlers panics, and if one did it would concern nobody now.
            let _ = thread.join();
        }
    }
}

fn bind(address: SocketAddr, or_next_free: bool) -> io::Result<std::net::TcpListener> {
    let first = std::net::TcpListener::bind(address);
    if first.is_ok() || !or_next_free {
        return first;
    }
    (1..PORTS_TRIED)
        .filter_map(|offset| address.port().checked_add(offset))
        .find_map(|port| std::net::TcpListener::bind((address.ip(), port)).ok())
        .map_or(first, Ok)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let deadline = Duration::from_secs(ADMIN_REQUEST_SECONDS);
            if tokio::time::timeout(deadline, serve(tcp, &shared)).await.is_err() {
                tracing::debug!("an admin request took too long");
            }
            drop(permit);
        });
    }
}

async fn serve(tcp: TcpStream, shared: &Shared) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = respond(&request, shared);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(tcp), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin request failed");
    }
}

fn respond(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const JSON: &str = "application/json";
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    // A web page must not be able to read this by giving its own name our address.
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| is_own_host(host, shared.address)) {
        return answer(StatusCode::FORBIDDEN, TEXT, "this host name is not served here\n");
    }
    if request.method() != Method::GET {
        return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is served here\n");
    }
    match request.uri().path() {
        "/metrics" => answer(StatusCode::OK, OPENMETRICS, (shared.scrape)()),
        "/healthz" => answer(StatusCode::OK, TEXT, "alive\n"),
        "/readyz" => {
            let ready = shared.readiness.is_ready();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            answer(status, JSON, shared.readiness.to_json())
        }
        "/version" => {
            let version = env!("CARGO_PKG_VERSION");
            let protocol = valise_proto::VERSION;
            let body = format!("{{\"version\":\"{version}\",\"protocol\":{protocol}}}\n");
            answer(StatusCode::OK, JSON, body)
        }
        _ => answer(StatusCode::NOT_FOUND, TEXT, "there is nothing here\n"),
    }
}

fn is_own_host(host: &str, address: SocketAddr) -> bool {
    let Ok(uri) = host.parse::<Uri>() else { return false };
    let name = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|named| named.is_loopback() || named == address.ip())
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn start() -> (Admin, Arc<Readiness>) {
        let readiness = Arc::new(Readiness::default());
        let scrape = Box::new(|| "# EOF\n".to_owned());
        let address = "127.0.0.1:0".parse().unwrap();
        (Admin::start(address, false, scrape, Arc::clone(&readiness)).unwrap(), readiness)
    }

    fn ask(admin: &Admin, method: &str, path: &str, host: &str) -> (u16, String) {
        let mut tcp = std::net::TcpStream::connect(admin.address()).unwrap();
        write!(tcp, "{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    #[test]
    fn the_routes_answer_and_nothing_else_does() {
        let (admin, _) = start();
        for route in ROUTES {
            assert_eq!(ask(&admin, "GET", route, "127.0.0.1").0, 200, "{route}");
            assert_eq!(ask(&admin, "POST", route, "127.0.0.1").0, 405, "{route}");
        }
        for other in ["/", "/debug", "/metrics/", "/frames", "/mailboxes", "/drain"] {
            assert_eq!(ask(&admin, "GET", other, "localhost:1").0, 404, "{other}");
        }
        assert!(ask(&admin, "GET", "/metrics", "[::1]:9").1.contains("openmetrics-text"));
    }

    #[test]
    fn it_ends_with_its_value() {
        let held = Arc::new(());
        let scraped = Arc::clone(&held);
        let scrape = Box::new(move || format!("{scraped:?}"));
        let address = "127.0.0.1:0".parse().unwrap();
        let admin = Admin::start(address, false, scrape, Arc::default()).unwrap();
        // A peer that asks for nothing does not keep it.
        let silent = std::net::TcpStream::connect(admin.address()).unwrap();
        assert_eq!(ask(&admin, "GET", "/metrics", "localhost").0, 200);
        let address = admin.address();
        drop(admin);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(std::net::TcpStream::connect(address).is_err());
        drop(silent);
    }

    #[test]
    fn other_host_names_are_refused() {
        let (admin, _) = start();
        for host in ["evil.example", "evil.example:7480", "192.0.2.7", ""] {
            assert_eq!(ask(&admin, "GET", "/metrics", host).0, 403, "{host:?}");
        }
    }

    #[test]
    fn readiness_ends_with_the_first_moment_of_a_drain() {
        let (admin, readiness) = start();
        assert_eq!(ask(&admin, "GET", "/readyz", "localhost").0, 200);
        readiness.drain();
        let (status, text) = ask(&admin, "GET", "/readyz", "localhost");
        assert_eq!(status, 503);
        assert!(text.contains("\"accepting\":\"failed\""));
        assert_eq!(ask(&admin, "GET", "/healthz", "localhost").0, 200);
    }
}
