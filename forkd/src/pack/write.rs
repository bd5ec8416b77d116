//! A snapshot and all that it lies on, written as one stream.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::PackError;
use super::format::{MAX_DATA_BYTES, MAX_SNAPSHOTS, Part, Record, header};
use crate::api::Packed;
use crate::snapshot::DRIVE_FILE;
use crate::snapshot::chain::Link;
use crate::snapshot::compose::{check_drive, check_memory, check_vmstate, open};
use crate::snapshot::extents::data_extents;
use crate::snapshot::pace::Urgent;
use crate::snapshot::store::{Opened, Reservation, Store, StoreError, at};
use crate::snapshot::tag::Tag;

/// What zstd compresses with: its own default.
const ZSTD_LEVEL: i32 = 3;

/// A tag about to be packed: neither it nor what it lies on can be deleted while this lives.
#[derive(Debug)]
pub struct Packer<'a> {
    store: &'a Store,
    chain: Vec<Arc<Link>>,
    _pins: Vec<Reservation>,
}

impl<'a> Packer<'a> {
    /// Takes hold of `tag` and of all that it lies on, and checks every file against its digest, so that a
    /// damaged snapshot is refused before a byte is written. Blocks for as long as the disk takes.
    pub fn new(store: &'a Store, tag: &Tag) -> Result<Self, PackError> {
        let links = store.chain(tag)?;
        let pins = links.iter().map(|link| store.hold(link.tag.clone())).collect();
        // Walked again under the pins: from here on nothing of it is deleted.
        let chain = store.chain(tag)?;
        if chain != links {
            let reason = "what it lies on was changed a moment ago: try again".to_owned();
            return Err(StoreError::Damaged { tag: tag.to_string(), reason }.into());
        }
        for link in &chain {
            let snapshot = open(store, link)?;
            check_vmstate(store, &snapshot, &Urgent)?;
            check_memory(store, &snapshot, &Urgent)?;
            check_drive(store, &snapshot, &Urgent)?;
        }
        Ok(Self { store, chain, _pins: pins })
    }

    /// Writes the pack, in memory that does not grow with it. Blocks for as long as the disk and `output` take.
    pub fn write(&self, output: impl Write, zstd: bool) -> Result<Packed, PackError> {
        let snapshots = u32::try_from(self.chain.len()).unwrap_or(u32::MAX);
        if snapshots > MAX_SNAPSHOTS {
            let reason =
                io::Error::other(format!("{snapshots} layers are too many for one pack: compact it"));
            return Err(PackError::Write(reason));
        }
        let mut output = Output::new(output, zstd).map_err(PackError::Write)?;
        output.write(&header(snapshots)).map_err(PackError::Write)?;
        for (number, link) in self.chain.iter().rev().enumerate() {
            self.write_snapshot(&mut output, number as u64, &open(self.store, link)?)?;
        }
        output.finish().map_err(PackError::Write)?;
        let tags = self.chain.iter().rev().map(|link| link.tag.to_string()).collect();
        Ok(Packed { tag: self.chain[0].tag.to_string(), snapshots: tags, bytes: output.position })
    }

    fn write_snapshot(
        &self,
        output: &mut Output<impl Write>,
        number: u64,
        snapshot: &Opened,
    ) -> Result<(), PackError> {
        let encoded = snapshot.manifest.encode();
        let manifest = encoded.map_err(|error| PackError::Write(error.into()))?;
        output.begin(Part::Manifest, number, manifest.len() as u64).map_err(PackError::Write)?;
        for (chunk, bytes) in manifest.chunks(MAX_DATA_BYTES).enumerate() {
            output.data((chunk * MAX_DATA_BYTES) as u64, bytes).map_err(PackError::Write)?;
        }
        output.end().map_err(PackError::Write)?;
        for (part, file, path) in [
            (Part::Vmstate, Some(&snapshot.vmstate), snapshot.vmstate_path()),
            (Part::Memory, Some(&snapshot.memory), snapshot.memory_path()),
            (Part::Drive, snapshot.drive.as_ref(), snapshot.dir.join(DRIVE_FILE)),
        ] {
            let metadata = file.map(File::metadata).transpose().map_err(at("read", &path))?;
            let bytes = metadata.map_or(0, |metadata| metadata.len());
            output.begin(part, number, bytes).map_err(PackError::Write)?;
            if let Some(file) = file {
                output.file(file, bytes, |error| at("read", &path)(error).into())?;
            }
            output.end().map_err(PackError::Write)?;
        }
        Ok(())
    }
}

/// Writes records, and keeps the digests.
struct Output<W> {
    inner: W,
    position: u64,
    whole: blake3::Hasher,
    part: blake3::Hasher,
    part_bytes: u64,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl<W: Write> Output<W> {
    fn new(inner: W, zstd: bool) -> io::Result<Self> {
        let zstd = zstd.then(|| zstd::bulk::Compressor::new(ZSTD_LEVEL)).transpose()?;
        let (whole, part) = (blake3::Hasher::new(), blake3::Hasher::new());
        Ok(Self { inner, position: 0, whole, part, part_bytes: 0, zstd })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        self.whole.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn begin(&mut self, part: Part, snapshot: u64, file_bytes: u64) -> io::Result<()> {
        self.part.reset();
        self.part_bytes = 0;
        self.write(&Record::Begin { part, snapshot, file_bytes }.encode())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        add_data(&mut self.part, offset, bytes);
        self.part_bytes += bytes.len() as u64;
        let compressed = self.zstd.as_mut().map(|zstd| zstd.compress(bytes)).transpose()?;
        // What does not become smaller is stored as it is.
        let (zstd, stored) = match &compressed {
            Some(compressed) if compressed.len() < bytes.len() => (true, &compressed[..]),
            _ => (false, bytes),
        };
        let record = Record::Data { zstd, offset, bytes: bytes.len(), stored: stored.len() };
        self.write(&record.encode())?;
        self.write(stored)
    }

    /// The data of a file of `bytes` bytes; its holes are left out.
    fn file(
        &mut self,
        file: &File,
        bytes: u64,
        unreadable: impl Fn(io::Error) -> PackError,
    ) -> Result<(), PackError> {
        let mut buffer = vec![0; MAX_DATA_BYTES];
        for extent in data_extents(file).map_err(&unreadable)? {
            // Extents end on whole pages, a file where it ends.
            let end = extent.end().min(bytes);
            for offset in (extent.start..end).step_by(MAX_DATA_BYTES) {
                let chunk = &mut buffer[..(end - offset).min(MAX_DATA_BYTES as u64) as usize];
                file.read_exact_at(chunk, offset).map_err(&unreadable)?;
                self.data(offset, chunk).map_err(PackError::Write)?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let digest = self.part.finalize();
        self.write(&Record::End { data_bytes: self.part_bytes }.encode())?;
        self.write(digest.as_bytes())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write(&Record::Last.encode())?;
        let digest = self.whole.finalize();
        self.write(digest.as_bytes())?;
        self.inner.flush()
    }
}

/// Adds one record of data to the digest of its part.
pub(super) fn add_data(part: &mut blake3::Hasher, offset: u64, bytes: &[u8]) {
    part.update(&offset.to_le_bytes());
    part.update(&(bytes.len() as u64).to_le_bytes());
    part.update(bytes);
}
