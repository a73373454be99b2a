//! The connection to the bus, and what the client library lacks: publishing with every outcome
//! told apart, batches of direct reads, reads at the leader. In a data centre this is the one
//! place of the process that connects to anyone.
//!
//! An error says what the server said of a request. No error, and nothing else here, holds a byte
//! of what was sent or read.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message, Request,
    RequestErrorKind,
};
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::elections::Elections;
use super::{BusError, BusStats};
use crate::limits::{BUS_ANSWER_MS, BUS_PING_SECONDS};

/// Where the bus is, and by what it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusOptions {
    /// `nats://host:port`, one or more servers of one cluster.
    pub servers: Vec<String>,
    /// Mutual TLS; none only to servers on this machine.
    pub tls: Option<BusTls>,
}

/// The files of mutual TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusTls {
    /// Who signs the servers' certificates.
    pub ca: PathBuf,
    /// The relay's own certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// An open connection; it comes back by itself.
pub(super) struct Bus {
    client: Client,
    elections: Elections,
    /// Rises whenever something may have been missed.
    gaps: watch::Receiver<u64>,
    stats: Arc<BusStats>,
}

/// How a publication ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its place in its stream.
    pub(super) seq: u64,
    /// It was there already.
    pub(super) repeated: bool,
}

/// A stored message.
pub(super) struct Found {
    pub(super) subject: String,
    pub(super) seq: u64,
    pub(super) record: Bytes,
    /// Not where it was read at the leader.
    pub(super) headers: Option<HeaderMap>,
}

/// Several stored messages.
#[derive(Default)]
pub(super) struct FoundMany {
    pub(super) found: Vec<Found>,
    /// Whether there is more of what was asked for.
    pub(super) more: bool,
    /// Up to where the replica knew its stream; 0 where it did not say.
    pub(super) up_to: u64,
}

/// The name by which nodes are known to the servers.
pub const NODE: &str = "valise";

pub(super) const NO_MESSAGE: u64 = 10_037;
pub(super) const NO_STREAM: u64 = 10_059;
const DUPLICATE_IN_PROCESS: u64 = 10_158;

impl BusOptions {
    /// How the servers are dialled, by relays and by the operators' tools.
    pub fn connecting(&self) -> ConnectOptions {
        let connect = ConnectOptions::new()
            .request_timeout(Some(Duration::from_millis(BUS_ANSWER_MS)))
            .connection_timeout(Duration::from_millis(BUS_ANSWER_MS))
            // Nothing is dialled that the operator has not named.
            .ignore_discovered_servers();
        match &self.tls {
            None => connect,
            Some(tls) => connect
                .require_tls(true)
                .add_root_certificates(tls.ca.clone())
                .add_client_certificate(tls.certificate.clone(), tls.key.clone()),
        }
    }
}

impl Bus {
    /// Connects to one of the servers, which knows it by this name.
    pub(super) async fn connect_as(name: &str, options: &BusOptions) -> Result<Self, BusError> {
        let (missed, gaps) = watch::channel(0);
        let stats = Arc::new(BusStats::default());
        let counted = Arc::clone(&stats);
        let connect = options
            .connecting()
            .name(name)
            .ping_interval(Duration::from_secs(BUS_PING_SECONDS))
            .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
            .max_reconnects(None)
            .reconnect_delay_callback(|attempts| {
                Duration::from_millis(50 << attempts.saturating_sub(1).min(4))
            })
            .event_callback(move |event| {
                let (missed, stats) = (missed.clone(), Arc::clone(&counted));
                async move {
                    match event {
                        Event::Connected => stats.set_connected(true),
                        Event::Disconnected | Event::Closed => stats.set_connected(false),
                        _ => {}
                    }
                    match event {
                        Event::Connected | Event::SlowConsumer(_) => {
                            tracing::info!(%event, "the bus: reading again what may be missed");
                            stats.gap();
                            missed.send_modify(|gaps| *gaps += 1);
                        }
                        Event::Disconnected => tracing::warn!("the bus is away"),
                        Event::ServerError(_) | Event::ClientError(_) => {
                            tracing::warn!(%event, "the bus");
                        }
                        Event::LameDuckMode | Event::Draining | Event::Closed => {
                            tracing::info!(%event, "the bus");
                        }
                    }
                }
            });
        let client = connect.connect(&options.servers).await;
        let client = client.map_err(|error| unreached(&error))?;
        let advisories = client.subscribe(Elections::SUBJECT).await;
        let elections = Elections::hear(advisories.map_err(|_| BusError::Silent)?);
        Ok(Self { client, elections, gaps, stats })
    }

