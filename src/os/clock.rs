//! What time of day is it? People and token formats want timestamps.
//!
//! Security does not depend on it (machines without a clock can connect), so it never fails. A time
//! before 1970 is 0.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01T00:00:00Z.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A moment, as the time since then and as Unix time.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    at: Instant,
    unix_seconds: u64,
}

impl Moment {
    /// This moment.
    pub fn now() -> Moment {
        Moment {
            at: Instant::now(),
            unix_seconds: unix_seconds(),
        }
    }

    /// The moment that is `ago` in the past.
    pub fn ago(time: Duration) -> Moment {
        let now = Moment::now();
        Moment {
            at: now.at.checked_sub(time).unwrap_or(now.at),
            unix_seconds: now.unix_seconds.saturating_sub(time.as_secs()),
        }
    }

    /// How long ago it was.
    pub fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix_seconds(&self) -> u64 {
        self.unix_seconds
    }
}

/// A text such as `2026-11-23T22:04:47Z`. Any u64 is allowed; the year of a large one has more
/// digits.
pub fn utc(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // This computes a civil date from a day count (Howard Hinnant, "chrono-Compatible Low-Level
    // Date Algorithms"). Years begin on 1 March, so that the leap day is the last of its year. 400
    // years have 146,097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_date_prints_them() {
        // date -u -d @N +%FT%TZ
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            // This is 1985-10-26T01:20:00-07:00, the time of the Fernet vectors.
            (499_162_800, "1985-10-26T08:20:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_795_471_487, "2026-11-23T22:04:47Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn every_day_of_a_thousand_years_follows_the_one_before() {
        let leap = |y: u64| y.is_multiple_of(4) && !y.is_multiple_of(100) || y.is_multiple_of(400);
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..366_000 {
            assert_eq!(
                utc(days * 86_400),
                format!("{year}-{month:02}-{day:02}T00:00:00Z")
            );
            let length = match month {
                2 => 28 + u64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn no_time_is_too_late() {
        assert!(utc(u64::MAX).starts_with("584554051223-"));
        assert!(unix_seconds() > 1_700_000_000);
    }
}
