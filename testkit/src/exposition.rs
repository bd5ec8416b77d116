//! Reads metrics as strictly as their format is defined: OpenMetrics 1.0, what of it a daemon exposes.
//!
//! Source: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::collections::{BTreeMap, BTreeSet};

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name, with the suffix that its family's type gives it.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// The samples of one exposition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition(pub Vec<Sample>);

impl Exposition {
    /// The value of the sample with this name and exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.0.iter().find(|sample| sample.name == name && sample.labels == labels).map(|sample| sample.value)
    }

    /// Every sample's name, once.
    pub fn names(&self) -> BTreeSet<&str> {
        self.0.iter().map(|sample| sample.name.as_str()).collect()
    }
}

#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    help: bool,
    samples: Vec<Sample>,
}

/// Parses `text`, or says which line breaks which rule.
pub fn parse(text: &str) -> Result<Exposition, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with '# EOF'")?;
    let mut seen = BTreeSet::new();
    let mut exposition = Exposition::default();
    let mut family = Family::default();
    for line in body.lines() {
        let wrong = |what: &str| format!("{what}: {line}");
        if let Some(metadata) = line.strip_prefix("# ") {
            let mut words = metadata.splitn(3, ' ');
            let (Some(kind), Some(name), Some(text)) = (words.next(), words.next(), words.next()) else {
                return Err(wrong("metadata without a name or a text"));
            };
            if name != family.name {
                exposition.0.extend(end_of(&mut family)?);
                if !seen.insert(name.to_owned()) {
                    return Err(wrong("a family comes twice"));
                }
                family.name = name.to_owned();
            }
            note_metadata(&mut family, kind, text).map_err(wrong)?;
        } else {
            let sample = parse_sample(line).ok_or_else(|| wrong("not a sample"))?;
            let suffix = sample.name.strip_prefix(&family.name).unwrap_or("(another name)");
            if !suffixes(&family.kind).contains(&suffix) {
                return Err(wrong(&format!("not a sample of the {} '{}'", family.kind, family.name)));
            }
            if family
                .samples
                .iter()
                .any(|other| (&other.name, &other.labels) == (&sample.name, &sample.labels))
            {
                return Err(wrong("a sample comes twice"));
            }
            family.samples.push(sample);
        }
    }
    exposition.0.extend(end_of(&mut family)?);
    Ok(exposition)
}

fn note_metadata<'a>(family: &mut Family, kind: &str, text: &'a str) -> Result<(), &'a str> {
    match kind {
        "HELP" if !text.trim().is_empty() => family.help = true,
        "TYPE" if family.kind.is_empty() && !suffixes(text).is_empty() => family.kind = text.to_owned(),
        "UNIT" if family.name.ends_with(&format!("_{text}")) => {}
        _ => return Err("unknown, empty, repeated or misfitting metadata"),
    }
    Ok(())
}

fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "histogram" => &["_bucket", "_count", "_sum"],
        "info" => &["_info"],
        _ => &[],
    }
}

fn end_of(family: &mut Family) -> Result<Vec<Sample>, String> {
    let family = std::mem::take(family);
    let wrong = |what: &str| Err(format!("{what}: {}", family.name));
    if family.name.is_empty() {
        return Ok(Vec::new());
    }
    if family.kind.is_empty() || !family.help {
        return wrong("a family without TYPE or HELP");
    }
    if family.kind == "counter" && family.samples.iter().any(|sample| sample.value < 0.0) {
        return wrong("a negative counter");
    }
    if family.kind == "histogram" && !histograms_are_sound(&family) {
        return wrong("buckets that are not cumulative, or do not end in +Inf with the count");
    }
    Ok(family.samples)
}

fn histograms_are_sound(family: &Family) -> bool {
    let with = |suffix: &str| {
        let name = format!("{}{suffix}", family.name);
        family.samples.iter().filter(move |sample| sample.name == name)
    };
    let counts = with("_count").count();
    counts == with("_sum").count()
        && with("_count").all(|count| {
            let buckets: Vec<(f64, f64)> = with("_bucket")
                .filter_map(|bucket| {
                    let mut labels = bucket.labels.clone();
                    let bound = labels.remove("le")?.parse().ok()?;
                    (labels == count.labels).then_some((bound, bucket.value))
                })
                .collect();
            let rises = buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
            rises && buckets.last() == Some(&(f64::INFINITY, count.value))
        })
}

/// `name{label="value",..} value`
fn parse_sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}')?)?),
        None => (series, BTreeMap::new()),
    };
    is_name(name).then(|| Sample { name: name.to_owned(), labels, value })
}

/// Without escapes, which no value of ours needs: a backslash is refused.
fn parse_labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = rest.split_once('"')?;
        let is_new = labels.insert(name.to_owned(), value.to_owned()).is_none();
        if !is_new || !is_name(name) || value.contains('\\') {
            return None;
        }
        text = rest.strip_prefix(',').unwrap_or(rest);
    }
    Some(labels)
}

fn is_name(name: &str) -> bool {
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    begins && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_is_sound_is_read_and_each_broken_rule_is_refused() {
        let sound = "# HELP a_seconds A.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
                     a_seconds_sum 3.5\na_seconds_count 2\n\
                     a_seconds_bucket{le=\"1.0\"} 1\na_seconds_bucket{le=\"+Inf\"} 2\n\
                     # HELP b B.\n# TYPE b counter\nb_total{x=\"1\"} 4\n# EOF\n";
        let read = parse(sound).unwrap();
        assert_eq!(read.value("a_seconds_count", &[]), Some(2.0));
        assert_eq!(read.value("b_total", &[("x", "1")]), Some(4.0));
        assert_eq!(read.0.len(), 5);
        for (from, to) in [
            ("# EOF\n", ""),
            ("# HELP b B.\n", ""),
            ("# TYPE b counter\n", ""),
            ("counter", "counting"),
            ("UNIT a_seconds seconds", "UNIT a_seconds bytes"),
            ("b_total{x=\"1\"} 4", "b{x=\"1\"} 4"),
            ("b_total{x=\"1\"} 4", "b_total{x=\"1\"} -4"),
            ("b_total{x=\"1\"} 4", "b_total{x=\"1\"} 4\nb_total{x=\"1\"} 4"),
            ("b_total{x=\"1\"} 4", "b_total{x=\"1} 4"),
            ("b_total{x=\"1\"} 4", "b_total{x=\"1\"} four"),
            ("{le=\"1.0\"} 1", "{le=\"1.0\"} 3"),
            ("{le=\"+Inf\"} 2", "{le=\"+Inf\"} 3"),
            ("{le=\"+Inf\"} 2", "{le=\"2.0\"} 2"),
            ("a_seconds_sum 3.5\n", ""),
            ("# EOF\n", "# HELP a_seconds A.\n# TYPE a_seconds gauge\n# EOF\n"),
        ] {
            let broken = sound.replace(from, to);
            assert_ne!(broken, sound);
            assert!(parse(&broken).is_err(), "{from} -> {to}");
        }
    }
}
