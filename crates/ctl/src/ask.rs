//! Asks the servers, in their system account. Nothing is changed, and nothing of a relay's account is
//! read: neither is this user in it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{Client, ConnectError, ConnectErrorKind};
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, timeout, timeout_at};
use valise::limits::BUS_ANSWER_MS;
use valise::store::jetstream::{BusOptions, REPLICAS};

use crate::judge::is_settled;
use crate::limits::{CONNECTIONS_TOGETHER, SAMPLE_WAIT_MS, SAMPLES, SERVERS_MAX};
use crate::said::{
    ACCOUNTS, Between, CONNECTIONS, Connection, HEALTH, Held, RELAYS, STREAMS, Said, Seat, Server,
    streams_of,
};
use crate::{OPERATOR, TOOL};

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// No server was reached.
    #[error("no server can be reached: {0}")]
    Unreachable(String),
    /// They show certificates that nobody known here has signed.
    #[error("the servers' certificates are not trusted: {0}; give who signs them (--ca)")]
    Untrusted(String),
    /// They do not let this user in.
    #[error(
        "the servers do not let this operator in: {0}; give the operator's certificate \
         (--operator-certificate, --operator-key, --ca), whose DNS name is `valise-operator`"
    )]
    Refused(String),
    /// They let him in, and tell nothing.
    #[error(
        "the servers tell this user nothing: it is not in their system account; the operator's user \
         is `valise-operator` (deploy/nats/common.conf), and a relay's certificate is not an operator's"
    )]
    NotAnOperator,
}

/// Where to ask.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) bus: BusOptions,
}

/// An answer, and what it says of the server's clock.
struct Answer {
    server: String,
    id: String,
    ahead: Between,
    said: Value,
}

impl Place {
    /// One look at everything.
    ///
    /// # Errors
    /// [`AskError`].
    pub(crate) async fn look(&self) -> Result<Said, AskError> {
        let reached = join_all(self.bus.servers.iter().map(|url| self.reach(url))).await;
        let mut said = Said::default();
        let (mut clients, mut wrong) = (Vec::new(), Vec::new());
        for (url, reached) in self.bus.servers.iter().zip(reached) {
            let found = match reached {
                Ok(client) => {
                    let name = client.server_info().server_name;
                    clients.push(client);
                    Ok(name)
                }
                Err(error) => {
                    let told = told(&error);
                    wrong.push(error);
                    Err(told)
                }
            };
            said.seats.push(Seat { url: url.clone(), found });
        }
        // One that hangs since it was reached answers nothing; the next one may.
        for client in &clients {
            if let Some(servers) = servers(client).await {
                said.servers = servers;
                self.ask_on(client, &mut said).await;
                return Ok(said);
            }
        }
        let Some(first) = wrong.first() else { return Err(AskError::NotAnOperator) };
        let refused = |error: &&ConnectError| is_refusal(error);
        match wrong.iter().find(refused) {
            Some(error) => Err(AskError::Refused(told(error))),
            None if told(first).contains("invalid peer certificate") => {
                Err(AskError::Untrusted(told(first)))
            }
            None if clients.is_empty() => Err(AskError::Unreachable(told(first))),
            None => Err(AskError::NotAnOperator),
        }
    }

    async fn reach(&self, url: &str) -> Result<Client, ConnectError> {
        let connect = self.bus.connecting().name(TOOL).max_reconnects(1);
        // Without TLS the servers are on this machine, and know users by their names alone.
        let connect = match self.bus.tls {
            None => connect.user_and_password(OPERATOR.to_owned(), String::new()),
            Some(_) => connect,
        };
        let reaching = connect.connect(url);
        match timeout(2 * ANSWER, reaching).await {
            Ok(reached) => reached,
            Err(_) => Err(ConnectErrorKind::TimedOut.into()),
        }
    }

    /// Asks those who have answered for everything else.
    async fn ask_on(&self, client: &Client, said: &mut Said) {
        let count = said.servers.len();
        let ask = |what: &'static str, how: Value| collect(client, what, how, count);
        let (health, accounts, relays, mut streams) = tokio::join!(
            ask("HEALTHZ", json!({})),
            ask("ACCOUNTZ", json!({})),
            ask("ACCOUNTZ", json!({ "account": "RELAY" })),
            ask("JSZ", every_stream()),
        );
        for answer in health {
            let (status, why) = (&answer.said["status"], &answer.said["error"]);
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let unwell = (status != "ok").then(|| format!("{} {}", text(status), text(why)));
            said.set(HEALTH, &answer, |server| server.unwell = unwell);
        }
        for answer in accounts {
            if let Ok(list) = Vec::<String>::deserialize(&answer.said["accounts"]) {
                said.set(ACCOUNTS, &answer, |server| server.accounts = list);
            }
        }
        for answer in relays {
            let detail = answer.said["account_detail"].clone();
            if detail.is_object() {
                said.set(RELAYS, &answer, |server| server.relays = detail);
            }
        }
        for server in &mut said.servers {
            if let Some(connections) = connections(client, &server.id).await {
                server.connections = connections;
                server.told.push(CONNECTIONS);
            }
        }
        for look in 1.. {
            let mut sample: Vec<Held> = Vec::new();
            for mut answer in streams {
                sample.extend(streams_of(&answer.server, &answer.said));
                answer.said["account_details"] = Value::Null;
                let jsz = std::mem::take(&mut answer.said);
                said.set(STREAMS, &answer, |server| server.jsz = jsz);
            }
            said.samples.push(sample);
            if look == SAMPLES || is_settled(said) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(SAMPLE_WAIT_MS)).await;
            streams = collect(client, "JSZ", every_stream(), count).await;
        }
    }
}

