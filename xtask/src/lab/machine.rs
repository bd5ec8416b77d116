//! One virtual machine in software emulation: its QEMU, what it says, and its certain end.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::process::{self, Interrupts};

/// The emulator's program.
pub const QEMU: &str = "qemu-system-x86_64";

/// What a machine leaves in its folder: its console, what `init.sh` says of it, and what the emulator says.
const CONSOLE: &str = "console.log";
const CONTROL: &str = "control";
const WARNINGS: &str = "qemu.log";

/// Until when a machine says that it is up: one that does not has hung, and its own time limit is for its job. Alone on a
/// host it takes ten seconds or so; beside other load emulation may be several times slower.
pub const UP_TIMEOUT: Duration = Duration::from_secs(180);

/// What a machine is made of.
pub struct Machine {
    /// The kernel, as its package has it.
    pub kernel: PathBuf,
    /// Its first file system.
    pub initramfs: PathBuf,
    /// Its memory.
    pub mem_mib: u32,
    /// Its processors; each takes one of the host's while it computes.
    pub cpus: u32,
    /// Emulate AMD's virtualisation, so that `/dev/kvm` is there inside.
    pub has_kvm: bool,
    /// Its disks.
    pub drives: Vec<Drive>,
    /// Whether a person sits at it: a console on this terminal in place of the output port.
    pub is_interactive: bool,
}

/// A disk.
pub struct Drive {
    /// The serial number by which it is found inside.
    pub serial: &'static str,
    /// What follows `-drive if=none,id=...,`.
    pub options: String,
}

/// A machine that runs; dropping it ends it.
pub struct Running {
    child: Child,
    started: Instant,
    dir: PathBuf,
}

/// What listens to a machine's output port.
pub trait Watcher {
    /// Takes in what came.
    fn hear(&mut self, chunk: &[u8]);
    /// Whether the power is cut now; asked several times a second.
    fn cuts_now(&mut self) -> bool {
        false
    }
}

impl<F: FnMut(&[u8])> Watcher for F {
    fn hear(&mut self, chunk: &[u8]) {
        self(chunk);
    }
}

/// How a machine ended.
pub struct Ended {
    /// QEMU's own exit status; `None` where it was killed from here.
    pub status: Option<ExitStatus>,
    /// Why it was killed.
    pub killed_for: Option<Killed>,
}

/// Why a machine was killed from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// It was still running when its time was over.
    Timeout,
    /// It was not up after [`UP_TIMEOUT`].
    NotUp,
    /// This process was interrupted by this signal.
    Interrupt(&'static str),
    /// Its watcher cut its power.
    Cut,
}

/// How many processors a machine can have. Before 8.1 the emulator could run code that another processor had just
/// changed as it was before: a kernel that turns a tracepoint on or off then dies of a breakpoint which is no more.
/// Source: QEMU's commit deba78709ae8, "accel/tcg: Always lock pages before translation".
pub fn sound_cpus() -> u32 {
    let said = process::output(Command::new(QEMU).arg("--version")).unwrap_or_default();
    if version(&said).is_some_and(|version| version >= (8, 1)) { 2 } else { 1 }
}

/// `(8, 1)` of `QEMU emulator version 8.1.2 (...)`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split("version ").nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `path` as part of a `-drive` option, where a comma ends a value.
pub fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

