//! The HTTPS side of the port: the WebSocket upgrade, and two small documents. Every path but
//! these is 404; there is no route that reaches a frame.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;
use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use valise_proto::{VERSION, WEBSOCKET_PATH, limits};

use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::metrics::HttpPath;
use crate::relay::Relay;
use crate::tls::Encrypted;

/// What became of an HTTPS connection.
pub enum Answer {
    /// It is a WebSocket now.
    Upgraded(Box<Encrypted>),
    /// A page was sent.
    Page,
    /// The peer broke off, or broke HTTP.
    Broken,
}

/// Serves one request. One is enough for a page, and a WebSocket is the end of HTTP anyway.
pub async fn serve(relay: &Relay, stream: Encrypted) -> Answer {
    let upgrade: Arc<Mutex<Option<OnUpgrade>>> = Arc::default();
    let answer = service_fn(|mut request: Request<Incoming>| {
        if is_upgrade(&request) {
            let on_upgrade = hyper::upgrade::on(&mut request);
            *upgrade.lock().expect("no one panics while noting an upgrade") = Some(on_upgrade);
        }
        let response = respond(relay, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await;
    let on_upgrade = upgrade.lock().expect("no one panics while noting an upgrade").take();
    match (served, on_upgrade) {
        (Ok(()), Some(on_upgrade)) => take_over(on_upgrade).await,
        (Ok(()), None) => Answer::Page,
        (Err(error), _) => {
            tracing::debug!(%error, "HTTPS request failed");
            Answer::Broken
        }
    }
}

/// The stream under the upgraded connection. A client must not send packets before it has read
/// the response, so bytes that came with the request are a breach of the protocol.
async fn take_over(on_upgrade: OnUpgrade) -> Answer {
    let Ok(upgraded) = on_upgrade.await else { return Answer::Broken };
    match upgraded.downcast::<TokioIo<Encrypted>>() {
        Ok(parts) if parts.read_buf.is_empty() => Answer::Upgraded(Box::new(parts.io.into_inner())),
        _ => Answer::Broken,
    }
}

fn respond(relay: &Relay, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let known = match path {
        WEBSOCKET_PATH => HttpPath::Relay,
        "/.well-known/valise" => HttpPath::WellKnown,
        "/" => HttpPath::Page,
        _ => HttpPath::Other,
    };
    relay.metrics.http_request(known);
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
    }
    match known {
        HttpPath::Relay if is_upgrade(request) => switch_protocols(request.headers()),
        HttpPath::Relay => text(
            StatusCode::UPGRADE_REQUIRED,
            "this path speaks WebSocket (RFC 6455), version 13, with binary messages\n",
        ),
        HttpPath::WellKnown => discovery(relay),
        HttpPath::Page => text(StatusCode::OK, PAGE),
        HttpPath::Other => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
    }
}

const PAGE: &str = "This is a Valise relay: it carries end-to-end-encrypted messages and cannot \
    read them.\nChat clients connect to it by themselves; there is nothing to see here.\n\
    What it says about itself: /.well-known/valise\n";

/// What a client may want to know before it connects. Numbers come from `valise_proto::limits`.
fn discovery(relay: &Relay) -> Response<Full<Bytes>> {
    let record = relay.identity().record();
    let hex = data_encoding::HEXLOWER.encode(&record.record);
    let signature = data_encoding::HEXLOWER.encode(record.signature.as_bytes());
    let body = format!(
        concat!(
            "{{\"realm\":\"{}\",\"versions\":[{}],\"websocket\":\"{}\",",
            "\"realm_record\":\"{}\",\"realm_record_signature\":\"{}\",",
            "\"limits\":{{\"packet_bytes\":{},\"payload_sizes\":{:?},\"targets\":{},",
            "\"mailbox_frames\":{},\"mailbox_bytes\":{},\"ttl_hours\":{}}},",
            "\"build\":\"valise {}\"}}\n"
        ),
        relay.router.realm().to_text(),
        VERSION,
        WEBSOCKET_PATH,
        hex,
        signature,
        limits::PACKET_BYTES_MAX,
        limits::PAYLOAD_SIZES,
        limits::TARGETS_MAX,
        limits::MAILBOX_FRAMES_MAX,
        limits::MAILBOX_BYTES_MAX,
        limits::TTL_HOURS_MAX,
        env!("CARGO_PKG_VERSION"),
    );
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether this is a complete opening handshake (RFC 6455, section 4.2.1).
fn is_upgrade(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    request.uri().path() == WEBSOCKET_PATH
        && request.method() == Method::GET
        && has_token(headers, header::CONNECTION, "upgrade")
        && has_token(headers, header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
        && headers.contains_key(header::SEC_WEBSOCKET_KEY)
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

fn switch_protocols(request: &HeaderMap) -> Response<Full<Bytes>> {
    let key = request.get(header::SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    let accept = HeaderValue::from_str(&accept_key(key)).expect("base64 is a header value");
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// RFC 6455, section 4.2.2: SHA-1 of the key and a fixed text. It proves no secret.
fn accept_key(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(context.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_the_example_of_the_rfc() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
