//! A chain as lines of text.

use crate::text::{clip, wrap};

/// Links in one line each would be long: they run on, and break after an arrow.
pub fn lines(chain: &[String], indent: &str) -> String {
    const LINK: usize = 72;
    let links: Vec<String> = chain.iter().map(|link| clip(link, LINK)).collect();
    wrap(&format!("{indent}{}", links.join(" -> ")), " -> ", &format!("{indent}  "))
}
