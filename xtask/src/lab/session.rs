//! One boot from begin to end: kernel and image, disks, the run, and what it brings back.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use testkit::on_path;

use super::archive::Archive;
use super::image::Image;
use super::kernels::Kernel;
use super::machine::{self, Drive, Ended, Killed, Machine, Running, Watcher};
use super::modules::Modules;
use super::options::{FileSystem, Hardware};
use crate::process::{self, Interrupts};
use crate::workspace;

const INIT: &str = include_str!("init.sh");

/// Virtio, and what the daemon and its tests mount and open.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_blk", "virtio_console", "loop", "fuse", "tun"];

/// Lines of the console that are shown where a machine did not do what it should.
const CONSOLE_LINES: usize = 40;

/// A kernel of the lab with all that it takes to boot it.
pub struct Booted {
    kernel: Kernel,
    root: PathBuf,
    modules: Modules,
}

/// What a machine does when it is up.
pub enum Job {
    /// Runs this shell script, its output passed on.
    Script(String),
    /// Gives a prompt on this terminal.
    Shell,
}

/// How a job ended.
pub struct Done {
    /// The exit code of the job; `None` where this process was interrupted.
    pub exit_code: Option<i32>,
    /// Whether `/out` had files, which are now where they were asked for.
    pub has_files: bool,
    /// Seconds from power on until the job began, by the machine's own clock.
    pub up_after_s: Option<f64>,
}

/// Where everything of the lab is kept.
pub fn folder() -> PathBuf {
    workspace::target_dir().join("lab")
}

/// The packages that were fetched.
pub fn archive(takes_nearest: bool) -> Archive {
    Archive::new(folder().join("packages"), takes_nearest)
}

/// An image with nothing but busybox, from which jobs' images are made.
pub fn base_image(archive: &Archive) -> Result<Image> {
    let busybox = archive.any_version("busybox-static")?.join("bin/busybox");
    let mut image = Image::new(&busybox, folder().join("stripped"))?;
    image.script("/init", INIT);
    Ok(image)
}

impl Booted {
    /// Fetches the kernel where it is not kept yet.
    pub fn prepare(archive: &Archive, kernel: Kernel) -> Result<Self> {
        let root = archive.kernel(&kernel)?;
        let modules = Modules::read(&root)?;
        Ok(Self { kernel, root, modules })
    }

    /// Its name in the lab.
    pub fn name(&self) -> &'static str {
        self.kernel.name
    }

    fn vmlinuz(&self) -> Result<PathBuf> {
        let boot = self.root.join("boot");
        let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
        let is_kernel = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        };
        let found = entries.filter_map(|entry| Some(entry.ok()?.path())).find(is_kernel);
        found.with_context(|| format!("{} has no vmlinuz", boot.display()))
    }

    fn load_list(&self, hardware: &Hardware) -> Result<Vec<PathBuf>> {
        let mut wanted = MODULES.to_vec();
        if hardware.kvm_amd {
            wanted.push("kvm_amd");
        }
        // Some kernels have it built in, and then no file of it is loaded.
        wanted.push(hardware.fs.name());
        self.modules.in_order(&wanted)
    }
}

/// A machine that is put together, with the folder of its files.
pub struct Session<'a> {
    booted: &'a Booted,
    hardware: &'a Hardware,
    dir: TempDir,
}

impl<'a> Session<'a> {
    /// Makes the folder of its disks and logs.
    pub fn new(booted: &'a Booted, hardware: &'a Hardware) -> Result<Self> {
        fs::create_dir_all(folder())?;
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(folder())?;
        Ok(Self { booted, hardware, dir })
    }

    /// Makes a fresh data disk in its folder.
    pub fn make_data_disk(&self) -> Result<PathBuf> {
        let path = self.dir.path().join("data.raw");
        File::create(&path)?.set_len(u64::from(self.hardware.disk_mib) << 20)?;
        self.hardware.fs.make(&path)?;
        Ok(path)
    }

    /// Boots with a fresh data disk, runs the job, and unpacks what it left in `/out` into `out`.
    pub fn run(&self, image: &mut Image, job: &Job, out: &Path, watcher: &mut dyn Watcher) -> Result<Done> {
        let data = self.make_data_disk()?;
        let mut drive = format!("file={},format=raw,{}", machine::escaped(&data), caching(&data));
        drive.push_str(&self.hardware.throttling());
        let mut running = self.start(image, job, drive)?;
        let interrupts = Interrupts::watch().context("cannot watch for SIGINT and SIGTERM")?;
        let ended = running.wait(self.hardware.timeout(), &interrupts, watcher)?;
        let done = self.judge(&running, &ended)?;
        if done.has_files {
            self.bring_back(out)?;
        }
        Ok(done)
    }

    /// Boots with this data disk; the caller watches it.
    pub fn start(&self, image: &mut Image, job: &Job, data_drive: String) -> Result<Running> {
        image.modules(&self.booted.load_list(self.hardware)?)?;
        let is_interactive = matches!(job, Job::Shell);
        image.text("/lab/settings", &settings(self.booted.name(), self.hardware, is_interactive));
        if let Job::Script(script) = job {
            image.script("/lab/command", script);
        }
        let initramfs = self.dir.path().join("initramfs.cpio");
        image.write(&initramfs)?;
        let out = self.out_disk();
        File::create(&out)?.set_len(u64::from(self.hardware.disk_mib) << 20)?;
        let machine = Machine {
            kernel: self.booted.vmlinuz()?,
            initramfs,
            mem_mib: self.hardware.mem_mib,
            cpus: self.hardware.cpus.unwrap_or_else(machine::sound_cpus),
            has_kvm: self.hardware.kvm_amd,
            drives: vec![
                Drive { serial: "data", options: data_drive },
                Drive {
                    serial: "out",
                    options: format!("file={},format=raw,cache=unsafe", machine::escaped(&out)),
                },
            ],
            is_interactive,
        };
        machine.start(self.dir.path())
    }

