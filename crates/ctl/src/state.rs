//! What a watch keeps in its state directory: alarms, so that a restart forgets none, and what operators
//! have acknowledged meanwhile.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use valise::cli::Exit;
use valise::identity::StateDirectory;

use crate::alarms::{Alarm, Alarms, Key};
use crate::exit::Failure;

const ALARMS: &str = "alarms.json";
/// One line for each, appended by `valisectl acknowledge`.
const ACKNOWLEDGED: &str = "acknowledged";
/// The same, while it is taken in.
const TAKEN: &str = "acknowledged.taken";

/// A file's form. A later one gets another number.
#[derive(Serialize, Deserialize)]
struct Form<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept<A> {
    alarms: Vec<A>,
}

/// Where it is, unless it is said.
pub(crate) fn default_directory() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    state.map(|state| state.join(crate::TOOL))
}

/// Reads a file of the state directory; its default where there is none.
pub(crate) fn read<T: DeserializeOwned + Default>(
    directory: &StateDirectory,
    name: &str,
) -> Result<T, Failure> {
    let Some(bytes) = directory.read(name)? else { return Ok(T::default()) };
    parse(&directory.file(name), &bytes)
}

/// Writes one.
pub(crate) fn write<T: Serialize>(
    directory: &StateDirectory,
    name: &str,
    content: &T,
) -> Result<(), Failure> {
    let form = Form { version: VERSION, content };
    let bytes = serde_json::to_vec_pretty(&form).expect("JSON can be written");
    Ok(directory.write(name, &bytes)?)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Failure> {
    let wrong = |what: String| {
        let said = format!("{}: {what}; move it away to begin anew", path.display());
        Failure::new(said, Exit::Data)
    };
    let form: Form<T> = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    match form.version {
        VERSION => Ok(form.content),
        other => Err(wrong(format!("its form is {other}, and this version knows {VERSION}"))),
    }
}

/// The alarms that were kept.
pub(crate) fn read_alarms(directory: &StateDirectory) -> Result<Alarms, Failure> {
    let kept: Option<Kept<Alarm>> = match directory.read(ALARMS)? {
        Some(bytes) => Some(parse(&directory.file(ALARMS), &bytes)?),
        None => None,
    };
    Ok(Alarms::restore(kept.map(|kept| kept.alarms).unwrap_or_default()))
}

/// Keeps them.
pub(crate) fn write_alarms(directory: &StateDirectory, alarms: &Alarms) -> Result<(), Failure> {
    write(directory, ALARMS, &Kept { alarms: alarms.all() })
}

/// The alarms that a watch keeps, read beside it.
pub(crate) fn look_at_alarms(directory: &Path) -> Result<Alarms, Failure> {
    let path = directory.join(ALARMS);
    let bytes = fs::read(&path).map_err(|error| {
        let said = format!("{}: {error}; is this the state directory of a watch?", path.display());
        Failure::new(said, Exit::NoInput)
    })?;
    let kept: Kept<Alarm> = parse(&path, &bytes)?;
    Ok(Alarms::restore(kept.alarms))
}

/// Lets the watch know that an operator knows.
pub(crate) fn acknowledge(directory: &Path, key: &Key) -> Result<(), Failure> {
    let path = directory.join(ACKNOWLEDGED);
    let line = serde_json::to_string(key).expect("JSON can be written");
    let file = fs::OpenOptions::new().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| writeln!(file, "{line}").and_then(|()| file.sync_all()));
    written.map_err(|error| failed(&path, &error))
}

/// What operators have acknowledged. To be called again once it was taken in: [`forget_acknowledged`].
pub(crate) fn acknowledged(directory: &StateDirectory) -> Result<Vec<Key>, Failure> {
    let taken = directory.file(TAKEN);
    // What an earlier process has taken and not taken in comes first.
    if !taken.exists() {
        match fs::rename(directory.file(ACKNOWLEDGED), &taken) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            renamed => renamed.map_err(|error| failed(&taken, &error))?,
        }
    }
    let text = fs::read_to_string(&taken).map_err(|error| failed(&taken, &error))?;
    // A line that was cut off acknowledges nothing.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// They are taken in.
pub(crate) fn forget_acknowledged(directory: &StateDirectory) {
    fs::remove_file(directory.file(TAKEN)).ok();
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()), Exit::InputOutput)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarms::Round;
    use crate::finding::{Finding, Kind};

    #[test]
    fn alarms_and_acknowledgements_outlive_a_watch() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = StateDirectory::open(place.path()).expect("it is free");
        assert_eq!(read_alarms(&directory).expect("none is none"), Alarms::default());
        let mut alarms = Alarms::default();
        let findings = [Finding::new(Kind::Consumer, "MB_1_3", "somebody")];
        alarms.round(Round { findings: &findings, seen: true, acknowledged: &[], now: 7 });
        write_alarms(&directory, &alarms).expect("there is room");
        assert_eq!(read_alarms(&directory).expect("it was written"), alarms);
        assert_eq!(look_at_alarms(place.path()).expect("beside it"), alarms);

        let key = Key { kind: Kind::Consumer, subject: "MB_1_3".to_owned() };
        assert_eq!(acknowledged(&directory).expect("none"), []);
        acknowledge(place.path(), &key).expect("there is room");
        assert_eq!(acknowledged(&directory).expect("one"), std::slice::from_ref(&key));
        // Killed before it was taken in.
        assert_eq!(acknowledged(&directory).expect("still one"), [key]);
        forget_acknowledged(&directory);
        assert_eq!(acknowledged(&directory).expect("none again"), []);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = StateDirectory::open(place.path()).expect("it is free");
        for text in ["", "{}", r#"{"version": 2, "alarms": []}"#] {
            directory.write(ALARMS, text.as_bytes()).expect("there is room");
            let failure = read_alarms(&directory).expect_err("it is damaged");
            assert_eq!(failure.code, Exit::Data.code(), "{}", failure.said);
            assert!(failure.said.contains("alarms.json"), "{}", failure.said);
        }
    }
}
