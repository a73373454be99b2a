//! `valisectl migrate`: moves the realm of a supernode into a data centre while its users keep chatting.
//! It dials both; the decisions are those of `valise_migration`, and whatever it was about when it ended
//! it finds out again when it is started.

mod control;
mod crew;
mod drive;
mod ebb;
mod link;
mod passing;
mod picture;
mod plan;
mod shard;
mod user;

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use valise::cli::Exit;
use valise::config::Surroundings;
use valise::migration::PeerKey;
use valise::store::jetstream::Center;

use crate::ask::now_ms;
use crate::cli::{Between, Led, Migrate};
use crate::exit::{CRITICAL, FINE, Failure, WARNING};
use crate::limits::{LINK_ANSWER_SECONDS, PROGRESS_SECONDS};
use crate::migrate::control::{Control, Orders, Word, say};
use crate::migrate::drive::{Driver, End, Leading};
use crate::migrate::link::{Dial, Linked, Session};
use crate::migrate::passing::Passing;
use crate::migrate::picture::Picture;
use crate::migrate::plan::{Facts, Verdict, ahead_ms, judge};

/// How something is printed.
pub(crate) type Print = fn(&str) -> Result<u8, Failure>;

/// Does what was asked for.
pub(crate) async fn run(
    command: Migrate,
    surroundings: &Surroundings,
    print: Print,
) -> Result<u8, Failure> {
    match command {
        Migrate::Key { key } => {
            let key = PeerKey::open_or_make(&key).map_err(of_key)?;
            print(&format!("{}\n", key.pin()))
        }
        Migrate::User { realm } => print(&user::entry(&realm)),
        Migrate::Plan { between, led, json } => {
            // The supernode passes posts on to whoever has connected last.
            if say(&between.key, Word::Status).await.map_err(of_socket)?.is_some() {
                let said = "an importer with this key runs: `valisectl migrate status` asks it";
                return Err(Failure::new(said, Exit::TryAgain));
            }
            plan(&Sides::open(&between, surroundings).await?, &led, json, print).await
        }
        Migrate::Start { between, led, parallel, finish, json, .. } => {
            let parallel = usize::from(parallel);
            let Some(control) = Control::open(&between.key).await.map_err(of_socket)? else {
                return Err(Failure::new("an importer with this key runs already", Exit::TryAgain));
            };
            let leading = Leading { endpoints: led.endpoints, per_second: led.per_second };
            let orders = Orders { finish, ..Orders::default() };
            let sides = Sides::open(&between, surroundings).await?;
            drive(sides, control, (leading, orders, parallel), json, print).await
        }
        Migrate::Status { between, json } => {
            if let Some(said) = say(&between.key, Word::Status).await.map_err(of_socket)? {
                return print(&said);
            }
            let sides = Sides::open(&between, surroundings).await?;
            let picture = sides.look().await?;
            print(&picture.text(json))
        }
        Migrate::Pause { key } => tell(&key, Word::Pause, print).await,
        Migrate::Resume { key } => tell(&key, Word::Resume, print).await,
        Migrate::Finish { key } => tell(&key, Word::Finish, print).await,
        Migrate::Abort { between, json } => abort(&between, surroundings, json, print).await,
    }
}

/// Says a word to the importer that runs.
async fn tell(key: &Path, word: Word, print: Print) -> Result<u8, Failure> {
    match say(key, word).await.map_err(of_socket)? {
        Some(said) => print(&said),
        None => Err(Failure::new("no importer with this key runs here", Exit::Unavailable)),
    }
}

/// The two between which a realm moves.
struct Sides {
    center: Arc<Center>,
    linked: watch::Receiver<Linked>,
    passing: Arc<Passing>,
    realm: valise_client::proto::RealmId,
    /// Ended when this is dropped.
    _keeping: tokio::task::JoinSet<()>,
}

impl Sides {
    /// Connects to the data centre, and begins to dial the supernode.
    async fn open(between: &Between, surroundings: &Surroundings) -> Result<Self, Failure> {
        let bus = between.bus(surroundings)?;
        let own = PeerKey::open(&between.key).map_err(of_key)?.ok_or_else(|| {
            let said = format!(
                "there is no key in {}: make one with `valisectl migrate key --key FILE`, and tell the \
                 supernode its pin (migration.importer)",
                between.key.display()
            );
            Failure::new(said, Exit::NoInput)
        })?;
        let realm = between.realm;
        let center = Center::open(&bus, &realm).await;
        let center = Arc::new(center.map_err(|error| Failure::new(&error, Exit::from(&error)))?);
        let passing = Arc::new(Passing::new(Arc::clone(&center)));
        let (told, linked) = watch::channel(Linked::default());
        let dial = Dial {
            address: between.supernode.clone(),
            own,
            supernode: between.supernode_key,
            realm,
        };
        let mut keeping = tokio::task::JoinSet::new();
        let passes = Arc::clone(&passing);
        keeping.spawn(async move { dial.keep(passes, told).await });
        Ok(Self { center, linked, passing, realm, _keeping: keeping })
    }

