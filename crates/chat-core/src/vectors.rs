//! The test vectors in `crates/chat-core/vectors/` (docs/PROTOCOL.md, section 37): what every chat
//! client must write and read, as JSON. Byte strings are lower-case hex.
//!
//! `VALISE_WRITE_VECTORS=1 cargo test -p valise-chat-core --lib vectors` writes the files anew.
//! Without the variable a test fails where a file differs from what the code says. A change of an
//! existing vector is a change of the protocol.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde_json::Value;

/// Compares a vector file with what the code says, or writes it.
pub(crate) fn settle(file: &str, value: &Value) {
    let text = format!("{}\n", serde_json::to_string_pretty(value).unwrap());
    if are_to_be_written() {
        std::fs::create_dir_all(path(file).parent().unwrap()).unwrap();
        std::fs::write(path(file), &text).unwrap();
    }
    let on_disk = std::fs::read_to_string(path(file)).unwrap_or_default();
    assert!(on_disk == text, "{file} differs from what the code says");
}

/// Whether the files are written anew instead of compared.
pub(crate) fn are_to_be_written() -> bool {
    std::env::var_os("VALISE_WRITE_VECTORS").is_some()
}

/// The file as it is; null: there is none.
pub(crate) fn on_disk(file: &str) -> Value {
    std::fs::read(path(file)).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap())
}

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file)
}

pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

pub(crate) fn unhex(text: &Value) -> Vec<u8> {
    HEXLOWER.decode(text.as_str().unwrap().as_bytes()).unwrap()
}

/// Bytes that count up from `first`: nothing in a vector can be swapped unseen.
pub(crate) fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|i| first.wrapping_add(i as u8))
}
