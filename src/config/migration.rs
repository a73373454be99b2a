//! The part of the configuration that is about the move into a data centre.

use super::MigrationConfig;
use super::check::Check;
use super::error::ConfigError;

/// Checks the section. The address may be one that others reach: nobody is let in without the key.
pub(super) fn check(check: &Check<'_>) -> Result<Option<MigrationConfig>, ConfigError> {
    let raw = &check.raw.migration;
    let (listen, importer) = match (&raw.listen, &raw.importer) {
        (None, None) => return Ok(None),
        (Some(listen), Some(importer)) => (listen, importer),
        (Some(_), None) => {
            let message = "migration.listen needs to know who is let in: add migration.importer";
            return Err(check.conflict("migration", "listen", message.to_owned()));
        }
        (None, Some(_)) => {
            let message = "migration.importer has no effect without migration.listen";
            return Err(check.conflict("migration", "importer", message.to_owned()));
        }
    };
    if check.raw.cluster.servers.is_some() {
        let message =
            "a node of a data centre cannot move into one: remove [migration], or [cluster]";
        return Err(check.conflict("migration", "listen", message.to_owned()));
    }
    let wrong = |name, text: &str| check.wrong("migration", name, format!("`{text}`"), None);
    Ok(Some(MigrationConfig {
        listen: listen.parse().map_err(|_| wrong("listen", listen))?,
        importer: importer.parse().map_err(|_| wrong("importer", importer))?,
    }))
}
