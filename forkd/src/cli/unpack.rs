//! `forkd unpack`

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use forkd::api::Unpacked;
use forkd::http_client::Endpoint;
use forkd::pack::unpack;
use forkd::snapshot::tag::Tag;
use forkd::transfer;
use tokio::sync::mpsc;

use super::options::Options;
use super::output::Output;
use super::place::{Found, Place, about_transfer};

/// What is read of the file at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Take in a file that `forkd pack` wrote: all of its snapshots, or none
#[derive(Args, Debug)]
pub struct Unpack {
    /// The file; `-` for standard input
    file: PathBuf,
    /// Another name for the snapshot that was packed; what it lies on keeps its names
    #[arg(long, value_name = "NEW")]
    tag: Option<Tag>,
    #[command(flatten)]
    place: Place,
}

impl Unpack {
    /// Takes the pack in.
    pub fn run(self, options: &Options) -> anyhow::Result<()> {
        let input: Box<dyn Read + Send> = match self.file == Path::new("-") {
            true => Box::new(io::stdin()),
            false => {
                let opened = File::open(&self.file);
                Box::new(opened.with_context(|| format!("cannot open {}", self.file.display()))?)
            }
        };
        let place = self.place.find(options)?;
        let unpacked = match &place {
            Found::Daemon(endpoint) => self.send(endpoint, input)?,
            Found::Disk(store) => {
                unpack(store, io::BufReader::with_capacity(PIECE_BYTES, input), self.tag.as_ref())?
            }
        };
        Output::new(options.json, options.color).result(&unpacked, || text(&unpacked, &place))
    }

    fn send(&self, endpoint: &Endpoint, mut input: Box<dyn Read + Send>) -> anyhow::Result<Unpacked> {
        let (sender, pieces) = mpsc::channel(4);
        // Ends with the input, or when nobody takes it any longer; a read that hangs ends with the process.
        std::thread::spawn(move || {
            while let Some(piece) = next_piece(&mut *input) {
                if sender.blocking_send(piece).is_err() {
                    return;
                }
            }
        });
        let path = match &self.tag {
            Some(tag) => format!("/v1/packs?tag={tag}"),
            None => "/v1/packs".to_owned(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(transfer::put(endpoint, &path, pieces)).map_err(about_transfer("of the pack"))
    }
}

fn text(Unpacked { tag, added, kept }: &Unpacked, place: &Found) -> String {
    let mut text = format!("unpacked '{tag}', {place}\n");
    for (what, tags) in [("added", added), ("were here already", kept)] {
        if !tags.is_empty() {
            text.push_str(&format!("{what}: {}\n", tags.join(", ")));
        }
    }
    text
}

/// `None` at the end of the input. An error breaks the transfer off.
fn next_piece(input: &mut dyn Read) -> Option<io::Result<Bytes>> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match input.read(&mut piece) {
            Ok(0) => return None,
            Ok(bytes) => {
                piece.truncate(bytes);
                return Some(Ok(piece.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Some(Err(error)),
        }
    }
}
