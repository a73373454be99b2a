//! Scenario files: named runs with the same keys as the flags, executed one after another.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::ops::Range;
use std::path::Path;

use clap::{CommandFactory, Parser};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::cli::Cli;
use crate::fail_if::Numbers;
use crate::plan::{Plan, PlanError};

/// A key is taken for a mistyped one if so few letters differ.
const TYPOS_MAX: usize = 3;

/// What is wrong with a scenario file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuiteError {
    #[error("cannot read {0}: {1}")]
    Read(String, std::io::Error),
    #[error("{place}: {message}")]
    Wrong {
        /// File and line.
        place: String,
        /// What.
        message: String,
    },
    #[error("{0} has no [[run]]")]
    Empty(String),
}

/// The plans of a file, all of them decided before the first one runs.
///
/// # Errors
/// [`SuiteError`] with the line.
pub(crate) fn plans(
    path: &Path,
    known: &Numbers,
    descriptors: u64,
) -> Result<Vec<Plan>, SuiteError> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| SuiteError::Read(name.clone(), error))?;
    File { name: &name, text: &text }.plans(known, descriptors)
}

struct File<'a> {
    name: &'a str,
    text: &'a str,
}

/// A word of a command line and where it stands.
type Entry<'a> = (&'a Spanned<toml::de::DeString<'a>>, &'a Spanned<DeValue<'a>>);

impl File<'_> {
    fn plans(&self, known: &Numbers, descriptors: u64) -> Result<Vec<Plan>, SuiteError> {
        let document = DeTable::parse(self.text).map_err(|error| {
            self.wrong(error.span().unwrap_or_default(), error.message().to_owned())
        })?;
        let mut plans: Vec<Plan> = Vec::new();
        for (key, value) in document.get_ref() {
            let DeValue::Array(runs) = value.get_ref() else {
                return Err(self.wrong(key.span(), "a scenario file has [[run]] tables".to_owned()));
            };
            if key.get_ref() != "run" {
                let message = format!("unknown table `{}`; did you mean `run`?", key.get_ref());
                return Err(self.wrong(key.span(), message));
            }
            for run in runs {
                let plan = self.plan(run, known, descriptors)?;
                if plans.iter().any(|earlier| earlier.name == plan.name) {
                    let message = format!("there is another run `{}`", plan.name);
                    return Err(self.wrong(run.span(), message));
                }
                plans.push(plan);
            }
        }
        if plans.is_empty() { Err(SuiteError::Empty(self.name.to_owned())) } else { Ok(plans) }
    }

    fn plan(
        &self,
        run: &Spanned<DeValue<'_>>,
        known: &Numbers,
        descriptors: u64,
    ) -> Result<Plan, SuiteError> {
        let DeValue::Table(keys) = run.get_ref() else {
            return Err(self.wrong(run.span(), "a run is a table".to_owned()));
        };
        let text = |key: &str| -> Result<Option<String>, SuiteError> {
            let Some(value) = keys.get(key) else { return Ok(None) };
            match value.get_ref() {
                DeValue::String(text) => Ok(Some(text.to_string())),
                _ => Err(self.wrong(value.span(), format!("`{key}` is a text"))),
            }
        };
        let scenario = text("scenario")?
            .ok_or_else(|| self.wrong(run.span(), "a run has a `scenario`".to_owned()))?;
        let place = keys.get("scenario").map_or_else(|| run.span(), Spanned::span);
        let mut words = vec!["valise-load".to_owned(), scenario.clone()];
        let flags = self.flags(&scenario, place.clone())?;
        for (key, value) in keys {
            if !["name", "scenario"].contains(&key.get_ref().as_ref()) {
                words.extend(self.words((key, value), &flags)?);
            }
        }
        let cli = Cli::try_parse_from(words).map_err(|error| {
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default();
            self.wrong(place.clone(), first.trim_start_matches("error: ").to_owned())
        })?;
        let (scenario, options) = cli.command.scenario().expect("its flags were found");
        let plan = Plan::new(scenario, options, known, descriptors)
            .map_err(|error: PlanError| self.wrong(place, error.to_string()))?;
        let name = text("name")?.unwrap_or_else(|| plan.name.clone());
        Ok(Plan { name, ..plan })
    }

    /// The flags of a scenario.
    fn flags(&self, scenario: &str, place: Range<usize>) -> Result<Vec<String>, SuiteError> {
        let command = Cli::command();
        let scenarios = || {
            let names = command.get_subcommands().map(|command| command.get_name().to_owned());
            names.filter(|name| !["run", "merge"].contains(&name.as_str()))
        };
        if !scenarios().any(|name| name == scenario) {
            let message =
                format!("unknown scenario `{scenario}`{}", suggestion(scenario, scenarios()));
            return Err(self.wrong(place, message));
        }
        let command = command.find_subcommand(scenario).expect("it was just found");
        Ok(command.get_arguments().filter_map(|flag| flag.get_long()).map(str::to_owned).collect())
    }

    /// The words one key stands for.
    fn words(&self, (key, value): Entry<'_>, flags: &[String]) -> Result<Vec<String>, SuiteError> {
        let name = key.get_ref().replace('_', "-");
        if !flags.contains(&name) {
            let known = flags.iter().cloned().chain(["name".to_owned(), "scenario".to_owned()]);
            let message = format!("unknown key `{name}`{}", suggestion(&name, known));
            return Err(self.wrong(key.span(), message));
        }
        let one = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::String(text) => Ok(format!("--{name}={text}")),
            DeValue::Integer(number) => {
                Ok(format!("--{name}={}", number.as_str().replace('_', "")))
            }
            DeValue::Float(number) => Ok(format!("--{name}={}", number.as_str().replace('_', ""))),
            _ => Err(self.wrong(value.span(), format!("`{name}` is a text or a number"))),
        };
        match value.get_ref() {
            DeValue::Boolean(true) => Ok(vec![format!("--{name}")]),
            DeValue::Boolean(false) => Ok(Vec::new()),
            DeValue::Array(values) => values.iter().map(one).collect(),
            _ => Ok(vec![one(value)?]),
        }
    }

    fn wrong(&self, place: Range<usize>, message: String) -> SuiteError {
        let before = &self.text.as_bytes()[..place.start.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        SuiteError::Wrong { place: format!("{}:{line}", self.name), message }
    }
}