    /// The connection to the supernode, if there is one soon.
    async fn session(&self) -> Result<Session, Failure> {
        let mut linked = self.linked.clone();
        let patience = Duration::from_secs(LINK_ANSWER_SECONDS) / 2;
        let there = timeout(patience, linked.wait_for(|linked| linked.session.is_some())).await;
        if let Ok(Ok(linked)) = &there
            && let Some(session) = linked.session.clone()
        {
            return Ok(session);
        }
        drop(there);
        let trouble = self.linked.borrow().trouble.clone();
        let said = trouble.unwrap_or_else(|| "the supernode does not answer".to_owned());
        Err(Failure::new(said, Exit::Unavailable))
    }

    /// What it looks like, without changing anything; without the supernode, as far as can be told.
    async fn look(self) -> Result<Picture, Failure> {
        let session = self.session().await;
        let leading = Leading { endpoints: Vec::new(), per_second: 0 };
        let driver = self.driver(LOOK_TOGETHER, leading, Orders::default());
        let looked = driver.crew.look(session.as_ref().ok()).await;
        looked.map_err(|_| Failure::new("the data centre does not answer", Exit::Unavailable))?;
        let mut picture = driver.picture();
        picture.phase = "no importer runs";
        Ok(picture)
    }

    fn driver(&self, parallel: usize, leading: Leading, orders: Orders) -> Driver {
        let (center, passing) = (Arc::clone(&self.center), Arc::clone(&self.passing));
        Driver::new(center, passing, self.linked.clone(), parallel, leading, orders)
    }
}

/// Ledgers that are read at a time where nothing else is done.
const LOOK_TOGETHER: usize = 16;

async fn plan(sides: &Sides, led: &Led, json: bool, print: Print) -> Result<u8, Failure> {
    let session = sides.session().await?;
    let of_bus = |error| Failure::new(&error, Exit::from(&error));
    let room = sides.center.room().await.map_err(of_bus)?;
    let record = sides.center.realm_record().await.map_err(of_bus)?;
    let leading = Leading { endpoints: Vec::new(), per_second: 0 };
    let driver = sides.driver(LOOK_TOGETHER, leading, Orders::default());
    let looked = driver.crew.look(Some(&session)).await;
    looked.map_err(|_| Failure::new("one of the two does not answer", Exit::Unavailable))?;
    // The way was measured at least once meanwhile.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = now_ms();
    let time = sides.center.server_time().await.map_err(of_bus)?;
    let ahead_ms = ahead_ms(&time, asked, now_ms());
    let facts = Facts {
        realm: sides.realm,
        welcome: &session.welcome,
        record: record.as_deref(),
        endpoints: &led.endpoints,
        room,
        trip: session.trip(),
        ahead_ms,
        seen: &driver.crew.seen(),
    };
    let lines = judge(&facts);
    if json {
        let text = serde_json::to_string_pretty(&lines).expect("JSON can be written");
        print(&format!("{text}\n"))?;
    } else {
        for line in &lines {
            let mark = match line.verdict {
                Verdict::Well => "well   ",
                Verdict::Warning => "warning",
                Verdict::Wrong => "WRONG  ",
            };
            print(&format!("{mark}  {}\n", line.said))?;
        }
    }
    Ok(match lines.iter().map(|line| line.verdict).max() {
        None | Some(Verdict::Well) => FINE,
        Some(Verdict::Warning) => WARNING,
        Some(Verdict::Wrong) => CRITICAL,
    })
}