impl Said {
    /// Notes something of the server that gave this answer, and what its clock said.
    fn set(&mut self, what: &'static str, answer: &Answer, note: impl FnOnce(&mut Server)) {
        if let Some(server) = self.servers.iter_mut().find(|server| server.id == answer.id) {
            server.told.push(what);
            server.ahead = server.ahead.and(answer.ahead);
            note(server);
        }
    }
}

const ANSWER: Duration = Duration::from_millis(BUS_ANSWER_MS);

fn every_stream() -> Value {
    json!({ "accounts": true, "streams": true, "consumer": true, "config": true, "limit": 1_000 })
}

/// Who answers; none where nobody does.
async fn servers(client: &Client) -> Option<Vec<Server>> {
    let answers = collect(client, "VARZ", json!({}), SERVERS_MAX).await;
    let mut servers: Vec<Server> = answers
        .into_iter()
        .map(|answer| Server {
            name: answer.server,
            id: answer.id,
            ahead: answer.ahead,
            varz: json!({ "data": answer.said }),
            ..Server::default()
        })
        .collect();
    servers.sort_by(|a, b| a.name.cmp(&b.name));
    (!servers.is_empty()).then_some(servers)
}

/// Asks every server, until so many have answered, or all that the others know of, or for a while.
async fn collect(client: &Client, what: &str, how: Value, enough: usize) -> Vec<Answer> {
    let mut answers = Vec::new();
    let inbox = client.new_inbox();
    let Ok(mut replies) = client.subscribe(inbox.clone()).await else { return answers };
    let asked = now_ms();
    let body = how.to_string().into();
    let subject = format!("$SYS.REQ.SERVER.PING.{what}");
    if client.publish_with_reply(subject, inbox, body).await.is_err() {
        return answers;
    }
    let until = Instant::now() + ANSWER;
    let mut known = REPLICAS as usize;
    while answers.len() < enough.min(known)
        && let Ok(Some(reply)) = timeout_at(until, replies.next()).await
    {
        if reply.status.is_some() {
            break;
        }
        let answer = answer(&reply.payload, asked, now_ms());
        let Some(answer) = answer else { continue };
        let remotes = answer.said["remotes"].as_u64().unwrap_or_default() as usize;
        known = known.max((remotes + 1).min(SERVERS_MAX));
        answers.push(answer);
    }
    answers
}

/// Everyone who is connected to a server; none where it does not say.
async fn connections(client: &Client, server: &str) -> Option<Vec<Connection>> {
    let mut all: Vec<Connection> = Vec::new();
    loop {
        let how = json!({
            "subscriptions_detail": true,
            "auth": true,
            "offset": all.len(),
            "limit": CONNECTIONS_TOGETHER,
        });
        let subject = format!("$SYS.REQ.SERVER.{server}.CONNZ");
        let reply = client.request(subject, how.to_string().into()).await;
        let said = answer(&reply.ok()?.payload, 0, 0)?.said;
        let some = said["connections"].as_array()?;
        all.extend(Connection::all(some));
        if some.len() < CONNECTIONS_TOGETHER {
            return Some(all);
        }
    }
}

/// What a server said; none where it cannot be read, or is an error.
fn answer(reply: &[u8], asked: i64, heard: i64) -> Option<Answer> {
    let mut said: Value = serde_json::from_slice(reply).ok()?;
    let server = &said["server"];
    let time = OffsetDateTime::parse(server["time"].as_str()?, &Rfc3339).ok()?;
    let time = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()?;
    let text = |field: &str| server[field].as_str().map(str::to_owned);
    Some(Answer {
        server: text("name")?,
        id: text("id")?,
        ahead: Between::of(time, asked, heard),
        said: said.get_mut("data").map(Value::take)?,
    })
}

/// Milliseconds since 1970 by this machine's clock.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn is_refusal(error: &ConnectError) -> bool {
    use ConnectErrorKind::{Authentication, AuthorizationViolation, Tls};
    matches!(error.kind(), Authentication | AuthorizationViolation | Tls)
}

/// The library's error and what is behind it.
fn told(error: &ConnectError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_time_it_is_there() {
        let server = json!({ "name": "n1", "id": "ID", "time": "1970-01-01T00:00:02.5004Z" });
        let reply = json!({ "server": server, "data": { "remotes": 2 } }).to_string();
        let answer = answer(reply.as_bytes(), 1_000, 2_000).expect("it is one");
        assert_eq!(answer.ahead, Between { least: 500, most: 1_500 });
        assert_eq!((answer.server.as_str(), &answer.said["remotes"]), ("n1", &json!(2)));
        let wrong = json!({ "server": { "name": "n1" }, "error": { "code": 400 } }).to_string();
        assert!(super::answer(wrong.as_bytes(), 0, 0).is_none());
        assert!(super::answer(b"not JSON", 0, 0).is_none());
    }
}
