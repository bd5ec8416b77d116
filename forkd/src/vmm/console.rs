//! A guest's serial console: what it prints is kept, bounded; what is written reaches it in order.
//!
//! Both directions are named FIFOs in the microVM's run directory, so that they outlive the daemon. Firecracker
//! has each open for reading and writing: without a daemon it sees no end of input, gets no SIGPIPE, and the
//! kernel keeps what the guest printed, up to the size of a pipe (64 KiB). Beyond that Firecracker drops the
//! guest's output, as its end does not block, and the guest runs on; a last line or so that did not fit stays in
//! Firecracker's own buffer and comes before the next output.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// What the guest reads.
pub const INPUT_FIFO: &str = "console.in";
/// What the guest prints.
pub const OUTPUT_FIFO: &str = "console.out";

/// Output that is kept for a reader; older bytes are dropped and counted.
const KEPT_BYTES: usize = 256 << 10;

/// What came of one exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Output since the write, to the end of what was waited for where that came.
    pub output: Vec<u8>,
    /// Whether it came.
    pub matched: bool,
    /// Bytes of that output that were dropped before they could be read.
    pub dropped_bytes: u64,
}

/// Output from an offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What came.
    pub output: Vec<u8>,
    /// The offset behind it.
    pub next: u64,
    /// Bytes behind the offset asked for that were dropped before they could be read.
    pub dropped_bytes: u64,
}

/// Both directions of one console.
#[derive(Debug)]
pub struct Console {
    output: Arc<Mutex<Output>>,
    // The offset behind the last byte that came; closed when the guest's side is.
    end: watch::Receiver<u64>,
    // Held over a whole exchange: two at once would read each other's answers.
    input: tokio::sync::Mutex<Input>,
    // Ends with the console: another one may be opened on the same FIFOs.
    _reader: JoinSet<()>,
}

#[derive(Debug)]
struct Input {
    pipe: Sender,
    /// Everything before this offset has been returned by an exchange.
    returned: u64,
}

/// The standard streams of the process that serves a console.
#[derive(Debug)]
pub struct ServerEnds {
    /// Its standard input.
    pub input: File,
    /// Its standard output.
    pub output: File,
}

impl Console {
    /// Makes the FIFOs in `dir`, and opens them for the daemon and for the process to be started.
    pub fn create(dir: &Path) -> io::Result<(Self, ServerEnds)> {
        let open = |name, flags: OFlags| {
            let path = dir.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            // Both ways, which never blocks and never comes to an end (fifo(7)).
            File::options().read(true).write(true).custom_flags(flags.bits() as i32).open(path)
        };
        let input = open(INPUT_FIFO, OFlags::empty())?;
        let output = open(OUTPUT_FIFO, OFlags::NONBLOCK)?;
        Ok((Self::open(dir)?, ServerEnds { input, output }))
    }

