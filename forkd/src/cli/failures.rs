//! The failures of a command that does several things, and goes on after one that fails.

use anyhow::Error;

use super::Context;
use super::exit::{Exit, Failure, line};

/// What failed, in the order in which it did.
#[derive(Debug, Default)]
pub struct Failures(Vec<(String, Error)>);

impl Failures {
    /// Notes that `name` failed, and returns the error's line. The one before it is printed: the last one may be
    /// the only one, which the command then ends with.
    pub fn note(&mut self, context: &Context, name: &str, error: Error) -> String {
        let said = line(&error);
        self.print_last(context);
        self.0.push((name.to_owned(), error));
        said
    }

    /// Fails where something failed: with the only failure itself, or with the names of them all.
    pub fn conclude(self, context: &Context) -> anyhow::Result<()> {
        if self.0.len() > 1 {
            self.print_last(context);
        }
        summary(self.0)
    }

    fn print_last(&self, context: &Context) {
        if let Some((name, error)) = self.0.last() {
            context.out.note(&named(name, &line(error)));
        }
    }
}

/// `said`, with the name in front where it does not hold it.
fn named(name: &str, said: &str) -> String {
    if names(said, name) { said.to_owned() } else { format!("{name}: {said}") }
}

/// Whether the error says itself what it is about.
fn names(said: &str, name: &str) -> bool {
    said.contains(&format!("'{name}'"))
}

fn summary(mut failed: Vec<(String, Error)>) -> anyhow::Result<()> {
    match failed.len() {
        0 => Ok(()),
        1 => {
            let (name, error) = failed.remove(0);
            Err(if names(&line(&error), &name) { error } else { error.context(name) })
        }
        n => {
            let exits: Vec<Exit> = failed.iter().map(|(_, error)| Exit::of(error)).collect();
            let exit = if exits.iter().all(|exit| *exit == exits[0]) { exits[0] } else { Exit::Failed };
            let names: Vec<String> = failed.into_iter().map(|(name, _)| name).collect();
            Err(Failure::new(exit, format!("{n} failed: {}", names.join(", "))).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Error;

    use super::super::exit::{Exit, Failure, line};
    use super::summary;

    fn failed(name: &str, exit: Exit) -> (String, Error) {
        (name.to_owned(), Failure::new(exit, "no").into())
    }

    fn check(failures: Vec<(String, Error)>, exit: Exit, words: &str) {
        let error = summary(failures).unwrap_err();
        assert_eq!((line(&error).as_str(), Exit::of(&error)), (words, exit));
    }

    #[test]
    fn one_failure_is_told_as_it_is_and_several_of_one_kind_keep_its_exit_code() {
        assert!(summary(Vec::new()).is_ok());
        check(vec![failed("a", Exit::Refused)], Exit::Refused, "a: no");
        check(vec![failed("a", Exit::Refused), failed("b", Exit::Refused)], Exit::Refused, "2 failed: a, b");
        check(vec![failed("a", Exit::Refused), failed("b", Exit::NotFound)], Exit::Failed, "2 failed: a, b");
    }
}
