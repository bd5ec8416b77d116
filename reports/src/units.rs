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
    use super::{duration, share};

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
}
