//! JSON-RPC 2.0 between front ends and the process that holds the engine: one object per line, both
//! ways, over the profile's socket or over standard input and output. Methods are the commands of
//! [`valise_chat_core::api::Command`]; after `subscribe`, each event is a notification `event`.

mod client;
mod lines;
mod message;
mod server;

pub use client::Remote;
use lines::{LINE_MAX, Line, Lines};
pub use server::{Server, serve_stream};

use std::path::{Path, PathBuf};

use valise_chat_core::vault::SOCKET;

/// The longest socket path that the system takes, less the zero at its end.
const SOCKET_PATH_MAX: usize = 107;

/// The socket of a profile, and by which path to use it: one that is too long for the system is
/// reached through the directory's descriptor, which must stay open meanwhile.
fn socket_path(directory: &Path) -> std::io::Result<(PathBuf, Option<std::fs::File>)> {
    use std::os::fd::AsRawFd;

    let path = directory.join(SOCKET);
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok((path, None));
    }
    let open = std::fs::File::open(directory)?;
    let short = format!("/proc/self/fd/{}/{}", open.as_raw_fd(), SOCKET);
    Ok((short.into(), Some(open)))
}
