//! Bytes between code that blocks and code that must not: an HTTP body as something to read or to write.

use std::io::{self, Read, Write};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::poll_fn;
use tokio::sync::mpsc;

/// Pieces on their way. Whoever sends the next one waits, so that memory does not grow with the body.
const PIECES: usize = 4;
/// What is written is sent in pieces of this size.
const PIECE_BYTES: usize = 256 << 10;

type Piece = io::Result<Bytes>;

/// Sends what is written; only for threads that may block.
#[derive(Debug)]
pub struct ChannelWriter {
    sender: mpsc::Sender<Piece>,
    piece: Vec<u8>,
}

impl ChannelWriter {
    fn send(&self, piece: Piece) -> io::Result<()> {
        self.sender.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Ends the body with an error, so that whoever reads it does not take it for whole.
    pub fn fail(self, error: io::Error) {
        // An error says that nobody reads it any longer.
        let _ = self.send(Err(error));
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.send(Ok(piece.into()))
    }
}

/// Reads what was sent; only for threads that may block.
#[derive(Debug)]
pub struct ChannelReader {
    receiver: mpsc::Receiver<Piece>,
    piece: Bytes,
}

impl ChannelReader {
    /// Whether the body has come to its end. What is left of it is thrown away, up to `most` bytes.
    pub fn discard_rest(&mut self, most: u64) -> io::Result<bool> {
        io::copy(&mut self.take(most), &mut io::sink())?;
        Ok(self.read(&mut [0])? == 0)
    }
}

impl Read for ChannelReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = bytes.len().min(self.piece.len());
        bytes[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// What is written to the one comes out of the other.
pub fn written_stream() -> (ChannelWriter, impl Stream<Item = Piece> + Send + 'static) {
    let (sender, mut receiver) = mpsc::channel(PIECES);
    let stream = poll_fn(move |context| receiver.poll_recv(context));
    (ChannelWriter { sender, piece: Vec::new() }, stream)
}

/// What is sent to the one can be read from the other. Dropping the sender ends it; so send an error where the
/// body ends before it should.
pub fn read_channel() -> (mpsc::Sender<Piece>, ChannelReader) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (sender, ChannelReader { receiver, piece: Bytes::new() })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use futures_util::StreamExt;

    use super::{read_channel, written_stream};

    #[test]
    fn what_is_written_arrives_in_order_and_an_error_ends_it() {
        let (mut writer, stream) = written_stream();
        let expected: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        let sent = expected.clone();
        let thread = std::thread::spawn(move || {
            for chunk in sent.chunks(1000) {
                writer.write_all(chunk).unwrap();
            }
            writer.flush().unwrap();
            writer.fail(std::io::Error::other("broken"));
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut pieces: Vec<_> = runtime.block_on(stream.collect());
        thread.join().unwrap();
        assert_eq!(pieces.pop().unwrap().unwrap_err().to_string(), "broken");
        let found: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.unwrap()).collect();
        assert!(found == expected);
    }

    #[test]
    fn what_is_sent_can_be_read_and_the_rest_of_it_thrown_away() {
        let (sender, mut reader) = read_channel();
        let thread = std::thread::spawn(move || {
            for _ in 0..10 {
                sender.blocking_send(Ok(vec![7; 100].into())).unwrap();
            }
        });
        let mut bytes = [0; 150];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 150]);
        assert!(!reader.discard_rest(800).unwrap());
        assert!(reader.discard_rest(800).unwrap());
        thread.join().unwrap();
    }
}
