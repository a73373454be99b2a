//! `daemon`: the profile's engine without a front end of its own, for bots.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::thread::{self, JoinHandle};

use tokio::net::UnixStream;

use super::exit::Failure;
use super::output::say;
use super::session::Session;
use crate::rpc::serve_stream;

/// Serves until the engine is told to end, or with `stdio` until the input ends.
///
/// # Errors
/// [`Failure::NotYet`] when another process serves the profile, or the engine fails.
pub(super) async fn daemon(session: &Session, stdio: bool) -> Result<(), Failure> {
    if !session.is_local() && !stdio {
        let text =
            "another process holds the profile and serves it already: use it, or end it first";
        return Err(Failure::NotYet(text.to_owned()));
    }
    if !stdio {
        say("Serving the profile; SIGTERM or the method `shutdown` ends it.");
        return ended(session.api.ended().await);
    }
    let (stream, written) = stdio_stream().map_err(Failure::file("use standard input"))?;
    let (reader, writer) = stream.into_split();
    serve_stream(reader, writer, session.api.clone()).await;
    // The last answers are out before the process is.
    tokio::task::spawn_blocking(move || written.join()).await.ok();
    Ok(())
}

fn ended(why: Option<String>) -> Result<(), Failure> {
    why.map_or(Ok(()), |why| Err(Failure::NotYet(format!("the engine has ended: {why}"))))
}

/// Standard input and output as one stream: two threads carry the bytes, for reading the input
/// blocks. The second one ends when everything is written.
fn stdio_stream() -> io::Result<(UnixStream, JoinHandle<()>)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    let (mut input, mut output) = (theirs.try_clone()?, theirs);
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        io::copy(&mut io::stdin().lock(), &mut input).ok();
        input.shutdown(Shutdown::Write).ok();
    })?;
    let written = thread::Builder::new().name("stdout".to_owned()).spawn(move || {
        let mut stdout = io::stdout();
        // Nobody who listens: the input's end will follow.
        io::copy(&mut output, &mut stdout).ok();
    })?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, written))
}
