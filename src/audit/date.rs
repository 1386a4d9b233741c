//! Which day was that? Seconds since 1970 in words, for every value of 64 bits.

use crate::os::clock;

/// The time in UTC: `Sat 1985-10-26 08:20:00 UTC`.
pub fn utc(time: u64) -> String {
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]
        .into_iter()
        .cycle()
        .nth(usize::from(u8::try_from(time / 86_400 % 7).unwrap_or(0)))
        .unwrap_or("");
    format!("{weekday} {} UTC", clock::utc(time).replace('T', " ").trim_end_matches('Z'))
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
    fn relations() {
        assert_eq!(relation(5, 5), "now");
        assert_eq!(relation(5, 6), "1 second before now");
        assert_eq!(relation(3_661, 1), "1 hour 1 minute after now");
        assert_eq!(relation(0, 86_400 * 2), "2 days before now");
        assert_eq!(relation(0, 86_400 * 2 + 59), "2 days before now");
        assert!(relation(0, u64::MAX).starts_with("213503982334601 days"));
    }
}
