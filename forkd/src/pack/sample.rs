//! Packs made by hand, for tests and for [`crate::fuzzing`].

use super::format::{Part, RECORD_BYTES, Record, check_of, header};
use super::write::add_data;

/// A pack with whatever manifests and files it is given, its digests right.
pub fn forged(snapshots: &[[Vec<u8>; 4]]) -> Vec<u8> {
    let mut pack = header(snapshots.len() as u32).to_vec();
    for (number, files) in snapshots.iter().enumerate() {
        for (part, bytes) in Part::ALL.into_iter().zip(files) {
            let begin = Record::Begin { part, snapshot: number as u64, file_bytes: bytes.len() as u64 };
            pack.extend(begin.encode());
            let mut digest = blake3::Hasher::new();
            for (chunk, bytes) in bytes.chunks(1 << 20).enumerate() {
                let offset = (chunk as u64) << 20;
                let record = Record::Data { zstd: false, offset, bytes: bytes.len(), stored: bytes.len() };
                pack.extend(record.encode());
                pack.extend(bytes);
                add_data(&mut digest, offset, bytes);
            }
            pack.extend(Record::End { data_bytes: bytes.len() as u64 }.encode());
            pack.extend(digest.finalize().as_bytes());
        }
    }
    pack.extend(Record::Last.encode());
    let digest = blake3::hash(&pack);
    pack.extend(digest.as_bytes());
    pack
}

/// The heads of a pack's records as they follow one another in `heads`, each with the check that is right for it, in
/// a pack that begins as one does. A head that is read must be written again as it was.
pub fn sealed(heads: &[u8]) -> Vec<u8> {
    let mut pack = header(1).to_vec();
    for fields in heads.chunks(RECORD_BYTES - 8) {
        let mut head = [0; RECORD_BYTES];
        head[..fields.len()].copy_from_slice(fields);
        let check = check_of(&head);
        head[RECORD_BYTES - 8..].copy_from_slice(&check);
        if let Ok(record) = Record::decode(&head) {
            assert_eq!(record.encode(), head, "{record:?}");
        }
        pack.extend(head);
    }
    pack
}
