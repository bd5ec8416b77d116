//! The file as a row of blocks, each of which stands by itself.
//!
//! ```text
//! file    "forkdrec"  version u32  0 u32  block*
//! block   index u32  stored bytes u32  plain bytes u32  checksum u32  stored bytes (a zstd frame)
//! ```
//!
//! Numbers are little-endian. The checksum is CRC-32 (IEEE 802.3) of the three numbers before it and of the stored
//! bytes. Indices count from 0, so a block that was taken out is missed.

use std::io::{self, ErrorKind, Read, Write};

use super::error::ReadError;

/// The version that is written, and the last that is read; those before are read as well. It grows when a reader of
/// the one before would misunderstand the file: with the layout of the kernel side's records, for one.
pub const VERSION: u32 = 2;

const MAGIC: [u8; 8] = *b"forkdrec";
const FILE_HEAD: usize = 16;
const BLOCK_HEAD: usize = 16;
/// The most plain bytes of a block that are read: 16 times what is put into one.
const MAX_PLAIN: usize = 16 << 20;
/// Of a frame that does not compress at all.
const MAX_STORED: usize = MAX_PLAIN + (MAX_PLAIN >> 7) + 512;
/// Fast, and close to what slower levels come to on these records.
const LEVEL: i32 = 3;

/// Writes a file.
#[derive(Debug)]
pub struct Writer<W> {
    file: W,
    index: u32,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Begins the file.
    ///
    /// # Errors
    /// Of the file.
    pub fn new(mut file: W) -> io::Result<Self> {
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend([0; 4]);
        file.write_all(&head)?;
        Ok(Self { file, index: 0, written: FILE_HEAD as u64 })
    }

    /// Writes one block, at once and in one piece.
    ///
    /// # Errors
    /// Of the file.
    pub fn block(&mut self, plain: &[u8]) -> io::Result<()> {
        let stored = zstd::bulk::compress(plain, LEVEL)?;
        let mut block = Vec::with_capacity(BLOCK_HEAD + stored.len());
        for number in [self.index, stored.len() as u32, plain.len() as u32] {
            block.extend(number.to_le_bytes());
        }
        block.extend(checksum(&block, &stored).to_le_bytes());
        block.extend(stored);
        self.file.write_all(&block)?;
        self.index += 1;
        self.written += block.len() as u64;
        Ok(())
    }

    /// Bytes in the file so far.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The file.
    pub const fn file(&self) -> &W {
        &self.file
    }
}

/// Reads a file, block by block.
#[derive(Debug)]
pub struct Reader<R> {
    file: R,
    index: u32,
    offset: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// [`ReadError::NotARecording`], or [`ReadError::Version`].
    pub fn new(mut file: R) -> Result<Self, ReadError> {
        let mut head = [0; FILE_HEAD];
        if fill(&mut file, &mut head)? < FILE_HEAD || head[..8] != MAGIC {
            return Err(ReadError::NotARecording);
        }
        match u32_at(&head, 8) {
            1..=VERSION => Ok(Self { file, index: 0, offset: FILE_HEAD as u64 }),
            0 => Err(ReadError::NotARecording),
            later => Err(ReadError::Version(later)),
        }
    }

