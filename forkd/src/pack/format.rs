//! The layout of a pack's header and records.

use std::fmt;

/// The first bytes of every pack.
pub const MAGIC: [u8; 8] = *b"forkdpak";
/// What this program writes, and all that it reads.
pub const VERSION: u32 = 2;
/// Magic, version, number of snapshots, and the BLAKE3 digest of these.
pub const HEADER_BYTES: usize = 8 + 4 + 4 + 32;
/// Kind, detail, two zero bytes, stored bytes (u32), offset (u64), plain bytes (u64), check (u64).
pub const RECORD_BYTES: usize = 32;
/// A record of data holds at most this many bytes of its file.
pub const MAX_DATA_BYTES: usize = 1 << 20;
/// Snapshots in one pack.
pub const MAX_SNAPSHOTS: u32 = 1 << 16;

/// Which file of a snapshot a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its manifest.
    Manifest,
    /// Its device and CPU state.
    Vmstate,
    /// Its memory image, or its layer file.
    Memory,
    /// The root drive that its guest writes to; empty where it has none.
    Drive,
}

impl Part {
    /// The parts of a snapshot, in the order in which they lie in a pack.
    pub const ALL: [Self; 4] = [Self::Manifest, Self::Vmstate, Self::Memory, Self::Drive];

    const fn number(self) -> u8 {
        match self {
            Self::Manifest => 1,
            Self::Vmstate => 2,
            Self::Memory => 3,
            Self::Drive => 4,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "manifest",
            Self::Vmstate => "device state",
            Self::Memory => "memory",
            Self::Drive => "drive",
        })
    }
}

/// What a record is, without the bytes that are stored behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A part begins: the file of `file_bytes` bytes of the snapshot with that number, counted from 0.
    Begin {
        /// Which file.
        part: Part,
        /// Of which snapshot.
        snapshot: u64,
        /// Its size, holes included.
        file_bytes: u64,
    },
    /// `bytes` bytes of the file at `offset`, stored in `stored` bytes: as they are, or compressed with zstd.
    Data {
        /// Whether they are compressed.
        zstd: bool,
        /// Where they belong.
        offset: u64,
        /// How many they are.
        bytes: usize,
        /// How many lie in the pack.
        stored: usize,
    },
    /// The part ends. Behind it, the digest of its data: of each record its offset and its length as u64, and its bytes.
    End {
        /// The bytes of its data.
        data_bytes: u64,
    },
    /// The pack ends. Behind it, the digest of every byte of the pack before.
    Last,
}

/// Bytes of a digest.
const DIGEST_BYTES: u32 = 32;

impl Record {
    /// As it lies in a pack.
    pub fn encode(self) -> [u8; RECORD_BYTES] {
        let (kind, detail, stored, offset, bytes) = match self {
            Self::Begin { part, snapshot, file_bytes } => (1, part.number(), 0, snapshot, file_bytes),
            Self::Data { zstd, offset, bytes, stored } => {
                (2, u8::from(zstd), stored as u32, offset, bytes as u64)
            }
            Self::End { data_bytes } => (3, 0, DIGEST_BYTES, 0, data_bytes),
            Self::Last => (4, 0, DIGEST_BYTES, 0, 0),
        };
        let mut head = [0; RECORD_BYTES];
        head[0] = kind;
        head[1] = detail;
        head[4..8].copy_from_slice(&u32::to_le_bytes(stored));
        head[8..16].copy_from_slice(&u64::to_le_bytes(offset));
        head[16..24].copy_from_slice(&u64::to_le_bytes(bytes));
        let check = check_of(&head);
        head[24..].copy_from_slice(&check);
        head
    }

    /// Reads what [`Self::encode`] wrote, and nothing else: every record has one encoding.
    pub fn decode(head: &[u8; RECORD_BYTES]) -> Result<Self, &'static str> {
        if head[24..] != check_of(head) {
            return Err("the head of a record is damaged");
        }
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let stored = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (offset, bytes) = (word(8), word(16));
        let record = match (head[0], head[1]) {
            (1, detail) => {
                let part = Part::ALL.into_iter().find(|part| part.number() == detail);
                Self::Begin { part: part.ok_or("an unknown part")?, snapshot: offset, file_bytes: bytes }
            }
            (2, detail @ 0..=1) => data(detail == 1, offset, bytes, stored)?,
            (3, 0) => Self::End { data_bytes: bytes },
            (4, 0) => Self::Last,
            _ => return Err("a record of an unknown kind"),
        };
        if record.encode() == *head { Ok(record) } else { Err("a record that nothing writes") }
    }
}