fn suggestion(written: &str, known: impl Iterator<Item = String>) -> String {
    known
        .map(|candidate| (strsim::damerau_levenshtein(written, &candidate), candidate))
        .filter(|(typos, _)| *typos <= TYPOS_MAX)
        .min()
        .map_or_else(String::new, |(_, meant)| format!("; did you mean `{meant}`?"))
}

/// The worse of two exit codes: broken promises, then Ctrl-C, then conditions.
pub(crate) fn worse(one: u8, other: u8) -> u8 {
    [1, 130, 99].into_iter().find(|exit| [one, other].contains(exit)).unwrap_or(one.max(other))
}

/// How the runs of a file ended, in a line each: names and exit codes.
pub(crate) struct Outcome<'a>(pub(crate) &'a [(String, u8)]);

impl Display for Outcome<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, exit) in self.0 {
            let outcome = match exit {
                0 => "every promise kept",
                99 => "every promise kept, but a fail-if held",
                130 => "ended by Ctrl-C",
                _ => "PROMISES BROKEN, or it could not be carried out",
            };
            writeln!(f, "{name:<width$}  {outcome}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Scenario;
    use crate::report::Report;

    fn read(text: &str) -> Result<Vec<Plan>, String> {
        let known = crate::fail_if::numbers(&serde_json::to_value(Report::default()).unwrap());
        let file = File { name: "runs.toml", text };
        file.plans(&known, 20_000).map_err(|error| error.to_string())
    }

    #[test]
    fn the_keys_are_the_flags() {
        let plans = read(
            "[[run]]\nname = 'small'\nscenario = 'kill'\nclients = 10\nkills = 2\n\
             fail_if = ['lost>0', 'p99>1s']\nrate = 50.5\n\
             [[run]]\nscenario = 'stalled'\nduration = '3s'\nspawn = true\n",
        )
        .unwrap();
        assert_eq!((plans[0].name.as_str(), plans[0].clients, plans[0].kills), ("small", 10, 2));
        assert_eq!(plans[0].sinks.conditions.len(), 2);
        assert_eq!((plans[1].name.as_str(), plans[1].scenario), ("stalled", Scenario::Stalled));
    }

    #[test]
    fn mistakes_have_a_line_and_a_suggestion() {
        for (text, expected) in [
            (
                "[[run]]\nscenario = 'kill'\nclient = 10\n",
                "runs.toml:3: unknown key `client`; did you mean `clients`?",
            ),
            (
                "[[run]]\nscenario = 'stallen'\n",
                "runs.toml:2: unknown scenario `stallen`; did you mean `stalled`?",
            ),
            (
                "[[runs]]\nscenario = 'kill'\n",
                "runs.toml:1: unknown table `runs`; did you mean `run`?",
            ),
            ("\n[[run]]\nclients = 10\n", "a run has a `scenario`"),
            ("[[run]]\nscenario = 'kill'\nclients = 'ten'\n", "runs.toml:2: invalid value 'ten'"),
            ("[[run]]\nscenario = 'kill'\nclients = 1\n", "runs.toml:2: --clients: at least 2"),
            ("[[run]]\nscenario = 'kill'\n[[run]]\nscenario = 'kill'\n", "another run `kill`"),
            ("[[run]]\nscenario = [\n", "runs.toml:"),
            ("", "has no [[run]]"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_worst_exit_code_counts() {
        assert_eq!(worse(0, 99), 99);
        assert_eq!(worse(99, 1), 1);
        assert_eq!(worse(130, 99), 130);
        assert_eq!(worse(0, 0), 0);
    }

    #[test]
    fn the_committed_files_are_right() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let mut found = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(!read(&text).unwrap().is_empty());
            found += 1;
        }
        assert!(found >= 2);
    }
}
