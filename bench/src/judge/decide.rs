//! From evidence to a verdict.

use super::checks::percent;
use super::evidence::Evidence;
use super::holm::adjust;
use super::plan::Look;
use super::rules::{MIN_BLOCKS, PASS_RATIO, REGRESS_RATIO};

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Class {
    /// The candidate's pause is below 1.15 times the baseline's, with 95 % confidence.
    Pass,
    /// The candidate's pause is longer.
    Regress,
    /// Neither could be shown.
    Inconclusive,
    /// The measurement is none.
    Invalid,
}

impl Class {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Regress => "REGRESS",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Invalid => "INVALID",
        }
    }
}

/// The verdict on one cell.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Verdict {
    /// What it came to.
    pub class: Class,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// The look that it was taken at.
    pub look: Look,
    /// The p value of the effect after Holm's correction for the cells judged with it.
    pub p_adjusted: f64,
    /// The p value of the regimes after the same.
    pub regime_p_adjusted: f64,
    /// What it rests on.
    pub evidence: Evidence,
}

/// Judges the cells of one comparison together.
pub fn decide(cells: Vec<Evidence>, look: &Look) -> Vec<Verdict> {
    let effects = adjust(&cells.iter().map(|cell| cell.p).collect::<Vec<f64>>());
    let regimes = adjust(&cells.iter().map(|cell| cell.regimes.p).collect::<Vec<f64>>());
    let adjusted = effects.into_iter().zip(regimes);
    cells.into_iter().zip(adjusted).map(|(cell, (p, regime_p))| verdict(cell, p, regime_p, *look)).collect()
}

/// One class for several cells: a regression of one is a regression; a pass needs all.
pub fn overall<'a>(verdicts: impl IntoIterator<Item = &'a Verdict>) -> Class {
    let order = [Class::Pass, Class::Inconclusive, Class::Invalid, Class::Regress];
    let rank = |class: Class| order.iter().position(|other| *other == class);
    let worst = verdicts.into_iter().map(|verdict| verdict.class).max_by_key(|class| rank(*class));
    worst.unwrap_or(Class::Invalid)
}

fn verdict(evidence: Evidence, p_adjusted: f64, regime_p_adjusted: f64, look: Look) -> Verdict {
    let invalid = why_invalid(&evidence);
    let regress = why_regress(&evidence, p_adjusted, regime_p_adjusted, &look);
    let (class, reasons) = if !invalid.is_empty() {
        (Class::Invalid, invalid)
    } else if !regress.is_empty() {
        (Class::Regress, regress)
    } else if look.may_pass && evidence.ratio_upper.is_some_and(|upper| upper < PASS_RATIO) {
        (Class::Pass, vec![bound(&evidence, &look)])
    } else {
        (Class::Inconclusive, vec![bound(&evidence, &look), why_open(&evidence, p_adjusted, &look)])
    };
    Verdict { class, reasons, look, p_adjusted, regime_p_adjusted, evidence }
}

fn why_invalid(evidence: &Evidence) -> Vec<String> {
    let mut why = Vec::new();
    if evidence.valid < MIN_BLOCKS {
        let Evidence { valid, blocks, .. } = evidence;
        why.push(format!("{valid} of {blocks} count, and {MIN_BLOCKS} are needed"));
        why.extend(evidence.spoiled.iter().cloned());
    }
    let fired = evidence.checks.iter().filter(|check| check.fired);
    why.extend(fired.map(|check| format!("{}: {} (p = {})", check.name, check.found, figure(check.p))));
    why
}

fn why_regress(evidence: &Evidence, p: f64, regime_p: f64, look: &Look) -> Vec<String> {
    let mut why = Vec::new();
    if let Some(ratio) = evidence.ratio.filter(|ratio| p < look.alpha && *ratio > REGRESS_RATIO) {
        let longer = percent(ratio.ln());
        why.push(format!(
            "the pause is {longer} against the baseline's (p = {} < {})",
            figure(p),
            figure(look.alpha)
        ));
    }
    if regime_p < look.alpha {
        let regimes = &evidence.regimes;
        why.push(format!(
            "{} of {} sweeps of the candidate go into the slow regime, {} of the baseline (p = {} < {})",
            regimes.b_slow,
            evidence.valid,
            regimes.a_slow,
            figure(regime_p),
            figure(look.alpha)
        ));
    }
    if let Some(limit) = evidence.limit.filter(|limit| limit.is_broken()) {
        why.push(format!(
            "the median pause of {} sweeps is over the limit of {} ms",
            limit.broken, limit.limit_ms
        ));
    }
    why
}

fn bound(evidence: &Evidence, look: &Look) -> String {
    let confidence = (1.0 - look.pass_error) * 100.0;
    match (evidence.ratio, evidence.ratio_upper) {
        (Some(ratio), Some(upper)) => format!(
            "the pause is {} against the baseline's, and below {} with {confidence:.1} % confidence",
            percent(ratio.ln()),
            percent(upper.ln())
        ),
        _ => "so few blocks bound nothing".to_owned(),
    }
}

fn why_open(evidence: &Evidence, p: f64, look: &Look) -> String {
    let regress = match evidence.ratio {
        Some(ratio) if p < look.alpha => {
            format!("{} is within the margin of {}", percent(ratio.ln()), percent(REGRESS_RATIO.ln()))
        }
        _ => format!("no regression is shown (p = {}, not below {})", figure(p), figure(look.alpha)),
    };
    let pass = match look.may_pass {
        true => format!("a pass needs a bound below {}", percent(PASS_RATIO.ln())),
        false => "this look may not pass".to_owned(),
    };
    format!("{regress}; {pass}")
}

/// Two significant digits of a small figure.
pub fn figure(value: f64) -> String {
    if value >= 0.095 { format!("{value:.2}") } else { significant(value) }
}

fn significant(value: f64) -> String {
    if value <= 0.0 {
        return "0".to_owned();
    }
    let digits = (1.0 - value.log10().floor()) as usize;
    if digits > 8 { format!("{value:.1e}") } else { format!("{value:.digits$}") }
}

#[cfg(test)]
mod tests {
    use super::figure;

    #[test]
    fn small_figures_keep_two_digits() {
        for (value, expected) in [
            (0.5, "0.50"),
            (0.01, "0.010"),
            (0.000976, "0.00098"),
            (1e-12, "1.0e-12"),
            (0.0, "0"),
            (1.0, "1.00"),
        ] {
            assert_eq!(figure(value), expected);
        }
    }
}
