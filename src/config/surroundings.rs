//! What the configuration depends on beside its file: the environment and the system's limits. Read
//! once, so that checking a configuration is a function of its inputs.

use std::env;

use rustix::process::{Resource, getrlimit, setrlimit};

/// The process's surroundings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Environment variables; those that are not UTF-8 are left out.
    pub variables: Vec<(String, String)>,
    /// How many files and sockets the process may have open.
    pub descriptors: u64,
}

impl Surroundings {
    /// Those of this process. Raises the limit of open files as far as the system allows, as every
    /// server has to: the soft limit is low for the sake of programs that use `select`.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self { variables: env::vars_os().filter_map(text).collect(), descriptors: descriptors() }
    }

    /// The value of a variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .iter()
            .find(|(variable, value)| variable == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

fn descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let mut raised = limit;
    raised.current = limit.maximum;
    let granted =
        if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    // No limit at all.
    granted.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_to_the_hard_one() {
        let surroundings = Surroundings::of_process();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(surroundings.descriptors, limit.maximum.unwrap_or(u64::MAX));
        assert!(surroundings.variable("PATH").is_some());
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let variables = vec![("A".to_owned(), String::new()), ("B".to_owned(), "b".to_owned())];
        let surroundings = Surroundings { variables, descriptors: 0 };
        assert_eq!(surroundings.variable("A"), None);
        assert_eq!(surroundings.variable("B"), Some("b"));
        assert_eq!(surroundings.variable("C"), None);
    }
}
