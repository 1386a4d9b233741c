//! Which day was that? Seconds since 1970 in words, for every value of 64 bits.

/// The time in UTC: `Sat 1985-10-26 08:20:00 UTC`.
pub fn utc(time: u64) -> String {
    let (days, second) = (time / 86_400, time % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day) = civil(days);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]
        .into_iter()
        .cycle()
        .nth(usize::from(u8::try_from(days % 7).unwrap_or(0)))
        .unwrap_or("");
    format!("{weekday} {year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// How far `time` is from `now`: `2 days 3 hours before now`.
pub fn relation(time: u64, now: u64) -> String {
    let far = time.abs_diff(now);
    if far == 0 {
        return "now".into();
    }
    let parts = [(far / 86_400, "day"), (far / 3600 % 24, "hour"), (far / 60 % 60, "minute"), (far % 60, "second")];
    let words: Vec<String> = parts
        .into_iter()
        .skip_while(|(n, _)| *n == 0)
        .take(2)
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n} {unit}{}", if n == 1 { "" } else { "s" }))
        .collect();
    format!("{} {} now", words.join(" "), if time < now { "before" } else { "after" })
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
///
/// Counted from 0000-03-01, so that the leap day is the last of its year: 146,097 days make 400 years, and from March on
/// the months have 31, 30, 31, 30, 31 days over and over, which is 153 days for each five.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        assert_eq!(utc(0), "Thu 1970-01-01 00:00:00 UTC");
        assert_eq!(utc(499_162_800), "Sat 1985-10-26 08:20:00 UTC");
        assert_eq!(utc(951_782_399), "Mon 2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400), "Tue 2000-02-29 00:00:00 UTC");
        assert_eq!(utc((1 << 31) - 1), "Tue 2038-01-19 03:14:07 UTC");
        assert_eq!(utc(4_107_542_400), "Mon 2100-03-01 00:00:00 UTC");
        assert_eq!(utc(253_402_300_799), "Fri 9999-12-31 23:59:59 UTC");
        assert_eq!(utc(u64::MAX), "Thu 584554051223-11-09 07:00:15 UTC");
    }

    #[test]
    fn every_day_of_a_thousand_years_follows_the_one_before() {
        let leap = |y: u64| y.is_multiple_of(4) && !y.is_multiple_of(100) || y.is_multiple_of(400);
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..366_000 {
            assert_eq!(civil(days), (year, month, day));
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
    fn relations() {
        assert_eq!(relation(5, 5), "now");
        assert_eq!(relation(5, 6), "1 second before now");
        assert_eq!(relation(3_661, 1), "1 hour 1 minute after now");
        assert_eq!(relation(0, 86_400 * 2), "2 days before now");
        assert_eq!(relation(0, 86_400 * 2 + 59), "2 days before now");
        assert!(relation(0, u64::MAX).starts_with("213503982334601 days"));
    }
}
