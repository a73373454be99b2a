//! Chat over a Valise relay, in the terminal.

use std::process::ExitCode;

use clap::Parser;
use valise_chat::cli::arguments::Arguments;
use valise_chat::cli::{Exit, run};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            error.print().ok();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let exit = match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(run(arguments));
            // A thread that reads the terminal or standard input cannot be called back.
            runtime.shutdown_background();
            exit
        }
        Err(_) => Exit::Software,
    };
    exit.into()
}
