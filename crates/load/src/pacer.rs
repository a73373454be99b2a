//! The open model's clock: frame number n of a run is due at start + n / rate, whether or not the
//! relay keeps up. Tokio's timer is a millisecond coarse, which would be most of a latency here;
//! a timerfd is not.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Which frames are due when; each of `senders` takes every so manieth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Schedule {
    /// When frame 0 is due, in nanoseconds of the run's clock.
    pub(crate) start_ns: u64,
    /// From one frame to the next, over all senders, in nanoseconds.
    pub(crate) interval_ns: f64,
    /// How many take turns.
    pub(crate) senders: u64,
}

impl Schedule {
    /// When a frame is due.
    pub(crate) fn due_ns(&self, frame: u64) -> u64 {
        self.start_ns + (frame as f64 * self.interval_ns) as u64
    }

    /// How many frames are due by then.
    fn due_by(&self, now_ns: u64) -> u64 {
        match now_ns.checked_sub(self.start_ns) {
            Some(elapsed) => (elapsed as f64 / self.interval_ns) as u64 + 1,
            None => 0,
        }
    }

    /// When a sender's own frame number `n` is due.
    pub(crate) fn due_of_ns(&self, sender: u64, n: u64) -> u64 {
        self.due_ns(n * self.senders + sender)
    }
}

/// Wakes each sender when a frame of its is due, until it is dropped.
///
/// # Errors
/// If the system has no timer.
pub(crate) async fn pace(
    schedule: Schedule,
    clock: Instant,
    senders: &[Arc<Notify>],
) -> io::Result<()> {
    let timer =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    // Deprecated because a type might change the descriptor it names while it is registered; an
    // `OwnedFd` never does, and the replacement is an unsafe function.
    #[allow(deprecated)]
    let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
    let mut woken = 0;
    loop {
        let now_ns = elapsed_ns(clock);
        let due = schedule.due_by(now_ns);
        // Whoever has been woken for one frame sees all that are due.
        let first = woken.max(due.saturating_sub(schedule.senders));
        for frame in first..due {
            senders[(frame % schedule.senders) as usize].notify_one();
        }
        woken = woken.max(due);
        let wait = schedule.due_ns(woken).saturating_sub(elapsed_ns(clock));
        sleep(&timer, Duration::from_nanos(wait.max(1))).await?;
    }
}

async fn sleep(timer: &AsyncFd<OwnedFd>, wait: Duration) -> io::Result<()> {
    let once = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        },
    };
    timerfd_settime(timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
    let mut ready = timer.readable().await?;
    // Setting the timer again takes back the expiry that was not read.
    ready.clear_ready();
    Ok(())
}

/// The run's clock.
pub(crate) fn elapsed_ns(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_evenly_and_in_turn() {
        let schedule = Schedule { start_ns: 1_000, interval_ns: 100.0, senders: 2 };
        assert_eq!([0, 1, 2].map(|frame| schedule.due_ns(frame)), [1_000, 1_100, 1_200]);
        assert_eq!([999, 1_000, 1_099, 1_100].map(|now| schedule.due_by(now)), [0, 1, 1, 2]);
        assert_eq!(schedule.due_of_ns(1, 2), 1_500);
    }

    #[tokio::test]
    async fn senders_are_woken_on_time() {
        let clock = Instant::now();
        let schedule = Schedule { start_ns: 0, interval_ns: 2e6, senders: 2 };
        let senders = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let waiting = async {
            for _ in 0..5 {
                senders[1].notified().await;
            }
        };
        tokio::select! {
            result = pace(schedule, clock, &senders) => panic!("{result:?}"),
            () = waiting => {}
        }
        // The fifth frame of sender 1 is frame 9 of all.
        assert!(clock.elapsed() >= Duration::from_millis(18), "{:?}", clock.elapsed());
    }
}