    /// Opens the FIFOs in `dir`, and reads until the last process that has them open for writing is gone. Fails
    /// where there is none.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let pipe = OpenOptions::new().open_sender(dir.join(INPUT_FIFO))?;
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let mut stdout = File::options().read(true).custom_flags(nonblocking).open(dir.join(OUTPUT_FIFO))?;
        let mut kept = Output::default();
        // What came while nobody read is old already: it must not be taken for the answer to the first write.
        let backlog = read_what_is_there(&mut stdout, &mut kept);
        let output = Arc::new(Mutex::new(kept));
        let (grown, end) = watch::channel(backlog);
        let mut reader = JoinSet::new();
        reader.spawn(keep_output(Receiver::from_file(stdout)?, Arc::clone(&output), grown));
        let input = tokio::sync::Mutex::new(Input { pipe, returned: 0 });
        Ok(Self { output, end, input, _reader: reader })
    }

    /// Writes `bytes`, then reads until `until` has come or `wait` is over.
    ///
    /// Output counts from the write on, so that an old answer is not taken for the new one; with nothing to
    /// write it counts from where the last exchange ended.
    pub async fn exchange(&self, bytes: &[u8], until: Option<&[u8]>, wait: Duration) -> io::Result<Exchange> {
        let deadline = Instant::now() + wait;
        let mut input = self.input.lock().await;
        if !bytes.is_empty() {
            input.returned = *self.end.borrow();
            // A guest that does not read fills the pipe.
            timeout_at(deadline, input.pipe.write_all(bytes)).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the guest does not read its console")
            })??;
        }
        let start = input.returned;
        let mut end = self.end.clone();
        loop {
            end.mark_unchanged();
            let exchange = self.since(start, until);
            let over = exchange.matched || !matches!(timeout_at(deadline, end.changed()).await, Ok(Ok(())));
            if over {
                // Once more: output that came between the last look and the end of the wait counts.
                let exchange = if exchange.matched { exchange } else { self.since(start, until) };
                input.returned = start + exchange.dropped_bytes + exchange.output.len() as u64;
                return Ok(exchange);
            }
        }
    }

    /// Output from the offset `from` on, waiting up to `wait` for the first byte; with no offset, only where the
    /// end is. Takes nothing from exchanges. Ends between two characters where the output is UTF-8.
    pub async fn listen(&self, from: Option<u64>, wait: Duration) -> Heard {
        let deadline = Instant::now() + wait;
        let mut end = self.end.clone();
        // An offset behind the end has not come: it is the end.
        let from = from.map_or(*end.borrow(), |from| from.min(*end.borrow()));
        let mut wanted = from;
        loop {
            // An error says that the guest's side is closed, or that the time is over.
            let more = matches!(timeout_at(deadline, end.wait_for(|end| *end > wanted)).await, Ok(Ok(_)));
            let Exchange { mut output, dropped_bytes, .. } = self.since(from, None);
            let whole = output.len() - unfinished_character(&output);
            wanted = from + dropped_bytes + output.len() as u64;
            if whole > 0 {
                output.truncate(whole);
            } else if more {
                continue;
            }
            return Heard { next: from + dropped_bytes + output.len() as u64, output, dropped_bytes };
        }
    }

    /// The last `bytes` of output, for an error message.
    pub fn tail(&self, bytes: usize) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = output.kept.len().saturating_sub(bytes);
        String::from_utf8_lossy(&output.kept.iter().skip(skip).copied().collect::<Vec<u8>>()).into_owned()
    }

    fn since(&self, start: u64, until: Option<&[u8]>) -> Exchange {
        let (mut bytes, dropped_bytes) =
            self.output.lock().unwrap_or_else(PoisonError::into_inner).since(start);
        let found = until.and_then(|wanted| find(&bytes, wanted).map(|at| at + wanted.len()));
        if let Some(end) = found {
            bytes.truncate(end);
        }
        Exchange { output: bytes, matched: found.is_some(), dropped_bytes }
    }
}

/// Reads until nothing more has come, and returns the offset of the end.
fn read_what_is_there(stdout: &mut File, output: &mut Output) -> u64 {
    let mut buffer = vec![0; 16 << 10];
    let mut end = 0;
    while let Ok(bytes @ 1..) = stdout.read(&mut buffer) {
        end = output.push(&buffer[..bytes]);
    }
    end
}

async fn keep_output(
    mut stdout: impl AsyncRead + Unpin,
    output: Arc<Mutex<Output>>,
    grown: watch::Sender<u64>,
) {
    let mut buffer = vec![0; 16 << 10];
    // An error ends a console as its end does: there is nothing more to read.
    while let Ok(bytes @ 1..) = stdout.read(&mut buffer).await {
        let end = output.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..bytes]);
        grown.send_replace(end);
    }
}

#[derive(Debug, Default)]
struct Output {
    kept: VecDeque<u8>,
    /// Offset of the first byte kept; offsets count all bytes that ever came.
    first: u64,
}

impl Output {
    /// Keeps `bytes`, drops the oldest beyond the bound, and returns the offset of the end.
    fn push(&mut self, bytes: &[u8]) -> u64 {
        self.kept.extend(bytes);
        let excess = self.kept.len().saturating_sub(KEPT_BYTES);
        self.kept.drain(..excess);
        self.first += excess as u64;
        self.first + self.kept.len() as u64
    }

