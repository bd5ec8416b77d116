//! What a machine was told and what it must therefore still have: the judge of a power cut.

use std::collections::BTreeMap;

/// Digests of a tag's files, by name.
type Files = BTreeMap<String, String>;

/// Every tag that was answered as durable, over all boots.
#[derive(Debug, Default)]
pub struct Ledger {
    answered: BTreeMap<String, Files>,
}

/// What one boot said.
#[derive(Debug, Default)]
pub struct Boot {
    unfinished: String,
    /// What it found at its start.
    listed: BTreeMap<String, Files>,
    verified: Vec<String>,
    /// What it found wrong by itself.
    damaged: Vec<String>,
    /// What it was answered.
    answered: BTreeMap<String, Files>,
    /// BRANCHes that were answered, and of which the disk has something else: seen at once.
    pub lies: Vec<String>,
    /// BRANCHes that failed, each with why.
    pub refused: Vec<String>,
    /// Why it ended before it could BRANCH.
    pub failure: Option<String>,
    /// Whether it has looked through all that was there.
    pub is_checked: bool,
    /// Whether it BRANCHes.
    pub is_loading: bool,
}

impl Boot {
    /// Takes in what the machine says, in pieces of any size; see `inside.sh` for the lines.
    pub fn hear(&mut self, text: &str) {
        self.unfinished.push_str(text);
        while let Some((line, rest)) = self.unfinished.split_once('\n') {
            let (line, rest) = (line.to_owned(), rest.to_owned());
            self.line(&line);
            self.unfinished = rest;
        }
    }

    /// BRANCHes that were answered in this boot.
    pub fn answers(&self) -> usize {
        self.answered.len()
    }

    /// BRANCHes that failed though the disk had room.
    pub fn refused_with_room(&self) -> impl Iterator<Item = &str> {
        self.refused.iter().map(String::as_str).filter(|why| !is_for_want_of_space(why))
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["listed", tag] => drop(self.listed.entry(tag.to_owned()).or_default()),
            ["answered", tag] => drop(self.answered.entry(tag.to_owned()).or_default()),
            ["file", tag, name, sha256] => {
                let of = if self.is_checked { &mut self.answered } else { &mut self.listed };
                of.entry(tag.to_owned()).or_default().insert(name.to_owned(), sha256.to_owned());
            }
            ["verified", tag] => self.verified.push(tag.to_owned()),
            ["damaged", ..] => self.damaged.push(line["damaged ".len()..].to_owned()),
            ["lied", ..] => self.lies.push(line["lied ".len()..].to_owned()),
            ["refused", _, ..] => self.refused.push(line["refused ".len()..].to_owned()),
            ["failed", ..] => self.failure = Some(line["failed ".len()..].to_owned()),
            ["checked"] => self.is_checked = true,
            ["loading"] => self.is_loading = true,
            _ => {}
        }
    }
}

/// Whether the system said so; every BRANCH leaves something on the disk, and many cuts fill it.
fn is_for_want_of_space(why: &str) -> bool {
    why.contains("os error 28")
}

impl Ledger {
    /// Tags that must be there.
    pub fn len(&self) -> usize {
        self.answered.len()
    }

    /// What a boot shows to be wrong, one line each, after a disk without faults lost its power.
    pub fn judge(&self, boot: &Boot) -> Vec<String> {
        let mut wrong: Vec<String> = boot.damaged.iter().chain(&boot.lies).cloned().collect();
        if !boot.is_checked {
            wrong.push("the snapshots could not be looked through".to_owned());
            return wrong;
        }
        for (tag, files) in &self.answered {
            let Some(found) = boot.listed.get(tag) else {
                wrong.push(format!("{tag} was answered and is gone"));
                continue;
            };
            for (name, sha256) in files {
                match found.get(name) {
                    None => wrong.push(format!("{tag} was answered and has no {name} any more")),
                    Some(now) if now != sha256 => {
                        wrong.push(format!("{tag} was answered and its {name} changed"))
                    }
                    Some(_) => {}
                }
            }
        }
        let is_verified = |tag: &String| boot.verified.contains(tag);
        let unverified = boot.listed.keys().filter(|tag| !is_verified(tag));
        // What was found damaged has told of itself.
        let told = |tag: &&String| boot.damaged.iter().any(|line| line.starts_with(&format!("{tag} ")));
        wrong.extend(unverified.filter(|tag| !told(tag)).map(|tag| format!("{tag} is listed and not whole")));
        wrong
    }

    /// From now on all that this boot was answered must be there.
    pub fn take(&mut self, boot: Boot) {
        self.answered.extend(boot.answered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(text: &str) -> Boot {
        let mut boot = Boot::default();
        // However it is cut into pieces.
        for piece in text.as_bytes().chunks(5) {
            boot.hear(&String::from_utf8_lossy(piece));
        }
        boot
    }

    #[track_caller]
    fn check(second: &str, expected: &[&str]) {
        let mut ledger = Ledger::default();
        ledger.take(boot("checked\nloading\nanswered a\nfile a m 1\nfile a v 2\nrefused b\nanswered c"));
        assert_eq!(ledger.len(), 1);
        assert_eq!(ledger.judge(&boot(second)), expected);
    }

    #[test]
    fn what_was_answered_must_be_there_whole_and_as_it_was() {
        let whole = "listed a\nfile a m 1\nfile a v 2\nverified a\n";
        check(&format!("{whole}checked\n"), &[]);
        check("checked\n", &["a was answered and is gone"]);
        check(
            &whole.replace("m 1", "m 9").replace("\nverified", "\nchecked\nverified"),
            &["a was answered and its m changed"],
        );
        check("listed a\nfile a m 1\nverified a\nchecked\n", &["a was answered and has no v any more"]);
        check(whole, &["the snapshots could not be looked through"]);
    }

    #[test]
    fn an_answer_for_what_is_not_on_the_disk_is_a_lie_on_any_disk() {
        let said = "checked\nloading\nanswered a\nlied a digest of memory.bin differs\n";
        assert_eq!(boot(said).lies, ["a digest of memory.bin differs"]);
        assert_eq!(Ledger::default().judge(&boot(said)), ["a digest of memory.bin differs"]);
    }

    #[test]
    fn a_refused_branch_says_why_and_one_for_want_of_space_is_told_apart() {
        let boot = boot(
            "loading\nrefused a cannot write: Input/output error (os error 5)\n\
             refused b cannot write: No space left on device (os error 28)\nfailed snapshot: no room\n",
        );
        assert_eq!(boot.refused.len(), 2);
        let with_room: Vec<&str> = boot.refused_with_room().collect();
        assert_eq!(with_room, ["a cannot write: Input/output error (os error 5)"]);
        assert_eq!(boot.failure.as_deref(), Some("snapshot: no room"));
    }

    #[test]
    fn what_was_not_answered_may_be_there_but_only_whole() {
        let whole = "listed a\nfile a m 1\nfile a v 2\nverified a\n";
        check(&format!("{whole}listed b\nverified b\nchecked\n"), &[]);
        check(&format!("{whole}listed b\nchecked\n"), &["b is listed and not whole"]);
        check(&format!("{whole}listed b\ndamaged b its layer\nchecked\n"), &["b its layer"]);
    }
}
