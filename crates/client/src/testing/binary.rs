//! The relay's binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::TestRelayError;

/// Looked for once per process.
pub(super) fn binary() -> Result<PathBuf, TestRelayError> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("VALISE_BIN").filter(|path| !path.is_empty()) {
            return Ok(path.into());
        }
        let test = std::env::current_exe().map_err(|error| error.to_string())?;
        // Tests are in target/PROFILE/deps, examples in target/PROFILE/examples.
        let beside = test.ancestors().skip(1).take(2).map(|folder| folder.join("valise"));
        beside.into_iter().find(|path| path.is_file()).map_or_else(|| build(&test), Ok)
    });
    found.clone().map_err(TestRelayError::NoBinary)
}

/// Builds the relay in the profile of the test.
fn build(test: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = test
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps") && !folder.ends_with("examples"));
    let profile = profile.ok_or("the test is in no folder")?;
    let is_release = profile.ends_with("release");
    let mut command = Command::new(cargo);
    command.args(["build", "-p", "valise"]).args(is_release.then_some("--release"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let output = command.output().map_err(|error| error.to_string())?;
    let built = profile.join("valise");
    if output.status.success() && built.is_file() {
        Ok(built)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
