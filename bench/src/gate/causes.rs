//! The causes that a daemon with probes attributed each pause to, from its history.

use std::collections::BTreeMap;
use std::time::Duration;

use forkd::api::{Branch, Sandbox};
use serde_json::Value;

use crate::Error;
use crate::api::Api;
use crate::sweep::Watch;

/// What no cause was found for is kept as a cause of this name.
const UNEXPLAINED: &str = "unexplained";
/// An attribution is made after its BRANCH was answered: how often, and how long apart, the last one is asked for.
const TRIES: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(100);

/// Nanoseconds by cause, of one pause.
pub type Causes = BTreeMap<String, u64>;

/// Keeps the ids of the BRANCHes that another watch sees.
pub struct Identified<W> {
    /// The other.
    pub watch: W,
    ids: Vec<String>,
}

impl<W> Identified<W> {
    /// Shows all to `watch`.
    pub fn new(watch: W) -> Self {
        Self { watch, ids: Vec::new() }
    }

    /// The causes of each BRANCH, in their order. Empty for a daemon that attributes none, which is known after the
    /// first.
    pub async fn causes(&self, api: &Api) -> Result<Vec<Causes>, Error> {
        let mut all = Vec::new();
        for id in &self.ids {
            let mut attribution = api.attribution(id).await?;
            for _ in 0..TRIES {
                if attribution.is_some() || all.is_empty() {
                    break;
                }
                tokio::time::sleep(BETWEEN).await;
                attribution = api.attribution(id).await?;
            }
            match attribution {
                Some(attribution) => all.push(parse(&attribution)),
                None if all.is_empty() => return Ok(all),
                None => all.push(Causes::new()),
            }
        }
        Ok(all)
    }
}

impl<W: Watch> Watch for Identified<W> {
    fn begin(&mut self, sandbox: &Sandbox) -> Result<(), Error> {
        self.watch.begin(sandbox)
    }

    fn asks(&mut self) {
        self.watch.asks();
    }

    fn branch(&mut self, branch: &Branch) {
        self.ids.push(branch.id.clone());
        self.watch.branch(branch);
    }
}

/// `causes`, each with its `cause` and `ns`, and `unexplained_ns`. Whatever else an attribution holds is not needed.
fn parse(attribution: &Value) -> Causes {
    let causes = attribution["causes"].as_array().into_iter().flatten();
    let mut parsed: Causes = causes
        .filter_map(|cause| Some((cause["cause"].as_str()?.to_owned(), cause["ns"].as_u64()?)))
        .collect();
    parsed.extend(attribution["unexplained_ns"].as_u64().map(|ns| (UNEXPLAINED.to_owned(), ns)));
    parsed
}

#[cfg(test)]
mod tests {
    use super::parse;
    use serde_json::json;

    #[test]
    fn causes_and_what_has_none_are_read() {
        let attribution =
            json!({"schema": "x", "causes": [{"cause": "wbt", "title": "t", "ns": 7}], "unexplained_ns": 3});
        let expected = [("unexplained".to_owned(), 3), ("wbt".to_owned(), 7)];
        assert_eq!(parse(&attribution).into_iter().collect::<Vec<_>>(), expected);
        assert!(parse(&json!({"wbt_ns": 3})).is_empty());
    }
}