    /// The plain bytes of the next block, and where it begins in the file; `None` at the end of the file.
    ///
    /// # Errors
    /// [`ReadError::Cut`] where the file ends inside it, [`ReadError::Damaged`] where it is not what was written.
    pub fn block(&mut self) -> Result<Option<(u64, Vec<u8>)>, ReadError> {
        let offset = self.offset;
        let damaged = |what| ReadError::Damaged { offset, what };
        let mut head = [0; BLOCK_HEAD];
        match fill(&mut self.file, &mut head)? {
            0 => return Ok(None),
            BLOCK_HEAD => {}
            _ => return Err(ReadError::Cut { offset }),
        }
        let (stored_len, plain_len) = (u32_at(&head, 4) as usize, u32_at(&head, 8) as usize);
        if stored_len > MAX_STORED || plain_len > MAX_PLAIN {
            return Err(damaged("a block of that size is never written"));
        }
        let mut stored = Vec::new();
        (&mut self.file).take(stored_len as u64).read_to_end(&mut stored)?;
        if stored.len() < stored_len {
            return Err(ReadError::Cut { offset });
        }
        if checksum(&head[..12], &stored) != u32_at(&head, 12) {
            return Err(damaged("the checksum of the block does not match its bytes"));
        }
        if u32_at(&head, 0) != self.index {
            return Err(damaged("a block before this one is missing"));
        }
        let plain = zstd::bulk::decompress(&stored, plain_len).map_err(|_| damaged("it does not unpack"))?;
        if plain.len() != plain_len {
            return Err(damaged("it unpacks to another length than it says"));
        }
        self.index += 1;
        self.offset += (BLOCK_HEAD + stored_len) as u64;
        Ok(Some((offset, plain)))
    }

    /// Where the next block begins in the file.
    pub const fn offset(&self) -> u64 {
        self.offset
    }
}

fn checksum(head: &[u8], stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(stored);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_le_bytes)
}

/// Reads until `buffer` is full or the file ends; how much it was.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(blocks: &[&[u8]]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for block in blocks {
            writer.block(block).unwrap();
        }
        assert_eq!(writer.written(), writer.file().len() as u64);
        writer.file
    }

    /// Every block, or the error that ended it.
    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut reader = Reader::new(bytes).map_err(|error| error.to_string())?;
        let mut blocks = Vec::new();
        while let Some((_, plain)) = reader.block().map_err(|error| error.to_string())? {
            blocks.push(plain);
        }
        Ok(blocks)
    }

    #[test]
    fn a_cut_inside_a_block_names_where_that_begins_and_between_blocks_is_none() {
        let whole = file(&[b"first", b"second"]);
        let second = FILE_HEAD + BLOCK_HEAD + u32_at(&whole, FILE_HEAD + 4) as usize;
        assert_eq!(read(&whole[..second]).unwrap(), [b"first"]);
        for cut in second + 1..whole.len() {
            let error = read(&whole[..cut]).unwrap_err();
            assert!(error.contains(&format!("inside the block at byte {second}:")), "{error}");
        }
        assert!(read(&whole[..FILE_HEAD - 1]).unwrap_err().contains("does not begin"));
    }

    #[test]
    fn a_later_version_is_refused_by_its_number() {
        let mut later = file(&[]);
        later[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
        assert!(read(&later).unwrap_err().contains(&format!("version {}", VERSION + 1)));
    }

    #[test]
    fn earlier_versions_are_read() {
        for version in 1..=VERSION {
            let mut earlier = file(&[b"block"]);
            earlier[8..12].copy_from_slice(&version.to_le_bytes());
            assert_eq!(read(&earlier).unwrap(), [b"block"]);
        }
    }

    #[test]
    fn a_block_that_was_taken_out_is_missed() {
        let whole = file(&[b"first", b"second"]);
        let second = FILE_HEAD + BLOCK_HEAD + u32_at(&whole, FILE_HEAD + 4) as usize;
        let without = [&whole[..FILE_HEAD], &whole[second..]].concat();
        assert!(read(&without).unwrap_err().contains("a block before this one is missing"));
    }

    proptest! {
        #[test]
        fn blocks_come_back(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..5)) {
            let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(read(&file(&slices)), Ok(blocks));
        }

        #[test]
        fn a_flipped_bit_never_gives_other_bytes(at in 0usize..200, bit in 0u8..8) {
            let blocks: [&[u8]; 2] = [b"the first block", b"the second block, which is longer"];
            let mut damaged = file(&blocks);
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            // Four bytes of the head are reserved.
            let reserved = (12..16).contains(&at);
            prop_assert!(reserved || read(&damaged).is_err());
        }
    }
}
