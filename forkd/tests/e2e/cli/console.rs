//! `forkd console` through pipes and through a terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use forkd::api::ConsoleAnswer;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use testkit::Outcome;

use super::{Ran, command};
use crate::host::{Host, Result};

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `forkd console` with `input` on its standard input.
fn piped(host: &Host, arguments: &[&str], input: &str) -> Result<Ran> {
    let mut command = command(&["console"]);
    command.args(arguments).env("FORKD_SOCKET", host.socket());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("no pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = |bytes| String::from_utf8(bytes);
    Ok(Ran { code: output.status.code(), out: text(output.stdout)?, err: text(output.stderr)? })
}

pub fn pipes() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let id = host.fork("base")?.id;
    let said = piped(&host, &[&id, "--until", "ok dirty"], "pages\ndirty 1024 4 7\n")?.done()?;
    assert!(said.starts_with("ok pages ") && said.ends_with("\nok dirty"), "{said:?}");
    // The rest of that answer was for the console that is gone.
    let said = piped(&host, &[&id], "sum 1024 4\n")?.done()?;
    assert_eq!(said.trim_end(), format!("ok sum 1024 4 {}", host.guest(&id, "sum 1024 4")?));
    piped(&host, &[&id, "--until", "never", "--timeout", "200ms"], "beat\n")?
        .require(1, "did not say \"never\" in time")?;
    let answer: ConsoleAnswer =
        piped(&host, &[&id, "--json", "--until", "ok zero"], "zero 1024 4\n")?.json()?;
    assert_eq!((answer.output.as_str(), answer.matched, answer.dropped_bytes), ("ok zero", true, 0));
    host.end(&id)?;
    piped(&host, &[&id], "")?.require(5, "no sandbox has the id")?;
    Ok(())
}

/// Both ends of a terminal.
struct Terminal {
    master: File,
    slave: File,
}

impl Terminal {
    fn open() -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.into_string()?;
        let nonblocking = rustix::fs::OFlags::NOCTTY.bits() as i32;
        let slave = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(name)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self { master: File::from(master), slave })
    }

    fn join(&self, host: &Host, arguments: &[&str]) -> Result<Child> {
        let mut command = command(&["console"]);
        command.args(arguments).env("FORKD_SOCKET", host.socket());
        Ok(command
            .stdin(self.slave.try_clone()?)
            .stdout(self.slave.try_clone()?)
            .stderr(self.slave.try_clone()?)
            .spawn()?)
    }

    /// Reads until `text` has been shown.
    fn read_until(&mut self, text: &str) -> Result<String> {
        let begun = Instant::now();
        let mut shown = Vec::new();
        while begun.elapsed() < PATIENCE {
            let mut chunk = [0; 4096];
            match self.master.read(&mut chunk) {
                Ok(count) => shown.extend_from_slice(&chunk[..count]),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
            let shown = String::from_utf8_lossy(&shown);
            if shown.contains(text) {
                return Ok(shown.into_owned());
            }
        }
        Err(format!("'{text}' was not shown: {:?}", String::from_utf8_lossy(&shown)).into())
    }

    fn is_raw(&self) -> Result<bool> {
        Ok(!tcgetattr(&self.slave)?.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO))
    }
}

pub fn terminal() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let id = host.fork("base")?.id;
    let mut terminal = Terminal::open()?;
    let found = format!("{:?}", tcgetattr(&terminal.slave)?);

    let mut child = terminal.join(&host, &[&id])?;
    terminal.read_until("Ctrl-] quits")?;
    wait_for(|| terminal.is_raw())?;
    // Key by key; nothing is echoed here, so all that is shown is the guest's.
    for key in "zero 1024 4\n".bytes() {
        terminal.master.write_all(&[key])?;
    }
    let shown = terminal.read_until("ok zero")?;
    assert!(!shown.replacen("ok zero", "", 1).contains("zero"), "{shown:?}");
    terminal.master.write_all(b"\x1d")?;
    assert_eq!(child.wait()?.code(), Some(0));
    assert_eq!(format!("{:?}", tcgetattr(&terminal.slave)?), found);

    let mut child = terminal.join(&host, &[&id, "--line"])?;
    terminal.read_until("Ctrl-] quits")?;
    wait_for(|| Ok(format!("{:?}", tcgetattr(&terminal.slave)?) != found))?;
    terminal.master.write_all(b"zerp\x7fo 1024 4\n")?;
    terminal.read_until("ok zero")?;
    terminal.master.write_all(b"\x1d")?;
    assert_eq!(child.wait()?.code(), Some(0));

    let mut child = terminal.join(&host, &[&id])?;
    wait_for(|| terminal.is_raw())?;
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    assert_eq!(child.wait()?.code(), Some(128 + 15));
    assert_eq!(format!("{:?}", tcgetattr(&terminal.slave)?), found);
    host.require_running(&id)?;
    Ok(())
}

fn wait_for(holds: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        if begun.elapsed() > PATIENCE {
            return Err("it did not become so in time".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
