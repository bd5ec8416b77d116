//! A guest's serial console: what it prints is kept, bounded; what is written reaches it in order.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

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
}

#[derive(Debug)]
struct Input {
    pipe: ChildStdin,
    /// Everything before this offset has been returned by an exchange.
    returned: u64,
}

impl Console {
    /// Takes over the standard streams of a Firecracker process and reads until it closes them.
    pub fn new(pipe: ChildStdin, stdout: ChildStdout) -> Self {
        let output = Arc::new(Mutex::new(Output::default()));
        let (grown, end) = watch::channel(0);
        tokio::spawn(keep_output(stdout, Arc::clone(&output), grown));
        Self { output, end, input: tokio::sync::Mutex::new(Input { pipe, returned: 0 }) }
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
    use std::process::Stdio;
    use std::time::Duration;

    use tokio::process::Command;

    use super::{Console, KEPT_BYTES, Output};

    fn console(script: &str) -> (tokio::process::Child, Console) {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let console = Console::new(child.stdin.take().unwrap(), child.stdout.take().unwrap());
        (child, console)
    }

    const WAIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn an_answer_is_read_to_its_end_and_an_old_one_is_not_taken_for_it() {
        let (_child, console) = console("while read line; do echo \"ok $line\"; echo more; done");
        let first = console.exchange(b"a\n", Some(b"ok a\n"), WAIT).await.unwrap();
        assert_eq!((first.output.as_slice(), first.matched), (b"ok a\n".as_slice(), true));
        let rest = console.exchange(b"", Some(b"more\n"), WAIT).await.unwrap();
        assert_eq!(rest.output, b"more\n");
        let old = console.exchange(b"b\n", Some(b"ok a\n"), Duration::from_millis(50)).await.unwrap();
        assert!(!old.matched, "{old:?}");
    }

    #[tokio::test]
    async fn the_end_of_the_console_ends_the_wait() {
        let (_child, console) = console("echo last words");
        let exchange = console.exchange(b"", Some(b"never"), Duration::from_secs(60)).await.unwrap();
        assert_eq!(exchange.output, b"last words\n");
    }

    #[tokio::test]
    async fn a_listener_hears_all_once_and_takes_nothing_from_an_exchange() {
        let (_child, console) = console("read line; printf 'a\\303'; sleep 0.1; printf '\\244'; sleep 60");
        let start = console.listen(None, Duration::ZERO).await.next;
        console.exchange(b"go\n", None, Duration::ZERO).await.unwrap();
        let first = console.listen(Some(start), WAIT).await;
        assert_eq!((first.output.as_slice(), first.next), (b"a".as_slice(), start + 1));
        // Half of a character is waited for.
        let second = console.listen(Some(first.next), WAIT).await;
        assert_eq!((second.output.as_slice(), second.next), ("ä".as_bytes(), start + 3));
        assert_eq!(console.exchange(b"", Some(b"\xa4"), WAIT).await.unwrap().output, "aä".as_bytes());
        let silence = console.listen(Some(second.next), Duration::from_millis(20)).await;
        assert_eq!((silence.output.len(), silence.next), (0, second.next));
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
