//! The programs that tests start.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::TestRelayError;

/// A program of this workspace.
struct Program {
    /// The variable that names it, where it is somewhere else.
    variable: &'static str,
    name: &'static str,
    package: &'static str,
}

/// The relay. Looked for once per process.
pub(super) fn binary() -> Result<PathBuf, TestRelayError> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let program = Program { variable: "VALISE_BIN", name: "valise", package: "valise" };
    BINARY.get_or_init(|| program.find()).clone().map_err(TestRelayError::NoBinary)
}

/// The operators' tool, `valisectl`: the one that `VALISECTL_BIN` names, else found as the relay is.
///
/// # Errors
/// [`TestRelayError::NoTool`].
pub fn operators_tool() -> Result<PathBuf, TestRelayError> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let program = Program { variable: "VALISECTL_BIN", name: "valisectl", package: "valise-ctl" };
    BINARY.get_or_init(|| program.find()).clone().map_err(TestRelayError::NoTool)
}

impl Program {
    fn find(&self) -> Result<PathBuf, String> {
        if let Some(path) = std::env::var_os(self.variable).filter(|path| !path.is_empty()) {
            return Ok(path.into());
        }
        let test = std::env::current_exe().map_err(|error| error.to_string())?;
        // Tests are in target/PROFILE/deps, examples in target/PROFILE/examples.
        let beside = test.ancestors().skip(1).take(2).map(|folder| folder.join(self.name));
        beside.into_iter().find(|path| path.is_file()).map_or_else(|| self.build(&test), Ok)
    }

    /// Builds it in the profile of the test.
    fn build(&self, test: &Path) -> Result<PathBuf, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let profile = test
            .ancestors()
            .skip(1)
            .find(|folder| !folder.ends_with("deps") && !folder.ends_with("examples"));
        let profile = profile.ok_or("the test is in no folder")?;
        let is_release = profile.ends_with("release");
        let mut command = Command::new(cargo);
        command.args(["build", "-p", self.package]).args(is_release.then_some("--release"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
        let output = command.output().map_err(|error| error.to_string())?;
        let built = profile.join(self.name);
        if output.status.success() && built.is_file() {
            Ok(built)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}
