//! A pack read as a stream, each record checked before it is handed on.

use std::io::{self, Read};

use super::PackError;
use super::format::{HEADER_BYTES, MAX_DATA_BYTES, Part, RECORD_BYTES, Record, decode_header};
use super::write::add_data;

/// Bytes of a digest.
const DIGEST_BYTES: usize = 32;

/// Takes what a pack holds, in the order in which it lies there. An error text refuses the pack.
pub(super) trait Sink {
    /// A file begins: of which snapshot of how many, and its size.
    fn begin(&mut self, part: Part, number: u64, snapshots: u32, file_bytes: u64) -> Result<(), Refusal>;

    /// Bytes of the file, each at a higher offset than those before, all below its size.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Refusal>;

    /// The file ends; its data was as it was packed.
    fn end(&mut self) -> Result<(), Refusal>;
}

/// Why a sink takes no more.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The pack is to blame.
    Pack(String),
    /// Something else is.
    Other(PackError),
}

impl<E: Into<PackError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Reads a whole pack into `sink`. When this returns `Ok`, every byte was what was written, and the input has ended.
pub(super) fn read(input: impl Read, sink: &mut impl Sink) -> Result<(), PackError> {
    let mut input = Input {
        inner: input,
        position: 0,
        record_start: 0,
        whole: blake3::Hasher::new(),
        part: "the header".to_owned(),
    };
    let mut head = [0; HEADER_BYTES];
    input.read(&mut head)?;
    let snapshots = decode_header(&head).map_err(|reason| input.refused(reason))?;
    let mut buffers = Buffers { stored: vec![0; MAX_DATA_BYTES], plain: Vec::with_capacity(MAX_DATA_BYTES) };
    for number in 0..u64::from(snapshots) {
        for part in Part::ALL {
            input.part = format!("{part} of snapshot {} of {snapshots}", number + 1);
            read_part(&mut input, &mut buffers, (part, number, snapshots), sink)?;
        }
    }
    input.part = "the end".to_owned();
    match input.record()? {
        Record::Last => {}
        _ => return Err(input.refused("more parts than its header announces")),
    }
    let expected = input.whole.finalize();
    let mut found = [0; DIGEST_BYTES];
    input.read(&mut found)?;
    if expected != blake3::Hash::from_bytes(found) {
        return Err(input.refused("the digest of the whole pack is another one"));
    }
    input.require_end()
}

/// Reads a whole pack, and checks that it is one: every record, digest and size, but not what the files mean.
pub fn verify(input: impl Read) -> Result<(), PackError> {
    struct Nothing;
    impl Sink for Nothing {
        fn begin(&mut self, _: Part, _: u64, _: u32, _: u64) -> Result<(), Refusal> {
            Ok(())
        }
        fn data(&mut self, _: u64, _: &[u8]) -> Result<(), Refusal> {
            Ok(())
        }
        fn end(&mut self) -> Result<(), Refusal> {
            Ok(())
        }
    }
    read(input, &mut Nothing)
}

struct Buffers {
    stored: Vec<u8>,
    plain: Vec<u8>,
}

fn read_part<R: Read>(
    input: &mut Input<R>,
    buffers: &mut Buffers,
    (part, number, snapshots): (Part, u64, u32),
    sink: &mut impl Sink,
) -> Result<(), PackError> {
    let file_bytes = match input.record()? {
        Record::Begin { part: begun, snapshot, file_bytes } if (begun, snapshot) == (part, number) => {
            file_bytes
        }
        _ => return Err(input.refused("this part does not begin here")),
    };
    let taken = sink.begin(part, number, snapshots, file_bytes);
    taken.map_err(|refusal| input.refused_by(refusal))?;
    let mut digest = blake3::Hasher::new();
    let (mut end, mut sum) = (0_u64, 0_u64);
    loop {
        match input.record()? {
            Record::Data { zstd, offset, bytes, stored } => {
                let past = offset.checked_add(bytes as u64).filter(|past| *past <= file_bytes);
                let past = past.ok_or_else(|| input.refused("data beyond the end of its file"))?;
                if offset < end {
                    return Err(input.refused("data that is not in order"));
                }
                let data = input.data(buffers, zstd, bytes, stored)?;
                add_data(&mut digest, offset, data);
                sink.data(offset, data).map_err(|refusal| input.refused_by(refusal))?;
                (end, sum) = (past, sum + bytes as u64);
            }
            Record::End { data_bytes } => {
                let mut found = [0; DIGEST_BYTES];
                input.read(&mut found)?;
                if data_bytes != sum || digest.finalize() != blake3::Hash::from_bytes(found) {
                    return Err(input.refused("the digest of this part is another one"));
                }
                return sink.end().map_err(|refusal| input.refused_by(refusal));
            }
            Record::Begin { .. } | Record::Last => return Err(input.refused("this part does not end")),
        }
    }
}

/// What is read, how far, and which part of it that is.
struct Input<R> {
    inner: R,
    position: u64,
    record_start: u64,
    whole: blake3::Hasher,
    part: String,
}

impl<R: Read> Input<R> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), PackError> {
        let mut done = 0;
        while done < bytes.len() {
            match self.inner.read(&mut bytes[done..]) {
                Ok(0) => {
                    let offset = self.position + done as u64;
                    return Err(PackError::Refused {
                        offset,
                        part: self.part.clone(),
                        reason: "the pack ends here, before it is whole".to_owned(),
                    });
                }
                Ok(more) => done += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(PackError::Read { offset: self.position + done as u64, source }),
            }
        }
        self.whole.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn record(&mut self) -> Result<Record, PackError> {
        self.record_start = self.position;
        let mut head = [0; RECORD_BYTES];
        self.read(&mut head)?;
        Record::decode(&head).map_err(|reason| self.refused(reason))
    }

    fn data<'a>(
        &mut self,
        buffers: &'a mut Buffers,
        zstd: bool,
        bytes: usize,
        stored: usize,
    ) -> Result<&'a [u8], PackError> {
        let taken = &mut buffers.stored[..stored];
        self.read(taken)?;
        if !zstd {
            return Ok(taken);
        }
        buffers.plain.resize(bytes, 0);
        // Never more than the record announces, whatever the compressed bytes say.
        match zstd::bulk::decompress_to_buffer(taken, &mut buffers.plain[..]) {
            Ok(plain) if plain == bytes => Ok(&buffers.plain),
            Ok(_) => Err(self.refused("compressed data of another size")),
            Err(error) => Err(self.refused(format!("compressed data is damaged: {error}"))),
        }
    }

    fn require_end(&mut self) -> Result<(), PackError> {
        self.record_start = self.position;
        match self.inner.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.refused("there is more behind its end")),
            Err(source) => Err(PackError::Read { offset: self.position, source }),
        }
    }

    fn refused(&self, reason: impl Into<String>) -> PackError {
        PackError::Refused { offset: self.record_start, part: self.part.clone(), reason: reason.into() }
    }

    fn refused_by(&self, refusal: Refusal) -> PackError {
        match refusal {
            Refusal::Pack(reason) => self.refused(reason),
            Refusal::Other(error) => error,
        }
    }
}
