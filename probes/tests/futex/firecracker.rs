//! The stock Firecracker release, whose main thread waits for its API thread: two threads that wait for each
//! other's messages, and nothing that they fight over.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use probes::futex::Session;
use probes::recording::Options;
use probes::target::Target;
use reports::futex::{Home, Verdict};
use testkit::Outcome;

const REQUESTS: u64 = 5;

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn request(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = vec![0; 64];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

pub fn waits_for_its_api() -> Outcome {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("api");
    let binary = testkit::firecracker().ok_or("no firecracker")?;
    let running = Running(Command::new(binary).arg("--api-sock").arg(&socket).spawn()?);
    let begun = Instant::now();
    while request(&socket).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not answer");
        thread::sleep(Duration::from_millis(20));
    }
    let session = Session::attach(vec![Target::find(running.0.id(), false)?], &Options::default())?;
    for _ in 0..REQUESTS {
        thread::sleep(Duration::from_millis(50));
        assert!(request(&socket)?.contains("200"), "a request failed");
    }
    thread::sleep(Duration::from_millis(50));
    let report = session.finish(&[])?;
    let waits =
        |comm: &str| report.words.iter().find(|word| word.waiters.iter().any(|waiter| waiter.comm == comm));
    let word = waits("firecracker").ok_or("its main thread waited on nothing")?;
    assert_eq!(word.verdict, Verdict::PassiveWait, "{word:#?}");
    let waker = word.wakers.first().ok_or("nobody woke it")?;
    assert_eq!((waker.comm.as_str(), waker.waits_ended), ("fc_api", REQUESTS), "{word:#?}");
    assert_eq!(waker.by_operation, REQUESTS, "{word:#?}");
    assert!(matches!(&word.home, Home::Data { zeroed: true, .. }), "{:?}", word.home);
    let main = &word.waiters[0].user;
    assert!(main.iter().any(|frame| frame.contains("run_with_api")), "{main:?}");
    assert!(main.last().is_some_and(|root| root == "_start"), "{main:?}");
    assert!(report.words.iter().all(|word| word.verdict != Verdict::Contention), "{report:#?}");
    Ok(())
}
