//! How an importer that runs is told what to do: a Unix socket beside its key, one word each way.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::picture::Picture;

/// What an importer is to do beside its work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Seal and copy nothing; what has moved goes on to be passed on.
    pub(crate) paused: bool,
    /// Give the migration up.
    pub(crate) abort: bool,
    /// Wipe the supernode, when nobody uses it any more.
    pub(crate) finish: bool,
}

/// A word to an importer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Status,
    Pause,
    Resume,
    Abort,
    Finish,
}

impl Word {
    const ALL: [Self; 5] = [Self::Status, Self::Pause, Self::Resume, Self::Abort, Self::Finish];

    const fn text(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Finish => "finish",
        }
    }

    fn obey(self, orders: &mut Orders) {
        match self {
            Self::Status => {}
            Self::Pause => orders.paused = true,
            Self::Resume => orders.paused = false,
            Self::Abort => (orders.abort, orders.finish) = (true, false),
            Self::Finish => orders.finish = true,
        }
    }
}

/// The socket of the importer with this key; removed when it is dropped.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

/// Where the socket of the importer with this key is.
fn socket(key: &Path) -> PathBuf {
    let mut path = key.as_os_str().to_owned();
    path.push(".socket");
    path.into()
}

impl Control {
    /// Listens; none where another importer does.
    pub(crate) async fn open(key: &Path) -> io::Result<Option<Self>> {
        let path = socket(key);
        if UnixStream::connect(&path).await.is_ok() {
            return Ok(None);
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Some(Self { listener, path }))
    }

    /// Hears, and answers with the picture of the moment, for as long as it is polled.
    pub(crate) async fn hear(&self, orders: &watch::Sender<Orders>, picture: impl Fn() -> Picture) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else { continue };
            // One after the other, and nobody is waited for.
            drop(timeout(PATIENCE, answer(stream, orders, &picture)).await);
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The next one removes what is left.
        fs::remove_file(&self.path).ok();
    }
}

const PATIENCE: Duration = Duration::from_secs(5);

async fn answer(
    stream: UnixStream,
    orders: &watch::Sender<Orders>,
    picture: impl Fn() -> Picture,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(64).read_line(&mut line).await?;
    let word = Word::ALL.into_iter().find(|word| word.text() == line.trim_end());
    if let Some(word) = word {
        orders.send_modify(|orders| word.obey(orders));
        stream.write_all(picture().text(true).as_bytes()).await?;
    }
    stream.shutdown().await
}

/// Says a word to the importer with this key, and returns what it looks like there as JSON; none where
/// none runs. One that ends before it answers may not have heard the word: it is said again until it is gone.
///
/// # Errors
/// The socket's; `TimedOut` where one runs and does not answer.
pub(crate) async fn say(key: &Path, word: Word) -> io::Result<Option<String>> {
    let saying = async {
        loop {
            let Ok(stream) = UnixStream::connect(socket(key)).await else { return Ok(None) };
            match exchange(stream, word).await {
                Ok(said) if !said.is_empty() => return Ok(Some(said)),
                Err(error) if !is_hung_up(&error) => return Err(error),
                _ => sleep(AGAIN).await,
            }
        }
    };
    timeout(PATIENCE, saying).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Until an importer that ended is asked for once more.
const AGAIN: Duration = Duration::from_millis(50);

async fn exchange(mut stream: UnixStream, word: Word) -> io::Result<String> {
    stream.write_all(format!("{}\n", word.text()).as_bytes()).await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    Ok(said)
}

fn is_hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_word_is_heard_and_obeyed() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = directory.path().join("importer.pem");
        assert_eq!(say(&key, Word::Pause).await.expect("none runs"), None);
        let control = Control::open(&key).await.expect("a socket").expect("none runs");
        let (orders, mut heard) = watch::channel(Orders::default());
        let picture = || Picture::of("copying", &[]);
        let hearing = control.hear(&orders, picture);
        let saying = async {
            let said = say(&key, Word::Pause).await.expect("it answers").expect("one runs");
            assert!(said.contains("\"phase\":\"copying\""), "{said}");
            assert!(Control::open(&key).await.expect("it is there").is_none(), "one runs");
            say(&key, Word::Abort).await.expect("it answers");
            say(&key, Word::Resume).await.expect("it answers");
        };
        tokio::select! {
            () = hearing => unreachable!("it hears for ever"),
            () = saying => {}
        }
        let expected = Orders { paused: false, abort: true, finish: false };
        assert_eq!(*heard.borrow_and_update(), expected);
        drop(control);
        assert_eq!(say(&key, Word::Status).await.expect("none runs"), None);
    }

    #[tokio::test]
    async fn one_that_ends_before_it_answers_has_said_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = directory.path().join("importer.pem");
        // It has read the word; it has not; it has not even taken the connection.
        for (takes, reads) in [(true, true), (true, false), (false, false)] {
            let control = Control::open(&key).await.expect("a socket").expect("none runs");
            let ending = async {
                if takes {
                    let (mut stream, _) = control.listener.accept().await.expect("it is said");
                    let mut heard = [0; 6];
                    if reads {
                        stream.read_exact(&mut heard).await.expect("abort");
                    }
                }
                sleep(AGAIN).await;
                drop(control);
            };
            let (said, ()) = tokio::join!(say(&key, Word::Abort), ending);
            assert_eq!(said.expect("it has ended"), None, "{takes} {reads}");
        }
    }
}