    /// The bytes from `offset` on, and how many of them are gone.
    fn since(&self, offset: u64) -> (Vec<u8>, u64) {
        let skip = offset.saturating_sub(self.first) as usize;
        (self.kept.iter().skip(skip).copied().collect(), self.first.saturating_sub(offset))
    }
}

/// How many bytes at the end of `bytes` begin a UTF-8 character that is not whole.
fn unfinished_character(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(last) {
        // No length: more bytes could make it valid.
        Err(error) if error.error_len().is_none() => last.len(),
        _ => 0,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return Some(0);
    }
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::process::{Child, Command};

    use super::{Console, KEPT_BYTES, Output};

    fn console(script: &str) -> (Child, Console, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (console, ends) = Console::create(dir.path()).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(ends.input).stdout(ends.output).kill_on_drop(true);
        (command.spawn().unwrap(), console, dir)
    }

    const WAIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn an_answer_is_read_to_its_end_and_an_old_one_is_not_taken_for_it() {
        let (_child, console, _dir) = console("while read line; do echo \"ok $line\"; echo more; done");
        let first = console.exchange(b"a\n", Some(b"ok a\n"), WAIT).await.unwrap();
        assert_eq!((first.output.as_slice(), first.matched), (b"ok a\n".as_slice(), true));
        let rest = console.exchange(b"", Some(b"more\n"), WAIT).await.unwrap();
        assert_eq!(rest.output, b"more\n");
        let old = console.exchange(b"b\n", Some(b"ok a\n"), Duration::from_millis(50)).await.unwrap();
        assert!(!old.matched, "{old:?}");
    }

    #[tokio::test]
    async fn the_end_of_the_console_ends_the_wait() {
        let (_child, console, _dir) = console("echo last words");
        let exchange = console.exchange(b"", Some(b"never"), Duration::from_secs(60)).await.unwrap();
        assert_eq!(exchange.output, b"last words\n");
    }

    #[tokio::test]
    async fn a_listener_hears_all_once_and_takes_nothing_from_an_exchange() {
        let (_child, console, _dir) = console("printf 'a\\303'; read line; printf '\\244'; sleep 60");
        let first = console.listen(Some(0), WAIT).await;
        assert_eq!((first.output.as_slice(), first.next), (b"a".as_slice(), 1));
        assert_eq!(console.exchange(b"", Some(b"\xc3"), WAIT).await.unwrap().output, b"a\xc3");
        // Half of a character is waited for: the listener is asked before the other half is.
        let listening = console.listen(Some(first.next), WAIT);
        let (second, answer) =
            tokio::join!(biased; listening, console.exchange(b"go\n", Some(b"\xa4"), WAIT));
        assert_eq!((second.output.as_slice(), second.next), ("ä".as_bytes(), 3));
        assert_eq!(answer.unwrap().output, b"\xa4");
        assert_eq!(console.listen(Some(0), WAIT).await.output, "aä".as_bytes());
        let silence = console.listen(Some(second.next), Duration::from_millis(20)).await;
        assert_eq!((silence.output.len(), silence.next), (0, second.next));
    }

    #[tokio::test]
    async fn another_reader_takes_over_with_what_came_in_between() {
        let (_child, first, dir) = console("read line; echo \"got $line\"; sleep 60");
        drop(first);
        // Each end is opened anew; the process behind them has seen no end and no error.
        let second = Console::open(dir.path()).unwrap();
        let answer = second.exchange(b"a\n", Some(b"got a\n"), WAIT).await.unwrap();
        assert!(answer.matched, "{answer:?}");
    }

    #[test]
    fn output_that_nobody_read_is_dropped_from_the_front_and_counted() {
        let mut output = Output::default();
        output.push(b"lost");
        let end = output.push(&vec![b'x'; KEPT_BYTES]);
        assert_eq!(end, KEPT_BYTES as u64 + 4);
        let (bytes, dropped) = output.since(0);
        assert_eq!((bytes.len(), dropped), (KEPT_BYTES, 4));
        assert_eq!(output.since(end - 1), (b"x".to_vec(), 0));
    }
}