impl Machine {
    /// Starts it; what it says on its console and control port is written to files in `dir`.
    pub fn start(&self, dir: &Path) -> Result<Running> {
        let mut qemu = Command::new(QEMU);
        qemu.args(self.arguments(&dir.join(CONSOLE), &dir.join(CONTROL)));
        if self.is_interactive {
            qemu.stdin(Stdio::inherit()).stdout(Stdio::inherit());
        } else {
            qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        // It warns of each feature of the processor's model that it does not emulate.
        let warnings = File::create(dir.join(WARNINGS)).context("cannot write beside the machine's disks")?;
        qemu.stderr(warnings);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe {
            qemu.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = qemu.spawn().with_context(|| format!("cannot start {QEMU}"))?;
        Ok(Running { child, started: Instant::now(), dir: dir.to_owned() })
    }

    fn arguments(&self, console: &Path, control: &Path) -> Vec<String> {
        // Every feature that is emulated. Linux 6.1 does not come up reliably on the EPYC model.
        let cpu = if self.has_kvm { "max,+svm,+npt" } else { "max" };
        let mut arguments: Vec<String> = [
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi,tb-size=512",
            "-cpu",
            cpu,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-append",
            // The emulator follows this host's counter on every processor, so the guest may trust it; its timer ticks,
            // though on a busy host not within the moment in which the kernel looks. Mitigations cost much in emulation
            // and protect nobody here. The console is a file, and shows how far a boot came that hangs: it is not quiet
            // until `init.sh` makes it so.
            "console=ttyS0 panic=-1 tsc=reliable no_timer_check mitigations=off random.trust_cpu=on",
            "-device",
            "virtio-serial-pci",
        ]
        .map(str::to_owned)
        .into();
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        add("-smp", self.cpus.to_string());
        add("-m", self.mem_mib.to_string());
        add("-kernel", self.kernel.to_string_lossy().into_owned());
        add("-initrd", self.initramfs.to_string_lossy().into_owned());
        add("-chardev", format!("file,id=console,path={}", escaped(console)));
        add("-serial", "chardev:console".to_owned());
        add("-chardev", format!("file,id=control,path={}", escaped(control)));
        add("-device", "virtserialport,chardev=control,name=control".to_owned());
        let (output, port) = if self.is_interactive {
            // Ctrl-C at a shell is the guest's.
            ("stdio,id=output,signal=off", "virtconsole")
        } else {
            // Not `stdio`: when its input ends, the port counts as unplugged and the guest's writes wait for ever.
            ("file,id=output,path=/dev/stdout", "virtserialport")
        };
        add("-chardev", output.to_owned());
        add("-device", format!("{port},chardev=output,name=output"));
        for (index, drive) in self.drives.iter().enumerate() {
            add("-drive", format!("if=none,id=drive{index},{}", drive.options));
            add("-device", format!("virtio-blk-pci,drive=drive{index},serial={}", drive.serial));
        }
        arguments
    }
}

impl Running {
    /// Waits for its end, and kills it when it does not come up, `timeout` is over, this process is interrupted or the
    /// watcher says so. What comes out of the output port is given to the watcher as it comes.
    pub fn wait(
        &mut self,
        timeout: Duration,
        interrupts: &Interrupts,
        watcher: &mut dyn Watcher,
    ) -> Result<Ended> {
        let output = self.child.stdout.take().map(read_apart);
        let mut is_up = false;
        loop {
            if let Some((_, name)) = interrupts.take() {
                return self.kill_for(Killed::Interrupt(name));
            }
            is_up = is_up || says_up(&self.control());
            if let Some(why) = overdue(is_up, self.started.elapsed(), timeout) {
                return self.kill_for(why);
            }
            if watcher.cuts_now() {
                return self.kill_for(Killed::Cut);
            }
            if next_chunk(output.as_ref(), watcher) {
                continue;
            }
            if let Some(status) = self.child.try_wait()? {
                while next_chunk(output.as_ref(), watcher) {}
                return Ok(Ended { status: Some(status), killed_for: None });
            }
        }
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// What it said of itself, one word or a word and its value a line: see `init.sh`.
    pub fn control(&self) -> String {
        fs::read_to_string(self.dir.join(CONTROL)).unwrap_or_default()
    }

    /// The last line that the emulator itself said.
    pub fn complaint(&self) -> String {
        let text = fs::read_to_string(self.dir.join(WARNINGS)).unwrap_or_default();
        text.lines().next_back().unwrap_or_default().to_owned()
    }

    /// The last lines of its console.
    pub fn console_tail(&self, lines: usize) -> String {
        let text =
            String::from_utf8_lossy(&fs::read(self.dir.join(CONSOLE)).unwrap_or_default()).into_owned();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn kill_for(&mut self, why: Killed) -> Result<Ended> {
        self.kill()?;
        Ok(Ended { status: None, killed_for: Some(why) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a machine with these lines on its control port is up.
fn says_up(control: &str) -> bool {
    control.lines().any(|line| line.starts_with("up "))
}

/// Why a machine is ended that has run for so long and may run until `timeout`.
fn overdue(is_up: bool, ran_for: Duration, timeout: Duration) -> Option<Killed> {
    if ran_for >= timeout {
        Some(Killed::Timeout)
    } else if !is_up && ran_for >= UP_TIMEOUT {
        Some(Killed::NotUp)
    } else {
        None
    }
}

/// Gives the next chunk to the watcher; waits for one for a moment, and says whether there was one.
fn next_chunk(output: Option<&Receiver<Vec<u8>>>, watcher: &mut dyn Watcher) -> bool {
    let pause = Duration::from_millis(50);
    match output.map(|output| output.recv_timeout(pause)) {
        Some(Ok(chunk)) => {
            watcher.hear(&chunk);
            true
        }
        Some(Err(RecvTimeoutError::Timeout)) => false,
        Some(Err(RecvTimeoutError::Disconnected)) | None => {
            thread::sleep(pause);
            false
        }
    }
}

/// Reads on a thread of its own, so that a silent machine can be waited for with a deadline.
fn read_apart(mut pipe: ChildStdout) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            if sender.send(chunk[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A watcher that passes everything on to this process's own output.
pub fn pass_through(chunk: &[u8]) {
    let mut stdout = io::stdout().lock();
    // Nobody may be listening any more; the machine's work goes on.
    let _ = stdout.write_all(chunk).and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_does_not_come_up_is_ended_before_its_time_is_over() {
        let (short, long) = (UP_TIMEOUT / 2, UP_TIMEOUT * 10);
        assert_eq!(overdue(false, UP_TIMEOUT, long), Some(Killed::NotUp));
        assert_eq!(overdue(false, UP_TIMEOUT - Duration::from_millis(1), long), None);
        assert_eq!(overdue(true, UP_TIMEOUT, long), None);
        assert_eq!(overdue(true, long, long), Some(Killed::Timeout));
        assert_eq!(overdue(false, short, short), Some(Killed::Timeout));
    }

    #[test]
    fn a_machine_is_up_when_it_says_since_when() {
        assert!(says_up("up 8.31\n") && says_up("up 8.31\nfiles\nexit 0\n"));
        assert!(!says_up("") && !says_up("upstairs\n"));
    }

    #[test]
    fn the_emulators_version_is_read_from_what_it_says() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0.2"), Some((10, 0)));
        assert_eq!(version(""), None);
    }
}
