//! `forkd pack`

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use forkd::http_client::Endpoint;
use forkd::pack::{Packer, verify};
use forkd::snapshot::store::Store;
use forkd::snapshot::tag::Tag;
use forkd::transfer;
use reports::units::bytes;
use serde::Serialize;
use tempfile::NamedTempFile;

use super::exit::{Exit, Failure};
use super::options::Options;
use super::output::Output;
use super::place::{Found, Place, about_transfer};

/// Write a snapshot with all layers it lies on as one file, verified
#[derive(Args, Debug)]
pub struct Pack {
    /// The snapshot
    tag: Tag,
    /// The file to write, which must not be there yet; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Compress with zstd
    #[arg(long)]
    zstd: bool,
    #[command(flatten)]
    place: Place,
}

impl Pack {
    /// Writes the pack; on an error no file is left.
    pub fn run(self, options: &Options) -> anyhow::Result<()> {
        if self.output == Path::new("-") {
            if io::stdout().is_terminal() {
                bail!("a pack is not for a terminal: send standard output to a file or a pipe");
            }
            let place = self.place.find(options)?;
            let written_bytes = self.write(&place, &mut io::stdout().lock())?;
            // Standard output is the pack.
            writeln!(io::stderr(), "{}", self.text(&place, written_bytes))?;
            return Ok(());
        }
        if self.output.exists() {
            let taken = format!(
                "{} is there already: delete it first, or choose another name",
                self.output.display()
            );
            return Err(Failure::new(Exit::Refused, taken).into());
        }
        let dir = self.output.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let place = self.place.find(options)?;
        let mut unfinished = NamedTempFile::with_prefix_in(".forkd-pack-", dir)
            .with_context(|| format!("cannot create a file in {}", dir.display()))?;
        let written_bytes = self.write(&place, unfinished.as_file_mut())?;
        let written = unfinished.reopen()?;
        verify(BufReader::with_capacity(1 << 20, written))
            .context("the pack was written, and reads otherwise")?;
        unfinished.as_file().sync_all().context("cannot make sure of the pack")?;
        // Refuses a file that has come there meanwhile.
        unfinished
            .persist_noclobber(&self.output)
            .map_err(|error| error.error)
            .with_context(|| format!("cannot name the pack {}", self.output.display()))?;
        File::open(dir).and_then(|dir| dir.sync_all()).context("cannot make sure of the pack's name")?;
        let written = Written { tag: self.tag.to_string(), file: self.output.clone(), bytes: written_bytes };
        let text = || self.text(&place, written_bytes) + "\n";
        Output::new(options.json, options.color).result(&written, text)
    }

    fn write(&self, place: &Found, output: &mut impl Write) -> anyhow::Result<u64> {
        let mut output = Counting { inner: BufWriter::with_capacity(1 << 20, output), bytes: 0 };
        match place {
            Found::Daemon(endpoint) => self.fetch(endpoint, &mut output)?,
            Found::Disk(store) => self.write_from(store, &mut output)?,
        }
        output.flush()?;
        Ok(output.bytes)
    }

    fn fetch(&self, endpoint: &Endpoint, output: &mut impl Write) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let path = format!("/v1/snapshots/{}/pack?zstd={}", self.tag, self.zstd);
        let fetch = transfer::fetch(endpoint, &path, |piece| output.write_all(piece));
        runtime.block_on(fetch).map_err(about_transfer(self.tag.as_str()))
    }

    fn write_from(&self, store: &Store, output: &mut impl Write) -> anyhow::Result<()> {
        Packer::new(store, &self.tag)?.write(output, self.zstd)?;
        Ok(())
    }

    fn text(&self, place: &Found, written_bytes: u64) -> String {
        format!("packed '{}' ({}), {place}", self.tag, bytes(written_bytes))
    }
}

/// What `--json` says.
#[derive(Serialize)]
struct Written {
    tag: String,
    file: PathBuf,
    bytes: u64,
}

struct Counting<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
