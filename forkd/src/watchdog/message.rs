//! What the daemon tells the watchdog: one datagram each.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::vmm::identity::Identity;

/// No datagram is longer: a socket's path is limited to 107 bytes.
pub const MAX_BYTES: usize = 1024;

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Message {
    /// A guest is about to be paused.
    Begin(Pause),
    /// The guest of this pause has been resumed, or an operator has to act.
    End(u64),
}

/// A pause of one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Its number, which no other pause of the same daemon has.
    pub lease: u64,
    /// The guest's Firecracker.
    pub process: Identity,
    /// Firecracker's API socket.
    pub socket: PathBuf,
    /// When the watchdog looks after it, in milliseconds from now.
    pub lease_ms: u64,
}

impl Message {
    /// As it goes over the socket.
    pub fn encode(&self) -> Vec<u8> {
        // Numbers and a path below a run directory whose name is UTF-8.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what [`Message::encode`] writes.
    pub fn decode(datagram: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_BYTES, Message, Pause};
    use crate::vmm::identity::Identity;

    #[test]
    fn a_message_comes_back_as_it_was_sent_and_fits() {
        let process = Identity { pid: u32::MAX, start_ticks: u64::MAX };
        let socket = std::path::PathBuf::from("/".repeat(107));
        let begin = Message::Begin(Pause { lease: u64::MAX, process, socket, lease_ms: u64::MAX });
        for message in [begin, Message::End(7)] {
            let datagram = message.encode();
            assert!(datagram.len() <= MAX_BYTES);
            assert_eq!(Message::decode(&datagram).unwrap(), message);
        }
        assert!(Message::decode(b"").is_err());
    }
}
