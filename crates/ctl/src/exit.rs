//! How the process ends. A check ends as monitoring programs expect it; where nothing could be checked,
//! with the codes of sysexits.h, as the relay does.

use valise::cli::Exit;
use valise::config::ConfigError;

use crate::ask::AskError;
use crate::finding::{Finding, Severity};

/// Nothing was found.
pub(crate) const FINE: u8 = 0;
/// Warnings were found, and nothing worse.
pub(crate) const WARNING: u8 = 1;
/// Something was found that has to be looked at now.
pub(crate) const CRITICAL: u8 = 2;

pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 nothing was found; 1 warnings only; 2 something has to be looked at now; 64 the command line is \
wrong; 69 no server can be reached; 73, 74, 75 the state directory cannot be made, written, or is in use; 77 the \
servers do not let this operator in; 78 the configuration is wrong, or the user is none of the system account.";

/// How a check ends.
pub(crate) fn of_findings(findings: &[Finding]) -> u8 {
    match findings.iter().map(|finding| finding.kind.severity()).max() {
        None => FINE,
        Some(Severity::Warning) => WARNING,
        Some(Severity::Critical) => CRITICAL,
    }
}

/// Why something was not done, and the code for it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) said: String,
    pub(crate) code: u8,
}

impl Failure {
    pub(crate) fn new(said: impl ToString, exit: Exit) -> Self {
        Self { said: said.to_string(), code: exit.code() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(&error, Exit::from(&error))
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let exit = match &error {
            AskError::Unreachable(_) => Exit::Unavailable,
            AskError::Refused(_) => Exit::NoPermission,
            AskError::Untrusted(_) | AskError::NotAnOperator => Exit::Configuration,
        };
        Self::new(&error, exit)
    }
}

impl From<valise::identity::StateError> for Failure {
    fn from(error: valise::identity::StateError) -> Self {
        Self::new(&error, Exit::from(&error))
    }
}

impl From<valise::identity::IdentityError> for Failure {
    fn from(error: valise::identity::IdentityError) -> Self {
        Self::new(&error, Exit::from(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Kind;

    #[test]
    fn the_worst_counts() {
        let finding = |kind| Finding::new(kind, "x", "y");
        assert_eq!(of_findings(&[]), 0);
        assert_eq!(of_findings(&[finding(Kind::Filling)]), 1);
        assert_eq!(of_findings(&[finding(Kind::Filling), finding(Kind::Consumer)]), 2);
    }

    #[test]
    fn the_codes_are_those_that_are_documented() {
        let codes = [
            (AskError::Unreachable(String::new()), 69),
            (AskError::Refused(String::new()), 77),
            (AskError::Untrusted(String::new()), 78),
            (AskError::NotAnOperator, 78),
        ];
        for (error, code) in codes {
            assert_eq!(Failure::from(error).code, code);
        }
    }
}
