//! The connection to the supernode: it is dialled again and again, and each question that is asked on it
//! has one answer or none. Posts that the supernode passes on come on it too.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use valise::migration::peer::client_config;
use valise::migration::{PeerKey, Pin, message};
use valise_client::proto::RealmId;
use valise_migration::wire::{
    Answer, FromImporter, FromSupernode, MESSAGE_BYTES_MAX, Question, Users, VERSION, Welcome,
};

use super::passing::Passing;
use crate::limits::{
    LINK_ANSWER_SECONDS, LINK_DIAL_SECONDS, LINK_PING_MS, LINK_RETRY_MS_MAX, ROUND_TRIP_MS_MAX,
    ROUND_TRIPS,
};

/// Where the supernode is, and by what the two know each other.
pub(crate) struct Dial {
    pub(crate) address: String,
    pub(crate) own: PeerKey,
    pub(crate) supernode: Pin,
    pub(crate) realm: RealmId,
}

/// There was no answer: what was asked may happen, or have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

/// One connection, for as long as it lasts.
#[derive(Clone)]
pub(crate) struct Session {
    /// What the supernode has said of itself.
    pub(crate) welcome: Arc<Welcome>,
    shared: Arc<Shared>,
    out: mpsc::Sender<FromImporter>,
}

#[derive(Default)]
struct Shared {
    next: AtomicU32,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
    trips: Mutex<Trips>,
}

/// What the regular question has told.
#[derive(Default)]
struct Trips {
    last: VecDeque<Duration>,
    users: Option<Users>,
}

/// What is known of the connection.
#[derive(Clone, Default)]
pub(crate) struct Linked {
    /// None while there is none.
    pub(crate) session: Option<Session>,
    /// Why there is none.
    pub(crate) trouble: Option<String>,
}

impl Dial {
    async fn connect(&self) -> io::Result<impl AsyncRead + AsyncWrite + Send + use<>> {
        let config = client_config(&self.own, &self.supernode).map_err(io::Error::other)?;
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).expect("it is a name");
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    /// Keeps a connection, for as long as it is polled.
    pub(crate) async fn keep(self, passing: Arc<Passing>, told: watch::Sender<Linked>) {
        let mut wait = FIRST_WAIT;
        loop {
            let dialled = timeout(Duration::from_secs(LINK_DIAL_SECONDS), self.connect()).await;
            let dialled = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let began = Instant::now();
            let ended = match dialled {
                Ok(stream) => serve(stream, &self.realm, &passing, &told).await,
                Err(error) => Err(error),
            };
            let why = ended.err().map_or_else(|| "it has ended".to_owned(), |e| e.to_string());
            let trouble = Some(format!("the supernode at {} is away: {why}", self.address));
            told.send_replace(Linked { session: None, trouble });
            if began.elapsed() > Duration::from_secs(LINK_DIAL_SECONDS) {
                wait = FIRST_WAIT;
            }
            sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(LINK_RETRY_MS_MAX));
        }
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The pins are what is checked; the name is the same for everyone.
const NAME: &str = "valise-migration";

/// One connection, from its first message to its end.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send,
    realm: &RealmId,
    passing: &Arc<Passing>,
    told: &watch::Sender<Linked>,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let hello = Question::Hello { version: VERSION, realm: *realm.as_bytes() };
    message::write(&mut writer, &FromImporter::Ask(0, hello)).await?;
    let answer = timeout(ANSWER, message::read(&mut reader, MESSAGE_BYTES_MAX)).await;
    let welcome = match answer.map_err(|_| io::ErrorKind::TimedOut)?? {
        Some(FromSupernode::Answer(0, Answer::Welcome(welcome))) => welcome,
        None => {
            return Err(io::Error::other("it has closed the connection: is the realm its own?"));
        }
        Some(_) => return Err(io::Error::other("it does not introduce itself")),
    };
    if welcome.version != VERSION || welcome.realm != *realm.as_bytes() {
        let why = format!(
            "it speaks version {} of these messages, and this importer {VERSION}; or its realm is \
             another one",
            welcome.version
        );
        return Err(io::Error::other(why));
    }
    let (out, mut outgoing) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared { next: AtomicU32::new(1), ..Shared::default() });
    let welcome = Arc::new(welcome);
    let session = Session { welcome, shared: Arc::clone(&shared), out };
    told.send_replace(Linked { session: Some(session.clone()), trouble: None });
    let writing = async {
        while let Some(message) = outgoing.recv().await {
            message::write(&mut writer, &message).await?;
        }
        Ok::<_, io::Error>(())
    };
    let reading = async {
        while let Some(message) = message::read(&mut reader, MESSAGE_BYTES_MAX).await? {
            match message {
                FromSupernode::Answer(number, answer) => shared.answered(number, answer),
                FromSupernode::Pass(number, post) => {
                    passing.take(number, post, session.out.clone());
                }
            }
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = writing => ended,
        ended = reading => ended,
        Lost = session.ping() => Err(io::Error::other("it does not answer")),
    };
    told.send_replace(Linked::default());
    // Whoever waits for an answer hears that there will be none.
    shared.waiting().clear();
    ended
}

const ANSWER: Duration = Duration::from_secs(LINK_ANSWER_SECONDS);
/// Messages that wait to be written.
const QUEUE: usize = 256;

impl Session {
    /// Asks.
    ///
    /// # Errors
    /// [`Lost`].
    pub(crate) async fn ask(&self, question: Question) -> Result<Answer, Lost> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.shared.waiting().insert(number, answer);
        let asked = async {
            self.out.send(FromImporter::Ask(number, question)).await.map_err(|_| Lost)?;
            answered.await.map_err(|_| Lost)
        };
        let outcome = timeout(ANSWER, asked).await;
        self.shared.waiting().remove(&number);
        outcome.unwrap_or(Err(Lost))
    }

    /// Whether the last round trips were short: a shard is sealed for a few of them.
    pub(crate) fn is_close(&self) -> bool {
        let trips = self.shared.trips();
        trips.last.len() == ROUND_TRIPS
            && trips.last.iter().all(|trip| trip.as_millis() < u128::from(ROUND_TRIP_MS_MAX))
    }

    /// The longest of the last round trips.
    pub(crate) fn trip(&self) -> Option<Duration> {
        self.shared.trips().last.iter().max().copied()
    }

    /// Who used the supernode a moment ago.
    pub(crate) fn users(&self) -> Option<Users> {
        self.shared.trips().users
    }

    /// Asks something now and then, until there is no answer.
    async fn ping(&self) -> Lost {
        loop {
            let asked = Instant::now();
            let Ok(Answer::Users(users)) = self.ask(Question::Users).await else { return Lost };
            {
                let mut trips = self.shared.trips();
                trips.last.push_back(asked.elapsed());
                if trips.last.len() > ROUND_TRIPS {
                    trips.last.pop_front();
                }
                trips.users = Some(users);
            }
            sleep(Duration::from_millis(LINK_PING_MS)).await;
        }
    }
}

impl Shared {
    fn answered(&self, number: u32, answer: Answer) {
        // Whoever gave up does not wait any more.
        if let Some(waiting) = self.waiting().remove(&number) {
            drop(waiting.send(answer));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Answer>>> {
        self.waiting.lock().expect("no one panics while it holds the lock")
    }

    fn trips(&self) -> MutexGuard<'_, Trips> {
        self.trips.lock().expect("no one panics while it holds the lock")
    }
}
