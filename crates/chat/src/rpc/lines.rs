//! Lines of bounded length from a stream: a line that is too long is skipped, not the stream.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// The longest line in bytes: a text of 4 MiB whose every character JSON escapes.
pub(super) const LINE_MAX: usize = 32 << 20;

/// Reads lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    stream: BufReader<R>,
    max: usize,
    line: Vec<u8>,
    is_skipping: bool,
}

/// A line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// A whole one.
    Whole(Vec<u8>),
    /// One that was longer than allowed, and is gone.
    TooLong,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most so many bytes.
    pub(super) fn new(stream: R, max: usize) -> Self {
        Self { stream: BufReader::new(stream), max, line: Vec::new(), is_skipping: false }
    }

    /// The next line; `None` at the end of the stream. What follows the last line end counts as a
    /// line too. Cancel-safe: what was read is kept.
    ///
    /// # Errors
    /// The stream's.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let chunk = self.stream.fill_buf().await?;
            if chunk.is_empty() {
                let is_empty = self.line.is_empty() && !self.is_skipping;
                return Ok(if is_empty { None } else { Some(self.take()) });
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            if self.is_skipping || self.line.len() + part.len() > self.max {
                self.is_skipping = true;
                self.line = Vec::new();
            } else {
                self.line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.stream.consume(used);
            if end.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> Line {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.is_skipping) { Line::TooLong } else { Line::Whole(line) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8], max: usize) -> Vec<Line> {
        let mut lines = Lines::new(text, max);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn lines_end_at_line_ends_and_at_the_end() {
        assert_eq!(lines(b"", 4).await, []);
        assert_eq!(lines(b"ab\n\ncd", 4).await, [whole("ab"), whole(""), whole("cd")]);
    }

    #[tokio::test]
    async fn only_the_long_line_is_lost() {
        let expected = [whole("abcd"), Line::TooLong, whole("ab"), Line::TooLong];
        assert_eq!(lines(b"abcd\nabcde\nab\nabcdefgh", 4).await, expected);
    }

    #[tokio::test]
    async fn a_long_line_over_many_reads_is_lost_as_one() {
        let mut text = vec![b'x'; 100_000];
        text.extend_from_slice(b"\nok\n");
        assert_eq!(lines(&text, 10).await, [Line::TooLong, whole("ok")]);
    }
}