/// Drives a migration until its end, or until it is told to stop.
async fn drive(
    sides: Sides,
    control: Control,
    (leading, orders, parallel): (Leading, Orders, usize),
    json: bool,
    print: Print,
) -> Result<u8, Failure> {
    let driver = sides.driver(parallel, leading, orders);
    let of_signal = |error| Failure::new(format!("signals: {error}"), Exit::InputOutput);
    let mut terminate = signal(SignalKind::terminate()).map_err(of_signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(of_signal)?;
    let mut running = pin!(driver.run());
    let mut hearing = pin!(control.hear(&driver.orders, || driver.picture()));
    let mut ticks = interval(Duration::from_secs(PROGRESS_SECONDS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut printed, mut quiet) = (Picture::default(), 0);
    loop {
        tokio::select! {
            end = &mut running => {
                print(&driver.picture().text(json))?;
                let said = match end {
                    End::Finished => "finished: the supernode is wiped\n",
                    End::GivenUp => "given up: everything is at the supernode, and nothing here\n",
                };
                if !json {
                    print(said)?;
                }
                return Ok(FINE);
            }
            () = &mut hearing => {}
            _ = terminate.recv() => return Ok(FINE),
            _ = interrupt.recv() => return Ok(FINE),
            _ = ticks.tick() => {
                let picture = driver.picture();
                quiet += 1;
                if picture != printed || quiet >= QUIET {
                    print(&picture.text(json))?;
                    (printed, quiet) = (picture, 0);
                }
            }
        }
    }
}

/// Ticks after which a line is printed although nothing has changed.
const QUIET: u32 = 10;

/// Gives the migration up: by the importer that runs, or without one.
async fn abort(
    between: &Between,
    surroundings: &Surroundings,
    json: bool,
    print: Print,
) -> Result<u8, Failure> {
    // Whether it was given up is looked at here, whatever became of the one that was told.
    let control = loop {
        match Control::open(&between.key).await.map_err(of_socket)? {
            Some(control) => break control,
            None => until_ended(&between.key).await?,
        }
    };
    let sides = Sides::open(between, surroundings).await?;
    sides.session().await?;
    let leading = Leading { endpoints: Vec::new(), per_second: 0 };
    let looking = sides.driver(LOOK_TOGETHER, leading.clone(), Orders::default());
    looking
        .crew
        .look(None)
        .await
        .map_err(|_| Failure::new("the data centre does not answer", Exit::Unavailable))?;
    refuse_late(&looking.picture())?;
    let orders = Orders { abort: true, ..Orders::default() };
    drive(sides, control, (leading, orders, LOOK_TOGETHER), json, print).await
}

/// The importer that runs is to give the migration up, and ends then.
async fn until_ended(key: &Path) -> Result<(), Failure> {
    let mut word = Word::Abort;
    loop {
        let Some(said) = say(key, word).await.map_err(of_socket)? else { return Ok(()) };
        if has_shards_there(&said) {
            return Err(too_late());
        }
        word = Word::Status;
        tokio::time::sleep(Duration::from_secs(PROGRESS_SECONDS)).await;
    }
}

/// Whether an importer says that shards are the data centre's. What it does not say is looked at once it has
/// ended.
fn has_shards_there(said: &str) -> bool {
    let said: serde_json::Value = serde_json::from_str(said).unwrap_or_default();
    let count = |at: &&str| said["shards"][*at].as_u64().unwrap_or_default();
    ["owned", "moved", "gone"].iter().any(|at| count(at) > 0)
}

fn refuse_late(picture: &Picture) -> Result<(), Failure> {
    let shards = picture.shards;
    if shards.owned + shards.moved + shards.gone > 0 { Err(too_late()) } else { Ok(()) }
}

fn too_late() -> Failure {
    let said =
        "shards are the data centre's already: the migration cannot be given up any more; go on \
                with `valisectl migrate start`"
            .to_owned();
    Failure { said, code: CRITICAL }
}

fn of_key(error: valise::migration::KeyError) -> Failure {
    Failure::new(&error, Exit::Data)
}

fn of_socket(error: std::io::Error) -> Failure {
    Failure::new(format!("the importer's socket: {error}"), Exit::InputOutput)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::picture::Shards;

    #[test]
    fn only_shards_that_are_there_are_too_late() {
        let of = |shards| Picture { shards, ..Picture::default() }.text(true);
        let none = Shards::default();
        for early in [none, Shards { waiting: 256, ..none }, Shards { sealed: 1, ..none }] {
            assert!(!has_shards_there(&of(early)), "{early:?}");
        }
        for late in
            [Shards { owned: 1, ..none }, Shards { moved: 1, ..none }, Shards { gone: 1, ..none }]
        {
            assert!(has_shards_there(&of(late)), "{late:?}");
        }
        // It ended before it had said anything, or everything.
        assert!(!has_shards_there(""));
        assert!(!has_shards_there("{\"phase\":"));
    }
}
