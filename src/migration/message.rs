//! Messages on the stream: four bytes of length, big-endian, and the message. Both ends use it.

use std::io::{self, ErrorKind};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use valise_migration::real::{decode, encode};

/// Reads a message of at most so many bytes; none where the stream ends before its first byte. The memory
/// for it is there as it comes, not as it is announced. Not cancel-safe.
///
/// # Errors
/// The stream's; `InvalidData` for a message that is too long or is none.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<Option<T>> {
    let length = match stream.read_u32().await {
        Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > bytes_max {
        let why = format!("a message of {length} bytes, where {bytes_max} are allowed");
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let none = || io::Error::new(ErrorKind::InvalidData, "a message that cannot be read");
    decode(&bytes).map(Some).ok_or_else(none)
}

/// Writes a message, and flushes.
///
/// # Errors
/// The stream's.
///
/// # Panics
/// Never: no message has 4 GiB.
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    let body = encode(message);
    let length = u32::try_from(body.len()).expect("messages are far below 4 GiB");
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use valise_migration::wire::{FromImporter, Question};

    async fn came(bytes: &[u8]) -> Result<Option<FromImporter>, ErrorKind> {
        read(&mut &*bytes, 100).await.map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        let messages = [FromImporter::Ask(7, Question::Report(200)), FromImporter::Passed(9, 1)];
        for message in &messages {
            write(&mut bytes, message).await.unwrap();
        }
        let mut stream = &bytes[..];
        for message in messages {
            assert_eq!(read(&mut stream, 100).await.unwrap(), Some(message));
        }
        assert_eq!(read::<FromImporter>(&mut stream, 100).await.unwrap(), None);
        for len in 4..bytes.len() / 2 {
            came(&bytes[..len]).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn what_is_too_long_or_nothing_ends_the_stream() {
        assert_eq!(came(&[]).await, Ok(None));
        assert_eq!(came(&[0, 0, 0, 101]).await, Err(ErrorKind::InvalidData));
        assert_eq!(came(&[255, 255, 255, 255, 1]).await, Err(ErrorKind::InvalidData));
        assert_eq!(came(&[0, 0, 0, 1, 9]).await, Err(ErrorKind::InvalidData));
        assert_eq!(came(&[0, 0, 0, 2, 1]).await, Err(ErrorKind::UnexpectedEof));
    }
}
