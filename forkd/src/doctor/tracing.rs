//! What the probes attach to.

use std::fs;
use std::io;

use probes::host::{AttachKind, Refusal};

use super::{Check, human};

const BTF: &str = "/sys/kernel/btf/vmlinux";

pub fn checks() -> Vec<Check> {
    let mut checks = vec![types()];
    checks.extend(AttachKind::ALL.into_iter().map(|kind| attach(kind, kind.try_on_this_host())));
    checks
}

fn types() -> Check {
    const NAME: &str = "BTF";
    match fs::metadata(BTF) {
        Ok(metadata) => Check::ok(NAME, format!("{BTF} ({})", human(metadata.len()))),
        Err(error) => {
            let found = format!("{BTF}: {error}: nothing can be traced");
            Check::warn(NAME, found, "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as Debian's are")
        }
    }
}

fn attach(kind: AttachKind, outcome: Result<(), Refusal>) -> Check {
    let name = format!("BPF {kind}");
    match outcome {
        Ok(()) => Check::ok(&name, "loads and attaches"),
        Err(refusal) => Check::warn(&name, refusal.to_string(), mend(kind, &refusal)),
    }
}

fn mend(kind: AttachKind, refusal: &Refusal) -> &'static str {
    let is_denied = matches!(refusal.source.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    match kind {
        _ if is_denied && !rustix::process::geteuid().is_root() => {
            "run as root, or with CAP_BPF and CAP_PERFMON"
        }
        AttachKind::Tracepoint if refusal.source.kind() == io::ErrorKind::NotFound => {
            "mount -t tracefs tracefs /sys/kernel/tracing"
        }
        AttachKind::Kprobe => "boot a kernel built with CONFIG_KPROBES=y",
        AttachKind::Uprobe => "boot a kernel built with CONFIG_UPROBES=y",
        AttachKind::Fentry => "boot a kernel built with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y",
        AttachKind::TpBtf | AttachKind::RawTracepoint | AttachKind::Tracepoint | AttachKind::PerfEvent => {
            "sysctl kernel.perf_event_paranoid; cat /sys/kernel/security/lockdown"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{AttachKind, Refusal, attach};
    use crate::doctor::Level;

    #[test]
    fn a_refusal_is_a_warning_with_its_step_and_what_mends_it() {
        let refused = |number| {
            Err(Refusal { step: "look it up in tracefs", source: io::Error::from_raw_os_error(number) })
        };
        let check = attach(AttachKind::Tracepoint, refused(libc::ENOENT));
        assert_eq!((check.level, check.name.as_str()), (Level::Warn, "BPF tracepoint"));
        assert!(check.found.contains("look it up in tracefs: No such file"), "{}", check.found);
        assert!(check.mend.unwrap().contains("mount -t tracefs"));
        assert_eq!(attach(AttachKind::Kprobe, Ok(())).level, Level::Ok);
    }
}
