//! Finds a text in a stream of output.

/// Looks for a text that may be cut between two pieces of output.
#[derive(Debug)]
pub struct Until {
    wanted: Option<String>,
    /// The end of what came, as much as could be the begin of the text.
    tail: String,
}

impl Until {
    /// Looks for `wanted`; for nothing where there is none.
    pub fn new(wanted: Option<String>) -> Self {
        Self { wanted, tail: String::new() }
    }

    /// How many bytes of `piece` there are to the end of the text, where that has come with it.
    pub fn end_in(&mut self, piece: &str) -> Option<usize> {
        let wanted = self.wanted.as_ref()?;
        let before = self.tail.len();
        self.tail.push_str(piece);
        if let Some(at) = self.tail.find(wanted.as_str()) {
            return Some((at + wanted.len()).saturating_sub(before));
        }
        let mut cut = (self.tail.len() + 1).saturating_sub(wanted.len());
        while !self.tail.is_char_boundary(cut) {
            cut -= 1;
        }
        self.tail.drain(..cut);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Until;

    fn check(wanted: &str, pieces: &[&str], expected: &[Option<usize>]) {
        let mut until = Until::new(Some(wanted.to_owned()));
        let found: Vec<_> = pieces.iter().map(|piece| until.end_in(piece)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_text_is_found_in_one_piece_or_across_several() {
        check("ok", &["not yet", "then ok\nmore"], &[None, Some(7)]);
        check("login:", &["lo", "gi", "n: x"], &[None, None, Some(2)]);
        check("aab", &["aa", "ab"], &[None, Some(2)]);
        check("€", &["ä", "€ "], &[None, Some(3)]);
    }

    #[test]
    fn without_a_text_nothing_is_found() {
        assert_eq!(Until::new(None).end_in("anything"), None);
    }
}
