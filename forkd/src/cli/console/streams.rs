//! The two directions of a console, each read on its own.

use std::io::Read;
use std::time::{Duration, Instant};

use forkd::api::{ConsoleOutput, SandboxState};
use forkd::client::Client;
use tokio::sync::mpsc;

/// How long one request for output waits.
const POLL: Duration = Duration::from_secs(20);
/// Between requests that come back at once with nothing.
const BREATH: Duration = Duration::from_millis(50);
/// Read from standard input at once: escaped as JSON it is below what the daemon takes.
const CHUNK_BYTES: usize = 4096;

/// What the guest prints, from an offset on, until the sandbox is gone.
pub fn output(client: Client, id: String, mut from: u64) -> mpsc::Receiver<anyhow::Result<ConsoleOutput>> {
    let (heard, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let begun = Instant::now();
            let answer = client.console_output(&id, Some(from), POLL).await;
            let answer = match answer {
                Ok(answer) if answer.output.is_empty() => match is_over(&client, &id, begun).await {
                    true => return,
                    false => continue,
                },
                answer => answer.map_err(super::super::exit::about_sandbox(&id)),
            };
            let failed = answer.as_ref().map(|answer| from = answer.next).is_err();
            if heard.send(answer).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Whether nothing more can come: an answer without output came early, and the sandbox is dead or gone.
async fn is_over(client: &Client, id: &str, asked: Instant) -> bool {
    if asked.elapsed() >= POLL {
        return false;
    }
    tokio::time::sleep(BREATH).await;
    !matches!(client.sandbox(id).await, Ok(sandbox) if sandbox.state != SandboxState::Dead)
}

/// What comes on standard input, until its end. Characters that are cut between two reads are put together.
pub fn input() -> mpsc::Receiver<String> {
    let (typed, receiver) = mpsc::channel(1);
    // A thread of its own: nothing waits for it when the command ends while it reads.
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut bytes = Vec::new();
        let mut chunk = [0; CHUNK_BYTES];
        // An error ends the input as its end does.
        while let Ok(count @ 1..) = stdin.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
            let text = take_characters(&mut bytes);
            if !text.is_empty() && typed.blocking_send(text).is_err() {
                return;
            }
        }
        if !bytes.is_empty() {
            // An error says that nobody wants it any more.
            let _ = typed.blocking_send(String::from_utf8_lossy(&bytes).into_owned());
        }
    });
    receiver
}

/// Takes all but a character at the end that is not whole.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    // No length: more bytes could make it valid.
    let unfinished = match std::str::from_utf8(last) {
        Err(error) if error.error_len().is_none() => last.len(),
        _ => 0,
    };
    let rest = bytes.split_off(bytes.len() - unfinished);
    String::from_utf8_lossy(&std::mem::replace(bytes, rest)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::take_characters;

    #[test]
    fn a_character_cut_between_two_reads_is_put_together() {
        let mut bytes = b"a\xe2\x82".to_vec();
        assert_eq!(take_characters(&mut bytes), "a");
        bytes.push(0xac);
        assert_eq!(take_characters(&mut bytes), "€");
        bytes.push(0xff);
        assert_eq!((take_characters(&mut bytes).as_str(), bytes.len()), ("\u{fffd}", 0));
    }
}