fn data(zstd: bool, offset: u64, bytes: u64, stored: usize) -> Result<Record, &'static str> {
    let bytes = usize::try_from(bytes).ok().filter(|bytes| (1..=MAX_DATA_BYTES).contains(bytes));
    let bytes = bytes.ok_or("a record of data of a size that nothing writes")?;
    let fits = if zstd { (1..bytes).contains(&stored) } else { stored == bytes };
    if fits {
        Ok(Record::Data { zstd, offset, bytes, stored })
    } else {
        Err("a record that is larger than its data")
    }
}

/// The first bytes of the digest of a record's head.
pub fn check_of(head: &[u8; RECORD_BYTES]) -> [u8; 8] {
    let digest = blake3::hash(&head[..24]);
    let mut check = [0; 8];
    check.copy_from_slice(&digest.as_bytes()[..8]);
    check
}

/// The header of a pack with so many snapshots.
pub fn header(snapshots: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&snapshots.to_le_bytes());
    let digest = blake3::hash(&header[..16]);
    header[16..].copy_from_slice(digest.as_bytes());
    header
}

/// The number of snapshots that a header announces.
pub fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<u32, String> {
    if bytes[..8] != MAGIC {
        return Err("this is no pack: `forkd pack` writes one".to_owned());
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (version, snapshots) = (word(8), word(12));
    if version != VERSION {
        return Err(format!("it is of version {version}, and this forkd reads version {VERSION}"));
    }
    if header(snapshots) != *bytes {
        return Err("the header is damaged".to_owned());
    }
    if !(1..=MAX_SNAPSHOTS).contains(&snapshots) {
        return Err(format!("{snapshots} snapshots are none, or more than {MAX_SNAPSHOTS}"));
    }
    Ok(snapshots)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{MAX_DATA_BYTES, Part, Record, decode_header, header};

    fn records() -> impl Strategy<Value = Record> {
        let part = prop::sample::select(&Part::ALL[..]);
        prop_oneof![
            (part, any::<u64>(), any::<u64>()).prop_map(|(part, snapshot, file_bytes)| Record::Begin {
                part,
                snapshot,
                file_bytes
            }),
            (any::<u64>(), 2..=MAX_DATA_BYTES, any::<Option<u32>>()).prop_map(|(offset, bytes, stored)| {
                let zstd = stored.is_some();
                let stored = stored.map_or(bytes, |stored| 1 + stored as usize % (bytes - 1));
                Record::Data { zstd, offset, bytes, stored }
            }),
            any::<u64>().prop_map(|data_bytes| Record::End { data_bytes }),
            Just(Record::Last),
        ]
    }

    proptest! {
        #[test]
        fn a_record_is_read_back_as_it_was_written(record in records()) {
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn a_record_with_a_flipped_bit_is_refused(record in records(), bit in 0..256_usize) {
            let mut head = record.encode();
            head[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Record::decode(&head).is_err());
        }

        #[test]
        fn a_header_with_a_flipped_bit_is_refused(snapshots in 1..=super::MAX_SNAPSHOTS, bit in 0..384_usize) {
            let mut bytes = header(snapshots);
            prop_assert_eq!(decode_header(&bytes), Ok(snapshots));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_header(&bytes).is_err());
        }

        #[test]
        fn bytes_that_are_no_record_are_refused(head in any::<[u8; 32]>()) {
            prop_assert!(Record::decode(&head).is_err());
        }
    }

    #[test]
    fn other_versions_and_counts_are_refused_with_the_reason() {
        let mut version = header(1);
        version[8] = 1;
        assert!(decode_header(&version).unwrap_err().contains("is of version 1,"));
        assert!(decode_header(&header(0)).unwrap_err().contains("0 snapshots"));
        assert!(decode_header(&header(u32::MAX)).unwrap_err().contains("more than"));
        assert!(decode_header(&[0; super::HEADER_BYTES]).unwrap_err().contains("no pack"));
    }

    #[test]
    fn data_must_be_of_a_size_that_is_written() {
        let refused = |bytes, stored, zstd| {
            let head = Record::Data { zstd, offset: 0, bytes, stored }.encode();
            assert!(Record::decode(&head).is_err(), "{bytes} in {stored}, {zstd}");
        };
        refused(0, 0, false);
        refused(MAX_DATA_BYTES + 1, MAX_DATA_BYTES + 1, false);
        refused(10, 9, false);
        refused(10, 10, true);
        refused(10, 0, true);
    }
}
