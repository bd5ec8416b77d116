//! Which rungs' hooks this kernel has, found without the programs that are tested.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use probes::host::AttachKind;
use probes::recording::SwitchRung;
use testkit::{Finder, Need};

const TRACEFS: &str = "/sys/kernel/tracing";
const TRACEFS_C: &std::ffi::CStr = c"/sys/kernel/tracing";

/// What a test of this rung needs.
pub const fn needs(rung: SwitchRung) -> &'static [Need] {
    match rung {
        SwitchRung::TpBtf => &[Need::Root, Need::Btf, Need::Other(Finder(|| refusal(SwitchRung::TpBtf)))],
        SwitchRung::RawTracepoint => {
            &[Need::Root, Need::Btf, Need::Other(Finder(|| refusal(SwitchRung::RawTracepoint)))]
        }
        SwitchRung::Tracepoint => {
            &[Need::Root, Need::Btf, Need::Other(Finder(|| refusal(SwitchRung::Tracepoint)))]
        }
        SwitchRung::Fentry => &[Need::Root, Need::Btf, Need::Other(Finder(|| refusal(SwitchRung::Fentry)))],
        SwitchRung::Kprobe => &[Need::Root, Need::Btf, Need::Other(Finder(|| refusal(SwitchRung::Kprobe)))],
    }
}

/// Why this kernel has no such hook. Each is tried once: on an emulated machine, a look into the kernel's types takes
/// seconds.
pub fn refusal(rung: SwitchRung) -> Option<String> {
    static TRIED: [OnceLock<Option<String>>; SwitchRung::ALL.len()] =
        [const { OnceLock::new() }; SwitchRung::ALL.len()];
    TRIED[rung as usize]
        .get_or_init(|| try_hook(rung).err().map(|why| format!("needs {rung}: {why}")))
        .clone()
}

fn try_hook(rung: SwitchRung) -> Result<(), String> {
    let kind = match rung {
        SwitchRung::TpBtf => AttachKind::TpBtf,
        SwitchRung::RawTracepoint => AttachKind::RawTracepoint,
        SwitchRung::Tracepoint => AttachKind::Tracepoint,
        SwitchRung::Fentry => AttachKind::Fentry,
        SwitchRung::Kprobe => AttachKind::Kprobe,
    };
    if rung == SwitchRung::Fentry {
        has_own_name()?;
    }
    kind.try_on_this_host().map_err(|refusal| refusal.to_string())
}

/// fentry takes a function by the name in the source only.
fn has_own_name() -> Result<(), String> {
    const FINISH: &str = "finish_task_switch";
    let kallsyms = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let is_it = |line: &str| line.split_ascii_whitespace().nth(2) == Some(FINISH);
    if kallsyms.lines().any(is_it) { Ok(()) } else { Err(format!("the compiler renamed {FINISH}")) }
}

/// Mounts tracefs where the host has not mounted it, in a mount namespace of this process and its children: gone as
/// they end.
pub fn mount_tracefs() {
    if Path::new(TRACEFS).join("events").exists() || !rustix::process::geteuid().is_root() {
        return;
    }
    let _ = fs::create_dir_all(TRACEFS);
    let none = std::ptr::null();
    // SAFETY: no other thread runs yet, a mount namespace changes no memory, and the strings are constants.
    let is_mounted = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
            && libc::mount(c"tracefs".as_ptr(), TRACEFS_C.as_ptr(), c"tracefs".as_ptr(), 0, none.cast()) == 0
    };
    if !is_mounted {
        eprintln!("tracefs cannot be mounted: {}", std::io::Error::last_os_error());
    }
}
