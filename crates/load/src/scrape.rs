//! The relay's own counts: does every frame it took appear in them again?

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::report::Conservation;

/// How long an answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why there are no counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScrapeError {
    #[error("the relay's admin side cannot be reached: {0}")]
    Unreachable(#[from] std::io::Error),
    #[error("the relay's admin side did not answer as HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the relay's admin side answered {0}")]
    Status(hyper::StatusCode),
    #[error("the relay's admin side took too long")]
    TimedOut,
    #[error("the relay's admin side answered something unreadable: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// What a GET of this path answers.
///
/// # Errors
/// [`ScrapeError`].
pub(crate) async fn get(admin: SocketAddr, path: &str) -> Result<String, ScrapeError> {
    tokio::time::timeout(ANSWER_WAIT, ask(admin, path)).await.map_err(|_| ScrapeError::TimedOut)?
}

async fn ask(admin: SocketAddr, path: &str) -> Result<String, ScrapeError> {
    let tcp = TcpStream::connect(admin).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", admin.to_string())
        .body(Empty::<Bytes>::new())
        .expect("an address is a valid header");
    let answer = sender.send_request(request).await?;
    if !answer.status().is_success() {
        return Err(ScrapeError::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(ScrapeError::Body)?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

impl Conservation {
    /// Reads the counts from OpenMetrics text and adds them up.
    pub(crate) fn of(metrics: &str) -> Self {
        let count = |name: &str| sum(metrics, name);
        let counts = Self {
            holds: None,
            queued_at_start: count("valise_frames_queued_at_start"),
            accepted: count("valise_frames_accepted_total"),
            acknowledged: count("valise_frames_acknowledged_total"),
            expired: count("valise_frames_expired_total"),
            // A relay that discards nothing has no such series.
            discarded: count("valise_frames_discarded_total").or(Some(0)),
            queued: count("valise_frames_queued"),
        };
        Self { holds: counts.adds_up(), ..counts }
    }

    fn adds_up(&self) -> Option<bool> {
        let came = self.queued_at_start? + self.accepted?;
        let went = self.acknowledged? + self.expired? + self.discarded?;
        Some(came == went + self.queued?)
    }
}

/// The sum of all series of a metric, whatever their labels.
pub(crate) fn sum(metrics: &str, name: &str) -> Option<u64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split(' ').next()?.parse::<u64>().ok()
    });
    values.reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# TYPE valise_frames_accepted counter
valise_frames_accepted_total 100
valise_frames_queued_at_start 7
valise_frames_acknowledged_total 90
valise_frames_expired_total 2
valise_frames_discarded_total{reason=\"a} b\"} 3
valise_frames_discarded_total{reason=\"c\"} 4
valise_frames_queued 8
# EOF
";

    #[test]
    fn counts_that_add_up() {
        let counts = Conservation::of(METRICS);
        assert_eq!(counts.holds, Some(true));
        assert_eq!((counts.discarded, counts.queued), (Some(7), Some(8)));
    }

    #[test]
    fn a_frame_that_vanished_is_seen() {
        let counts = Conservation::of(&METRICS.replace("queued 8", "queued 7"));
        assert_eq!(counts.holds, Some(false));
    }

    #[test]
    fn counts_that_are_missing_judge_nothing() {
        assert_eq!(Conservation::of("").holds, None);
    }
}
