//! What the programs say of themselves, for the logger of the `log` crate.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::Log;

use super::chain;
use crate::error::AttachError;

/// The map of the messages.
pub const MAP: &str = "AYA_LOGS";
/// The constant that has the programs say something.
pub const SWITCH: &str = "LOG";
/// The size of the map while nobody listens: the kernel takes no less. Any power of two is rounded up to a page.
pub const UNHEARD_BYTES: u32 = 4096;

/// Messages that wait to be read.
pub struct Messages(EbpfLogger<&'static dyn Log>);

impl Messages {
    /// Those of the programs of `ebpf`.
    pub fn of(ebpf: &mut Ebpf) -> Result<Self, AttachError> {
        let refused = |error| AttachError::Map { map: MAP, reason: chain(&error) };
        EbpfLogger::init(ebpf).map(Self).map_err(refused)
    }

    /// Hands on what has come.
    pub fn hand_on(&mut self) {
        self.0.flush();
    }
}
