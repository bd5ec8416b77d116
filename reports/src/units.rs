//! Figures as people read them: three significant digits and a unit.

/// `1.23 s`, `45.6 ms`, `789 us`, `12 ns`.
pub fn duration(ns: u64) -> String {
    // The thresholds lie below the round figures, so that rounding never gives "1000 ms".
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..999_500 => scaled(ns, 1e3, "us"),
        999_500..999_500_000 => scaled(ns, 1e6, "ms"),
        _ => scaled(ns, 1e9, "s"),
    }
}

/// `part` of `whole` as `12.3%`; `-` of nothing.
pub fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.1}%", part as f64 * 100.0 / whole as f64),
    }
}

/// `512 B`, `64 KiB`, `4.2 GiB`: powers of 1024, one decimal unless it is exact.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    // Below the round figure, so that rounding never gives "1024.0 KiB".
    while value >= 1023.95 {
        let Some(larger) = units.next() else { break };
        (value, unit) = (value / 1024.0, larger);
    }
    if value.fract() == 0.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// An age in whole units of the largest that fits: `just now`, `3 minutes ago`, `2 days ago`.
pub fn ago(seconds: u64) -> String {
    const UNITS: [(u64, &str); 7] = [
        (365 * 86_400, "year"),
        (30 * 86_400, "month"),
        (7 * 86_400, "week"),
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    match UNITS.into_iter().find(|(unit_seconds, _)| seconds >= *unit_seconds) {
        None => "just now".to_owned(),
        Some((unit_seconds, unit)) => match seconds / unit_seconds {
            1 => format!("1 {unit} ago"),
            n => format!("{n} {unit}s ago"),
        },
    }
}

fn scaled(ns: u64, unit_ns: f64, unit: &str) -> String {
    let value = ns as f64 / unit_ns;
    let decimals = match value {
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::{ago, bytes, duration, share};

    #[test]
    fn durations_keep_three_digits_and_change_unit_without_a_thousand() {
        let shown = [0, 999, 1_000, 9_994, 9_996, 99_960, 999_499, 999_500, 1_500_000_000].map(duration);
        assert_eq!(
            shown,
            ["0 ns", "999 ns", "1.00 us", "9.99 us", "10.0 us", "100 us", "999 us", "1.00 ms", "1.50 s"]
        );
    }

    #[test]
    fn a_share_of_nothing_is_not_a_number() {
        assert_eq!(share(1, 8), "12.5%");
        assert_eq!(share(0, 0), "-");
    }

    #[test]
    fn sizes_are_powers_of_1024_with_one_decimal_unless_exact() {
        let shown = [0, 1023, 1024, 1536, (16 << 20) + 4096, 1_048_575, 512 << 20, 4_509_715_661, u64::MAX]
            .map(bytes);
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1 KiB", "1.5 KiB", "16.0 MiB", "1.0 MiB", "512 MiB", "4.2 GiB", "16 EiB"]
        );
    }

    #[test]
    fn an_age_is_in_the_largest_unit_that_fits() {
        let shown =
            [0, 1, 59, 60, 185, 3_599, 3_600, 86_399, 86_400, 604_800, 2_592_000, 63_072_000].map(ago);
        assert_eq!(
            shown,
            [
                "just now",
                "1 second ago",
                "59 seconds ago",
                "1 minute ago",
                "3 minutes ago",
                "59 minutes ago",
                "1 hour ago",
                "23 hours ago",
                "1 day ago",
                "1 week ago",
                "1 month ago",
                "2 years ago"
            ]
        );
    }
}
