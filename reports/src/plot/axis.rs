//! Axes with ticks at round figures, linear or logarithmic.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

use crate::stats::Spread;

/// Above this ratio of largest to smallest figure a linear axis would press the small ones into a line.
const LOG_ABOVE: f64 = 20.0;

/// A stretch of figures and the ticks in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Axis {
    /// BRANCH indices 1 to `last`, each with a tick until they get crowded.
    pub fn index(last: u32) -> Self {
        let every = last.div_ceil(20).max(1);
        let ticks = (1..=last).filter(|index| index % every == 0 || *index == 1).map(f64::from).collect();
        Self { low: 0.7, high: f64::from(last) + 0.3, log: false, ticks }
    }

    /// BRANCH indices 1 to `last`, with room for a bar around each.
    pub fn bars(last: u32) -> Self {
        Self { low: 0.4, high: f64::from(last) + 0.6, ..Self::index(last) }
    }

    /// 0 to 100, with room for a marker at the end.
    pub fn percent() -> Self {
        Self { low: 0.0, high: 103.0, log: false, ticks: (0..=5).map(|n| 20.0 * f64::from(n)).collect() }
    }

    /// Figures of this spread, none below 0: from 0 up, or logarithmic where they spread widely.
    pub fn figures(spread: Spread) -> Self {
        match spread.min > 0.0 && spread.max / spread.min > LOG_ABOVE {
            true => Self::log(spread),
            // Where all is 0, any axis has it at its bottom.
            false => Self::linear(if spread.max > 0.0 { spread.max } else { 1.0 }),
        }
    }

    fn linear(max: f64) -> Self {
        let high = max * 1.08;
        let step = *[1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * 10_f64.powf((high / 6.0).log10().floor()))
            .iter()
            .find(|step| high / **step <= 8.0)
            .unwrap_or(&high);
        // Multiplied, not added up: 3 x 0.1 prints as 0.3 only when rounded once, by the decimals of the step.
        let decimals = (-step.log10().floor()).max(0.0) as u32;
        let scale = 10_f64.powi(decimals.cast_signed());
        let ticks =
            (0..).map(|n| (f64::from(n) * step * scale).round() / scale).take_while(|tick| *tick <= high);
        Self { low: 0.0, high, log: false, ticks: ticks.collect() }
    }

    fn log(spread: Spread) -> Self {
        let (low, high) = (spread.min * 0.8, spread.max * 1.25);
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let ticks = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| shift(digit, decade)));
        Self { low, high, log: true, ticks: ticks.filter(|tick| (low..=high).contains(tick)).collect() }
    }

    /// Whether equal distances are equal ratios.
    pub fn is_log(&self) -> bool {
        self.log
    }

    fn position(&self, value: f64) -> f64 {
        match self.log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }
}

/// `digit` x 10^`decade`, divided where the power is negative so that 0.2 stays 0.2.
fn shift(digit: f64, decade: i32) -> f64 {
    match decade {
        0.. => digit * 10_f64.powi(decade),
        _ => digit / 10_f64.powi(-decade),
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (begin, end): (i32, i32)) -> i32 {
        begin + (self.position(*value) * f64::from(end - begin)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

#[cfg(test)]
mod tests {
    use super::Axis;
    use crate::stats::Spread;

    fn pauses(min: f64, max: f64) -> Axis {
        Axis::figures(Spread { min, median: min, max })
    }

    #[test]
    fn a_spread_above_twenty_is_drawn_logarithmically() {
        assert!(!pauses(10.0, 200.0).is_log());
        let log = pauses(10.0, 201.0);
        assert!(log.is_log());
        assert_eq!(log.ticks, [10.0, 20.0, 50.0, 100.0, 200.0]);
    }

    #[test]
    fn figures_that_are_0_are_never_drawn_logarithmically() {
        assert!(!pauses(0.0, 200.0).is_log());
        assert_eq!(pauses(0.0, 0.0).ticks, pauses(0.5, 1.0).ticks);
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(pauses(20.0, 343.0).ticks, [0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0]);
        assert_eq!(pauses(0.02, 0.3).ticks, [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]);
        for exponent in -30..30 {
            let max = 1.7 * 1.5_f64.powi(exponent);
            let ticks = pauses(max / 2.0, max).ticks;
            assert!((3..=9).contains(&ticks.len()), "{ticks:?}");
        }
    }

    #[test]
    fn indices_keep_the_first_tick_and_never_crowd() {
        assert_eq!(Axis::index(3).ticks, [1.0, 2.0, 3.0]);
        assert!(Axis::index(200).ticks.len() <= 22);
    }
}
