//! `--fail-if`: conditions over the numbers of the report, such as `p99>50ms`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// The numbers of a report by key; parts of a key are joined by dots. `None` is a number that this
/// run did not measure.
pub(crate) type Numbers = BTreeMap<String, Option<f64>>;

/// One condition that makes a run fail.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    /// As it was written.
    text: String,
    key: String,
    comparison: Comparison,
    /// In the key's own unit.
    value: f64,
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FailIfError {
    /// There is no comparison in it.
    #[error("'{0}' compares nothing; write it like p99>50ms, with one of > >= < <= == !=")]
    NoComparison(String),
    /// The report has no such number.
    #[error("the report has no number '{key}'; it has: {known}")]
    UnknownKey {
        /// What was asked for.
        key: String,
        /// Every key there is.
        known: String,
    },
    /// What stands behind the comparison is no number.
    #[error("'{0}' is not a number")]
    NotANumber(String),
    /// The unit does not fit the key.
    #[error("'{unit}' is no unit of {key}; use {fitting}")]
    Unit {
        /// What was written.
        unit: String,
        /// The key it was written for.
        key: String,
        /// The units that fit.
        fitting: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Equal,
    NotEqual,
}

/// Longer ones first: `>=` begins with `>`.
const COMPARISONS: [(&str, Comparison); 6] = [
    (">=", Comparison::GreaterOrEqual),
    ("<=", Comparison::LessOrEqual),
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    (">", Comparison::Greater),
    ("<", Comparison::Less),
];

type Units = &'static [(&'static str, f64)];

/// The last part of a key says its unit; a value may be given in these, in multiples of that.
const UNITS: [(&str, Units); 5] = [
    ("_us", &[("ns", 0.001), ("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 6e7)]),
    ("_ms", &[("ns", 1e-6), ("us", 0.001), ("ms", 1.0), ("s", 1e3), ("m", 6e4)]),
    ("_s", &[("ns", 1e-9), ("us", 1e-6), ("ms", 0.001), ("s", 1.0), ("m", 60.0)]),
    ("_percent", &[("%", 1.0)]),
    ("bytes", &[("B", 1.0), ("KiB", 1_024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0)]),
];

/// Reads conditions, separated by commas. `known` are the numbers a report has.
///
/// # Errors
/// [`FailIfError`] names what is wrong.
pub(crate) fn parse(text: &str, known: &Numbers) -> Result<Vec<Condition>, FailIfError> {
    text.split(',').map(|part| parse_one(part.trim(), known)).collect()
}

fn parse_one(text: &str, known: &Numbers) -> Result<Condition, FailIfError> {
    let (at, (symbol, comparison)) = text
        .char_indices()
        .find_map(|(at, _)| {
            COMPARISONS.iter().find(|(symbol, _)| text[at..].starts_with(symbol)).map(|c| (at, c))
        })
        .ok_or_else(|| FailIfError::NoComparison(text.to_owned()))?;
    let key = resolve(text[..at].trim(), known)?;
    let value = parse_value(text[at + symbol.len()..].trim(), &key)?;
    Ok(Condition { text: text.to_owned(), key, comparison: *comparison, value })
}

/// `p99` stands for `p99_us`: the unit may be left out where only one key fits.
fn resolve(key: &str, known: &Numbers) -> Result<String, FailIfError> {
    if known.contains_key(key) {
        return Ok(key.to_owned());
    }
    let with_unit = UNITS.iter().map(|(suffix, _)| {
        let underscore = if suffix.starts_with('_') { "" } else { "_" };
        format!("{key}{underscore}{suffix}")
    });
    let fitting: Vec<String> = with_unit.filter(|key| known.contains_key(key)).collect();
    match &fitting[..] {
        [only] => Ok(only.clone()),
        _ => Err(FailIfError::UnknownKey {
            key: key.to_owned(),
            known: known.keys().cloned().collect::<Vec<_>>().join(" "),
        }),
    }
}

fn parse_value(text: &str, key: &str) -> Result<f64, FailIfError> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && !"._+-".contains(c));
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let not_a_number = || FailIfError::NotANumber(text.to_owned());
    let number: f64 = number.replace('_', "").parse().map_err(|_| not_a_number())?;
    let unit = unit.trim();
    if unit.is_empty() {
        return Ok(number);
    }
    let units = units_of(key);
    let scale = units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    scale.map(|scale| number * scale).ok_or_else(|| FailIfError::Unit {
        unit: unit.to_owned(),
        key: key.to_owned(),
        fitting: match units {
            [] => "no unit".to_owned(),
            _ => units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        },
    })
}

fn units_of(key: &str) -> Units {
    // A rate ends like a time; it has no unit of its own.
    if key.ends_with("_per_s") {
        return &[];
    }
    let units = UNITS.iter().find(|(suffix, _)| key.ends_with(suffix) || has_part(key, suffix));
    units.map_or(&[], |(_, units)| units)
}

/// `server_cpu_us_per_frame` is in microseconds, `rss_bytes_per_connection` in bytes.
fn has_part(key: &str, suffix: &str) -> bool {
    key.contains(&format!("{suffix}_per_"))
}

/// Every number in a report.
pub(crate) fn numbers(report: &Value) -> Numbers {
    let mut numbers = Numbers::new();
    collect("", report, &mut numbers);
    numbers
}

fn collect(key: &str, value: &Value, numbers: &mut Numbers) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if key.is_empty() { "" } else { "." };
                collect(&format!("{key}{dot}{name}"), value, numbers);
            }
        }
        Value::Null => drop(numbers.insert(key.to_owned(), None)),
        Value::Number(number) => drop(numbers.insert(key.to_owned(), number.as_f64())),
        Value::Bool(_) | Value::String(_) | Value::Array(_) => {}
    }
}