    /// Its folder, which is deleted with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn out_disk(&self) -> PathBuf {
        self.dir.path().join("out.raw")
    }

    /// What the machine said of its end, or an error with its console where it said nothing.
    fn judge(&self, running: &Running, ended: &Ended) -> Result<Done> {
        let control = running.control();
        let value = |word: &str| {
            let mut lines = control.lines().rev();
            lines.find_map(|line| line.strip_prefix(word).map(|rest| rest.trim().to_owned()))
        };
        let done = |exit_code| Done {
            exit_code,
            has_files: value("files").is_some(),
            up_after_s: value("up").and_then(|seconds| seconds.parse().ok()),
        };
        if value("no-data").is_some() {
            bail!("the data disk could not be mounted{}", shown(running));
        }
        if value("no-files").is_some() {
            bail!("what the job left in /out did not fit on a disk of {} MiB", self.hardware.disk_mib);
        }
        if let Some(code) = value("exit").and_then(|code| code.parse().ok()) {
            return Ok(done(Some(code)));
        }
        let name = self.booted.name();
        match ended.killed_for {
            Some(Killed::Interrupt(_) | Killed::Cut) => Ok(done(None)),
            Some(Killed::Timeout) if value("up").is_some() => {
                bail!("Linux {name} was ended after {}{}", seconds(self.hardware.timeout()), shown(running))
            }
            Some(Killed::NotUp) => bail!(
                "Linux {name} was not up after {} s, and was ended{}",
                machine::UP_TIMEOUT.as_secs(),
                shown(running)
            ),
            Some(Killed::Timeout) => {
                bail!(
                    "Linux {name} did not come up in {}{}",
                    seconds(self.hardware.timeout()),
                    shown(running)
                )
            }
            None => {
                let mut how = ended.status.map(process::ending).unwrap_or_default();
                if ended.status.is_some_and(|status| !status.success()) {
                    how = format!("{how} ({})", running.complaint());
                }
                bail!(
                    "the machine with Linux {name} stopped before its job was done: {} {how}{}",
                    machine::QEMU,
                    shown(running)
                )
            }
        }
    }

    fn bring_back(&self, out: &Path) -> Result<()> {
        fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
        let mut tar = Command::new("tar");
        tar.arg("--no-same-owner").arg("-xf").arg(self.out_disk()).arg("-C").arg(out);
        process::output(&mut tar).map(drop)
    }
}

/// What a machine is told of itself: for `init.sh`, and for programs that measure inside.
fn settings(kernel: &str, hardware: &Hardware, is_interactive: bool) -> String {
    let shell = if is_interactive { "yes" } else { "" };
    let mut settings = format!("LAB_FS={}\nLAB_SHELL={shell}\n", hardware.fs.name());
    settings.push_str(&format!("export FORKD_LAB_KERNEL={kernel}\n"));
    for (name, limit) in [("FORKD_DISK_BPS", hardware.disk_bps), ("FORKD_DISK_IOPS", hardware.disk_iops)] {
        settings.extend(limit.map(|limit| format!("export {name}={limit}\n")));
    }
    settings
}

fn seconds(duration: Duration) -> String {
    format!("{} s (--timeout)", duration.as_secs())
}

fn shown(running: &Running) -> String {
    match running.console_tail(CONSOLE_LINES) {
        tail if tail.trim().is_empty() => "; its console is empty".to_owned(),
        tail => format!("; the end of its console:\n{tail}"),
    }
}

/// Past this host's page cache where its file system allows it, so that the disk's speed is not that of memory.
pub fn caching(file: &Path) -> &'static str {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    match OpenOptions::new().read(true).write(true).custom_flags(direct).open(file) {
        Ok(_) => "cache=none",
        Err(_) => "cache=writeback",
    }
}

impl FileSystem {
    /// The program that makes one, or an error with the package that has it: known before anything is built.
    pub fn require_mkfs(self) -> Result<PathBuf> {
        let (program, package) = match self {
            Self::Ext4 => ("mkfs.ext4", "e2fsprogs"),
            Self::Xfs => ("mkfs.xfs", "xfsprogs"),
            Self::Btrfs => ("mkfs.btrfs", "btrfs-progs"),
        };
        let found = on_path(program);
        found.with_context(|| format!("{program} is not on this host: apt-get install {package}"))
    }

    /// Makes one in a file, as the data disk carries it.
    fn make(self, image: &Path) -> Result<()> {
        let arguments: &[&str] = match self {
            // Nothing is left for the kernel to initialise in the background, which would take disk time.
            Self::Ext4 => &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            Self::Xfs | Self::Btrfs => &["-q", "-f"],
        };
        process::output(Command::new(self.require_mkfs()?).args(arguments).arg(image)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_the_limits_that_its_disk_has_and_no_others() {
        let mut hardware = Hardware { fs: FileSystem::Xfs, ..Hardware::default() };
        let plain = "LAB_FS=xfs\nLAB_SHELL=\nexport FORKD_LAB_KERNEL=6.1\n";
        assert_eq!(settings("6.1", &hardware, false), plain);
        (hardware.disk_bps, hardware.disk_iops) = (Some(7), Some(9));
        let limits = "export FORKD_DISK_BPS=7\nexport FORKD_DISK_IOPS=9\n";
        assert_eq!(settings("6.1", &hardware, false), format!("{plain}{limits}"));
    }
}