    /// What has been asked so far.
    pub(super) fn stats(&self) -> &BusStats {
        &self.stats
    }

    /// Rises whenever something may have been missed.
    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.clone()
    }

    pub(super) async fn subscribe(
        &self,
        subject: String,
    ) -> Result<async_nats::Subscriber, BusError> {
        self.client.subscribe(subject).await.map_err(|_| BusError::Silent)
    }

    /// Lets whoever listens have this, if anyone does.
    pub(super) async fn publish(&self, subject: String, record: Bytes) -> Result<(), BusError> {
        self.client.publish(subject, record).await.map_err(|_| BusError::Silent)
    }

    /// Waits until everything that was handed over is on the wire.
    pub(super) async fn flush(&self) {
        // A connection that is gone has nothing to be waited for.
        let _ = timeout(Duration::from_millis(BUS_ANSWER_MS), self.client.flush()).await;
    }

    /// Asks the stream's leader to do something.
    pub(super) async fn ask(&self, api: &str, body: &Value) -> Result<Value, BusError> {
        let body = Bytes::from(serde_json::to_vec(body).expect("JSON can be written"));
        let request = Request::new().payload(body);
        let answer = self.client.send_request(format!("$JS.API.{api}"), request).await;
        let answer = answer.map_err(|error| silence(&error.kind()))?;
        parse(&answer.payload)
    }

    /// The same, until there is an answer or patience is over: for what may be done twice.
    pub(super) async fn ask_patiently(&self, api: &str, body: &Value) -> Result<Value, BusError> {
        let mut patience = self.elections.wait_for(api);
        loop {
            if let Some(answer) = patience.attempt(self.ask_known(api, body)).await {
                return answer;
            }
        }
    }

    /// A server may be asked for a stream that was made a moment ago, and not have heard of it. Whoever
    /// asks whether there is one asks for its `INFO`.
    async fn ask_known(&self, api: &str, body: &Value) -> Result<Value, BusError> {
        match self.ask(api, body).await {
            Err(BusError::Refused { code: NO_STREAM, .. }) if !api.starts_with("STREAM.INFO.") => {
                Err(BusError::Silent)
            }
            answer => answer,
        }
    }

    /// What there is in a stream that was made, if only a moment ago: then a server that is asked may not
    /// have heard of it.
    pub(super) async fn info(&self, stream: &str, body: &Value) -> Result<Value, BusError> {
        let until = Instant::now() + Duration::from_millis(BUS_ANSWER_MS);
        loop {
            match self.ask_patiently(&format!("STREAM.INFO.{stream}"), body).await {
                Err(BusError::Refused { code: NO_STREAM, .. }) if Instant::now() < until => {
                    sleep(Duration::from_millis(50)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Stores a record, once, however often it takes; `headers` have its message id.
    ///
    /// # Errors
    /// [`BusError`]; after [`BusError::Silent`] it may be stored all the same, or still be.
    pub(super) async fn store(
        &self,
        subject: &str,
        headers: &HeaderMap,
        record: &Bytes,
    ) -> Result<Stored, BusError> {
        let mut patience = self.elections.wait_for(subject);
        loop {
            let attempt = self.store_once(subject, headers, record);
            let Some(outcome) = patience.attempt(attempt).await else {
                self.stats.repeat();
                continue;
            };
            if outcome.as_ref().is_err_and(BusError::is_passing) {
                self.stats.give_up();
            }
            return outcome;
        }
    }

    async fn store_once(
        &self,
        subject: &str,
        headers: &HeaderMap,
        record: &Bytes,
    ) -> Result<Stored, BusError> {
        let request = Request::new().headers(headers.clone()).payload(record.clone());
        let answer = self.client.send_request(subject.to_owned(), request).await;
        stored(&answer.map_err(|error| silence(&error.kind()))?)
    }

    /// Stores all of these or none; the last one decides. Not repeated: whoever asks looks first.
    pub(super) async fn store_together(
        &self,
        id: &str,
        records: Vec<(String, HeaderMap, Bytes)>,
    ) -> Result<Stored, BusError> {
        let last = records.len();
        for (number, (subject, mut headers, record)) in (1..).zip(records) {
            headers.insert("Nats-Batch-Id", id);
            headers.insert("Nats-Batch-Sequence", number.to_string());
            if number < last && number > 1 {
                let sent = self.client.publish_with_headers(subject, headers, record).await;
                sent.map_err(|_| BusError::Silent)?;
                continue;
            }
            if number == last {
                headers.insert("Nats-Batch-Commit", "1");
            }
            let request = Request::new().headers(headers).payload(record);
            let answer = self.client.send_request(subject, request).await;
            let answer = answer.map_err(|error| silence(&error.kind()))?;
            if number == last {
                return stored(&answer);
            }
            // The first one is answered with nothing, or with why there can be no batch.
            if !answer.payload.is_empty() {
                parse(&answer.payload)?;
            }
        }
        Err(BusError::Silent)
    }

    /// Reads from whichever replica answers, which may be behind.
    pub(super) async fn read(&self, stream: &str, query: &Value) -> Result<FoundMany, BusError> {
        let body = Bytes::from(serde_json::to_vec(query).expect("JSON can be written"));
        let inbox = self.client.new_inbox();
        let mut answers = self.subscribe(inbox.clone()).await?;
        let api = format!("$JS.API.DIRECT.GET.{stream}");
        let asked = self.client.publish_with_reply(api, inbox, body).await;
        asked.map_err(|_| BusError::Silent)?;
        let mut many = FoundMany::default();
        loop {
            let answer = timeout(Duration::from_millis(BUS_ANSWER_MS), answers.next()).await;
            let Ok(Some(answer)) = answer else { return Err(BusError::Silent) };
            match answer.status.map(|status| status.as_u16()) {
                None => many.found.push(found(answer)?),
                Some(204) => {
                    many.more = number(answer.headers.as_ref(), "Nats-Num-Pending") > 0;
                    many.up_to = number(answer.headers.as_ref(), "Nats-UpTo-Sequence");
                    return Ok(many);
                }
                Some(404) => return Ok(many),
                // No responders, or a replica that is not ready.
                Some(_) => return Err(BusError::Silent),
            }
        }
    }

    /// Reads at the stream's leader: the latest there is.
    pub(super) async fn read_at_leader(
        &self,
        stream: &str,
        query: &Value,
    ) -> Result<Option<Found>, BusError> {
        let answer = self.ask_patiently(&format!("STREAM.MSG.GET.{stream}"), query).await;
        let answer = match answer {
            Err(BusError::Refused { code: NO_MESSAGE, .. }) => return Ok(None),
            answer => answer?,
        };
        let message = &answer["message"];
        let damaged = || BusError::Damaged { what: "answer" };
        let data = message["data"].as_str().unwrap_or_default();
        let record = BASE64.decode(data.as_bytes()).map_err(|_| damaged())?;
        Ok(Some(Found {
            subject: message["subject"].as_str().ok_or_else(damaged)?.to_owned(),
            seq: message["seq"].as_u64().ok_or_else(damaged)?,
            record: record.into(),
            headers: None,
        }))
    }

    /// The last message of a subject, at the leader.
    pub(super) async fn last(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<Found>, BusError> {
        self.read_at_leader(stream, &json!({ "last_by_subj": subject })).await
    }

    /// What each server says of itself; until so many have, or for a while. None where no server may be
    /// asked so.
    pub(super) async fn servers(
        &self,
        subject: &str,
        enough: usize,
    ) -> Result<Vec<Value>, BusError> {
        let inbox = self.client.new_inbox();
        let mut answers = self.subscribe(inbox.clone()).await?;
        let asked = self.client.publish_with_reply(subject.to_owned(), inbox, Bytes::new()).await;
        asked.map_err(|_| BusError::Silent)?;
        let mut servers = Vec::new();
        while servers.len() < enough {
            match timeout(Duration::from_millis(BUS_ANSWER_MS), answers.next()).await {
                Ok(Some(answer)) if answer.status.is_none() => {
                    servers.push(parse(&answer.payload)?);
                }
                Ok(Some(_)) => break,
                _ if servers.is_empty() => return Err(BusError::Silent),
                _ => break,
            }
        }
        Ok(servers)
    }
}

/// Messages that wait for one subscription. More is told as a slow consumer, and read again.
const SUBSCRIPTION_MESSAGES_MAX: usize = 512;

fn unreached(error: &ConnectError) -> BusError {
    // A handshake that fails is told as an error of the system.
    let source =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    if source.is_some_and(|source| source.kind() == io::ErrorKind::InvalidData) {
        return BusError::Shut(error.to_string());
    }
    match error.kind() {
        ConnectErrorKind::Io
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Dns
        | ConnectErrorKind::MaxReconnects => BusError::Away(error.to_string()),
        ConnectErrorKind::Authentication
        | ConnectErrorKind::AuthorizationViolation
        | ConnectErrorKind::Tls
        | ConnectErrorKind::ServerParse => BusError::Shut(error.to_string()),
    }
}

fn silence(kind: &RequestErrorKind) -> BusError {
    match kind {
        RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
            BusError::Refused { code: 0, said: kind.to_string() }
        }
        RequestErrorKind::TimedOut | RequestErrorKind::NoResponders | RequestErrorKind::Other => {
            BusError::Silent
        }
    }
}

/// An answer in JSON, or the error it is.
fn parse(answer: &[u8]) -> Result<Value, BusError> {
    let value: Value =
        serde_json::from_slice(answer).map_err(|_| BusError::Damaged { what: "answer" })?;
    let Some(error) = value.get("error").filter(|error| !error.is_null()) else { return Ok(value) };
    let code = error["err_code"].as_u64().unwrap_or_default();
    let said = error["description"].as_str().unwrap_or_default();
    if code == DUPLICATE_IN_PROCESS {
        return Err(BusError::InProcess);
    }
    // Without a leader, while it is catching up, or while servers have not found each other yet.
    let passing =
        matches!(code, 10_005 | 10_008 | 10_009 | 10_010) || said.contains("not available");
    if passing { Err(BusError::Silent) } else { Err(BusError::Refused { code, said: said.into() }) }
}

fn stored(answer: &Message) -> Result<Stored, BusError> {
    let value = parse(&answer.payload)?;
    let seq = value["seq"].as_u64().ok_or(BusError::Damaged { what: "answer" })?;
    Ok(Stored { seq, repeated: value["duplicate"].as_bool() == Some(true) })
}

fn found(answer: Message) -> Result<Found, BusError> {
    let headers = answer.headers.as_ref();
    let subject = headers.and_then(|headers| headers.get_last("Nats-Subject"));
    let subject = subject.ok_or(BusError::Damaged { what: "answer" })?.to_string();
    let seq = number(headers, "Nats-Sequence");
    Ok(Found { subject, seq, record: answer.payload, headers: answer.headers })
}

/// A number in a header; 0 where there is none.
pub(super) fn number(headers: Option<&HeaderMap>, name: &'static str) -> u64 {
    let value = headers.and_then(|headers| headers.get_last(name));
    value.and_then(|value| value.as_str().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_what_it_says() {
        let error = |code: u64, said: &str| {
            let text = json!({"error": {"code": 503, "err_code": code, "description": said}});
            parse(text.to_string().as_bytes()).unwrap_err()
        };
        assert!(error(10_077, "maximum messages per subject exceeded").is_mailbox_full());
        assert!(error(10_077, "maximum bytes exceeded").is_stream_full());
        assert!(error(10_071, "wrong last sequence: 7").is_outdated());
        assert!(error(10_164, "wrong last sequence").is_outdated());
        assert!(error(10_158, "duplicate message id is in process").is_passing());
        assert!(error(10_008, "JetStream system temporarily unavailable").is_passing());
        assert!(parse(b"not JSON").is_err());
        assert_eq!(parse(br#"{"seq":3}"#).unwrap()["seq"], 3);
    }
}
