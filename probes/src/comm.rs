//! A thread's name, as the kernel keeps it.

use std::borrow::Cow;
use std::fmt;

use probes_common::COMM_LEN;

/// Up to 15 bytes and a NUL. Any bytes: names need not be UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comm([u8; COMM_LEN]);

impl Comm {
    /// From the kernel's fixed-size field.
    pub const fn new(bytes: [u8; COMM_LEN]) -> Self {
        Self(bytes)
    }

    /// From text, cut to what the kernel would keep.
    pub fn from_text(text: &str) -> Self {
        let mut bytes = [0; COMM_LEN];
        let used = text.len().min(COMM_LEN - 1);
        bytes[..used].copy_from_slice(&text.as_bytes()[..used]);
        Self(bytes)
    }

    /// The kernel's fixed-size field.
    pub const fn bytes(&self) -> &[u8; COMM_LEN] {
        &self.0
    }

    /// The name up to its NUL, with anything that is not UTF-8 replaced.
    pub fn text(&self) -> Cow<'_, str> {
        let used = self.0.iter().position(|byte| *byte == 0).unwrap_or(COMM_LEN);
        String::from_utf8_lossy(&self.0[..used])
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text(), formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::Comm;

    #[test]
    fn a_name_ends_at_its_nul_or_at_the_end_of_the_field() {
        assert_eq!(Comm::new(*b"fc_vmm\0old_names").text(), "fc_vmm");
        assert_eq!(Comm::new([b'x'; 16]).text(), "x".repeat(16));
        assert_eq!(Comm::from_text("a name that is far too long").text(), "a name that is ");
    }
}
