//! What a [`Document`](super::Document) looks like to those who read it: people, and the tools of continuous
//! integration.

pub mod annotations;
pub mod junit;
pub mod markdown;
mod words;
