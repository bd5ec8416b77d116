//! `cargo xtask lab run` and `shell`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::image::Image;
use super::kernels::{self, Kernel};
use super::options::Hardware;
use super::programs;
use super::session::{self, Booted, Done, Job, Session};
use super::{machine, quote};
use crate::setup;

/// Boot a kernel and run a command in it.
#[derive(clap::Args)]
pub struct RunArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    hardware: Hardware,
    /// Put this file into the machine, at the same path and, where it is a program, on its PATH; may be repeated
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Where to put what the command left in its working directory, /out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The command and its arguments; forkd, forkd-probe, forkd-bench, firecracker and busybox are there
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Boot a kernel and give a prompt in it.
#[derive(clap::Args)]
pub struct ShellArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    hardware: Hardware,
    /// Put this file into the machine; may be repeated
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
}

/// Which kernel, and which build of our programs.
#[derive(clap::Args)]
struct Which {
    /// Kernel by its name in the lab, or all, one after the other
    #[arg(long, default_value = kernels::DEFAULT)]
    kernel: String,
    /// Where the archive has the pinned kernel no more, take the nearest
    #[arg(long)]
    nearest: bool,
    /// Build our programs with optimisation: emulation is slow
    #[arg(long)]
    release: bool,
}

/// Runs a command on each kernel, also where one before it failed; the exit code is the first failure's: the
/// command's, or 1 where the machine itself failed.
pub fn run(arguments: &RunArguments) -> Result<ExitCode> {
    let kernels = kernels::named(&arguments.which.kernel)?;
    let program = Some(arguments.command[0].as_str());
    let mut image = image(&arguments.which, &arguments.hardware, &arguments.with, program)?;
    let words: Vec<String> = arguments.command.iter().map(|word| quote(word)).collect();
    let job = Job::Script(format!("exec {}\n", words.join(" ")));
    let mut first_failure = None;
    for kernel in kernels {
        let out = out_dir(arguments.out.as_deref(), &arguments.which.kernel, kernel);
        let ran = boot(&arguments.which, kernel, &arguments.hardware, &mut image, &job, &out);
        match &ran {
            Ok(done) => report(kernel, done, &out),
            Err(error) => eprintln!("error: {error:#}"),
        }
        match exit_code(&ran) {
            Some(code) => first_failure = first_failure.or((code != 0).then_some(code)),
            None => return Ok(ExitCode::from(crate::INTERRUPTED)),
        }
    }
    Ok(ExitCode::from(first_failure.unwrap_or(0)))
}

/// Runs a command on the newest kernel with Firecracker, our programs optimised and the data disk as fast as that, and
/// brings what it leaves in its working directory back to `out`. Gives its exit code; `None` where this process was
/// interrupted.
pub fn with_microvms(command: &[&str], disk_bps: u64, out: &Path) -> Result<Option<i32>> {
    let which = Which { kernel: kernels::DEFAULT.to_owned(), nearest: false, release: true };
    let kernels = kernels::named(&which.kernel)?;
    let [kernel] = kernels[..] else { bail!("the lab has no kernel {}", which.kernel) };
    let hardware = Hardware { kvm_amd: true, disk_bps: Some(disk_bps), ..Hardware::default() };
    let mut image = image(&which, &hardware, &[], None)?;
    let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
    let job = Job::Script(format!("exec {}\n", words.join(" ")));
    let done = boot(&which, kernel, &hardware, &mut image, &job, out)?;
    report(kernel, &done, out);
    Ok(done.exit_code)
}

/// The exit code that one kernel's run adds; `None` where this process was interrupted.
fn exit_code(ran: &Result<Done>) -> Option<u8> {
    match ran {
        Ok(done) => done.exit_code.map(|code| u8::try_from(code).unwrap_or(1)),
        Err(_) => Some(1),
    }
}

/// Gives a prompt.
pub fn shell(arguments: &ShellArguments) -> Result<ExitCode> {
    let kernels = kernels::named(&arguments.which.kernel)?;
    let [kernel] = kernels[..] else { bail!("a shell runs on one kernel: name it with --kernel") };
    let mut image = image(&arguments.which, &arguments.hardware, &arguments.with, None)?;
    let out = out_dir(None, &arguments.which.kernel, kernel);
    println!("lab: Linux {} boots; `exit` turns it off, what is in /out then is brought back", kernel.name);
    let done = boot(&arguments.which, kernel, &arguments.hardware, &mut image, &Job::Shell, &out)?;
    report(kernel, &done, &out);
    Ok(ExitCode::SUCCESS)
}

/// All that the machine finds. Our own programs are built last: what can be refused, as a command that will not be there,
/// is refused before.
fn image(which: &Which, hardware: &Hardware, with: &[PathBuf], command: Option<&str>) -> Result<Image> {
    let canonical =
        |file: &PathBuf| fs::canonicalize(file).with_context(|| format!("cannot read {}", file.display()));
    let with: Vec<PathBuf> = with.iter().map(canonical).collect::<Result<_>>()?;
    hardware.fs.require_mkfs()?;
    if hardware.kvm_amd {
        setup::ensure_lab_with_microvms()?
    } else {
        setup::ensure_lab()?
    }
    let mut image = session::base_image(&session::archive(which.nearest))?;
    programs::add_surroundings(&mut image)?;
    programs::add_linux_guest(&mut image)?;
    let add_with = |image: &mut Image| with.iter().try_for_each(|path| programs::add_file(image, path));
    add_with(&mut image)?;
    command.map_or(Ok(()), |command| programs::check_command(&image, command, which.release))?;
    programs::add_ours(&mut image, which.release)?;
    // Once more, because such a file may take the place of one of ours.
    add_with(&mut image)?;
    Ok(image)
}

fn boot(
    which: &Which,
    kernel: Kernel,
    hardware: &Hardware,
    image: &mut Image,
    job: &Job,
    out: &Path,
) -> Result<Done> {
    let booted = Booted::prepare(&session::archive(which.nearest), kernel)?;
    Session::new(&booted, hardware)?.run(image, job, out, &mut machine::pass_through)
}

/// Where files are brought back to: one folder for each kernel where there are several.
fn out_dir(named: Option<&Path>, asked: &str, kernel: Kernel) -> PathBuf {
    let base = named.map_or_else(|| session::folder().join("out"), Path::to_owned);
    if asked == "all" || named.is_none() { base.join(kernel.name) } else { base }
}

fn report(kernel: Kernel, done: &Done, out: &Path) {
    let up = done.up_after_s.map_or_else(String::new, |seconds| format!(", up after {seconds:.1} s"));
    let how = match done.exit_code {
        Some(code) => format!("exit code {code}"),
        None => "interrupted".to_owned(),
    };
    eprintln!("lab: Linux {}: {how}{up}", kernel.name);
    if done.has_files {
        eprintln!("lab: files: {}", out.display());
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_run_ends_with_the_commands_code_and_a_machine_that_fails_with_1() {
        let done = |exit_code| Ok(Done { exit_code, has_files: false, up_after_s: None });
        assert_eq!(exit_code(&done(Some(0))), Some(0));
        assert_eq!(exit_code(&done(Some(7))), Some(7));
        assert_eq!(exit_code(&done(Some(-1))), Some(1));
        assert_eq!(exit_code(&Err(anyhow!("it did not come up"))), Some(1));
        assert_eq!(exit_code(&done(None)), None);
    }
}
