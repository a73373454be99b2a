//! Times as the user's wall clock shows them.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// The zone in which times are shown.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    zone: TimeZone,
}

impl Clock {
    /// The system's zone; UTC if it has none.
    pub(crate) fn system() -> Self {
        Self { zone: TimeZone::system() }
    }

    /// For tests: the same everywhere.
    #[cfg(test)]
    pub(crate) fn utc() -> Self {
        Self { zone: TimeZone::UTC }
    }

    /// `14:02`.
    pub(crate) fn time(&self, ms: u64) -> String {
        self.here(ms).strftime("%H:%M").to_string()
    }

    /// The day, to see where a new one begins.
    pub(crate) fn day(&self, ms: u64) -> Date {
        self.here(ms).date()
    }

    /// `Today`, `Yesterday`, or the date.
    pub(crate) fn day_name(&self, ms: u64, now_ms: u64) -> String {
        match self.days_ago(ms, now_ms) {
            0 => "Today".to_owned(),
            1 => "Yesterday".to_owned(),
            _ => self.here(ms).strftime("%A %-d %B %Y").to_string(),
        }
    }

    /// The shortest that is clear: the time today, the weekday this week, or the date.
    pub(crate) fn short(&self, ms: u64, now_ms: u64) -> String {
        match self.days_ago(ms, now_ms) {
            0 => self.time(ms),
            1..=6 => self.here(ms).strftime("%a").to_string(),
            _ => self.here(ms).strftime("%-d %b").to_string(),
        }
    }

    /// `2026-11-24`, for the name of a file.
    pub(crate) fn date(&self, ms: u64) -> String {
        self.day(ms).to_string()
    }

    fn days_ago(&self, ms: u64, now_ms: u64) -> i32 {
        self.day(ms).until(self.day(now_ms)).map_or(i32::MAX, |span| span.get_days())
    }

    fn here(&self, ms: u64) -> DateTime {
        // Another clock says what it likes: what is no time at all is shown as the latest one.
        let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        self.zone.to_datetime(time.unwrap_or(Timestamp::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_795_521_600_000; // Tuesday 24 November 2026, 12:00 UTC
    const DAY: u64 = 86_400_000;

    #[test]
    fn days_have_the_names_people_use() {
        let clock = Clock::utc();
        assert_eq!(clock.day_name(NOON, NOON), "Today");
        assert_eq!(clock.day_name(NOON - DAY, NOON), "Yesterday");
        assert_eq!(clock.day_name(NOON - 3 * DAY, NOON), "Saturday 21 November 2026");
        assert_eq!(clock.short(NOON, NOON), "12:00");
        assert_eq!(clock.short(NOON - 3 * DAY, NOON), "Sat");
        assert_eq!(clock.short(NOON - 300 * DAY, NOON), "28 Jan");
        assert_eq!(clock.date(NOON), "2026-11-24");
    }

    #[test]
    fn an_impossible_time_is_still_shown() {
        assert!(!Clock::utc().time(u64::MAX).is_empty());
        assert!(!Clock::utc().short(u64::MAX, NOON).is_empty());
    }
}