impl Condition {
    /// Why the run fails by this condition, if it does. A number that was not measured fails: a
    /// check that checks nothing must not pass.
    pub(crate) fn failure(&self, numbers: &Numbers) -> Option<String> {
        let Some(measured) = numbers.get(&self.key).copied().flatten() else {
            return Some(format!("{self}: {} was not measured in this run", self.key));
        };
        let holds = match self.comparison {
            Comparison::Greater => measured > self.value,
            Comparison::GreaterOrEqual => measured >= self.value,
            Comparison::Less => measured < self.value,
            Comparison::LessOrEqual => measured <= self.value,
            Comparison::Equal => measured == self.value,
            Comparison::NotEqual => measured != self.value,
        };
        holds.then(|| format!("{self}: {} is {measured}", self.key))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Numbers {
        numbers(&json!({
            "scenario": "one-to-one",
            "lost": 0,
            "p99_us": 49_000.5,
            "accepted_per_s": 36_000.0,
            "rss_bytes_per_connection": null,
            "tester": { "cpu_percent": 95.0 },
        }))
    }

    fn failures(text: &str) -> Vec<String> {
        let conditions = parse(text, &report()).unwrap();
        conditions.iter().filter_map(|condition| condition.failure(&report())).collect()
    }

    #[test]
    fn conditions_that_do_not_hold_pass() {
        for text in [
            "p99>50ms",
            "p99_us > 49_001",
            "lost>0",
            "lost!=0",
            "accepted_per_s<36000",
            "tester.cpu_percent>95%",
            "lost>0, p99>50ms",
        ] {
            assert_eq!(failures(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn conditions_that_hold_say_so() {
        assert_eq!(failures("p99>49ms"), ["p99>49ms: p99_us is 49000.5"]);
        assert_eq!(failures("p99>=0.04s,lost>0").len(), 1);
        assert_eq!(failures("lost==0"), ["lost==0: lost is 0"]);
        assert_eq!(failures("accepted_per_s<=36000").len(), 1);
        assert_eq!(failures("tester.cpu_percent>90").len(), 1);
    }

    #[test]
    fn a_number_that_was_not_measured_fails() {
        let failures = failures("rss_bytes_per_connection>12KiB");
        assert_eq!(failures.len(), 1);
        assert!(failures[0].contains("was not measured"), "{failures:?}");
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let error = |text| parse(text, &report()).unwrap_err().to_string();
        assert!(error("p99").contains("compares nothing"), "{}", error("p99"));
        assert!(error("").contains("compares nothing"));
        assert!(error("p98>5").contains("no number 'p98'; it has: accepted_per_s lost"));
        assert!(error("scenario==3").contains("no number 'scenario'"));
        assert!(error("p99>fast").contains("'fast' is not a number"));
        assert!(error("p99>5KiB").contains("'KiB' is no unit of p99_us; use ns, us, ms, s, m"));
        assert!(error("lost>5ms").contains("'ms' is no unit of lost; use no unit"));
        assert!(error("accepted_per_s>5s").contains("use no unit"));
        assert!(error("lost>0,").contains("compares nothing"));
    }
}
