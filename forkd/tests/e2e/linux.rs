//! A real Linux guest with a drive to write to: booted, BRANCHed, forked, spoken to.

use std::fs;
use std::time::Duration;

use forkd::api::{BranchMode, BranchRequest, ConsoleAnswer, ConsoleRequest};
use hyper::Method;
use serde_json::{Value, json};
use testkit::{Need, Outcome, Test, linux_guest};

use crate::host::{Host, Result};

const NEEDS_LINUX: &[Need] =
    &[Need::Root, Need::Kvm, Need::Firecracker, Need::OrdinaryGuests, Need::LinuxGuest];

pub const TESTS: &[Test] = &[
    Test {
        name: "linux::a_child_goes_on_with_the_drive_of_the_pause",
        needs: NEEDS_LINUX,
        run: drive_of_the_pause,
    },
    Test {
        name: "linux::two_children_draw_different_random_numbers",
        needs: NEEDS_LINUX,
        run: random_numbers,
    },
];

/// Printed by the guest's shell when a command is done, so that the command's own echo does not match.
const DONE: &str = "d''one";

/// Boots the guest of `guest/linux/build` with a drive of 4 MiB and waits until its shell answers.
fn boot(host: &Host) -> Result<()> {
    let (kernel, initrd) = linux_guest();
    let image = host.dir.path().join("drive.img");
    fs::write(&image, vec![0; 4 << 20])?;
    let request = json!({
        "tag": "linux", "kernel": kernel, "initrd": initrd, "rootfs": image, "rootfs_mode": "per-sandbox",
        "mem_mib": 256, "boot_wait_ms": boot_wait_ms(),
        "boot_args": "console=ttyS0 reboot=k panic=1 pci=off quiet",
    });
    host.call::<Value>(Method::POST, "/v1/snapshots", Some(&request))?;
    Ok(())
}

/// How long the guest is given; a host that emulates the processor needs more (`FORKD_LINUX_BOOT_MS`).
fn boot_wait_ms() -> u64 {
    std::env::var("FORKD_LINUX_BOOT_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(5_000)
}

/// What the guest's shell prints for `command`.
fn shell(host: &Host, id: &str, command: &str) -> Result<String> {
    let request = ConsoleRequest {
        write: format!("{command}; echo {DONE}\n"),
        until: Some("done\r\n".into()),
        timeout_ms: Some(Duration::from_secs(50).as_millis() as u64),
    };
    let answer: ConsoleAnswer =
        host.call(Method::POST, &format!("/v1/sandboxes/{id}/console"), Some(&request))?;
    match answer.output.strip_suffix("done\r\n") {
        // A prompt may stand before it.
        Some(said) => Ok(said.rsplit("# ").next().unwrap_or_default().trim().to_owned()),
        None => Err(format!("'{command}' was answered with {answer:?}").into()),
    }
}

fn write_to_drive(text: &str) -> String {
    format!("echo {text} | dd of=/dev/vda bs=512 seek=100 conv=fsync,sync 2>/dev/null")
}

const READ_DRIVE: &str =
    "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=512 skip=100 count=1 2>/dev/null | head -n 1";

fn drive_of_the_pause() -> Outcome {
    let host = Host::start()?;
    boot(&host)?;
    let source = host.fork("linux")?.id;
    assert!(shell(&host, &source, "uname -s")?.contains("Linux"));
    shell(&host, &source, "echo kept >/tmp-in-memory")?;
    shell(&host, &source, &write_to_drive("before"))?;
    let request =
        BranchRequest { tag: Some("b".into()), mode: Some(BranchMode::Diff), ..BranchRequest::default() };
    let branch = host.branch(&source, &request)?;
    assert_eq!(branch.mode, BranchMode::Diff);
    // The source goes on, and what it writes is its own.
    shell(&host, &source, &write_to_drive("after"))?;
    assert_eq!(shell(&host, &source, READ_DRIVE)?, "after");
    for _ in 0..2 {
        let child = host.fork("b")?.id;
        assert_eq!(shell(&host, &child, READ_DRIVE)?, "before");
        assert_eq!(shell(&host, &child, "cat /tmp-in-memory")?, "kept");
        shell(&host, &child, &write_to_drive("child"))?;
        assert_eq!(shell(&host, &child, READ_DRIVE)?, "child");
        let file = fs::read(host.root().join(".drives").join(&child))?;
        assert!(file[100 * 512..].starts_with(b"child\n"));
    }
    assert_eq!(shell(&host, &source, READ_DRIVE)?, "after");
    Ok(())
}

fn random_numbers() -> Outcome {
    let host = Host::start()?;
    boot(&host)?;
    let draw = |id: &str| shell(&host, id, "head -c 16 /dev/urandom | od -An -tx1");
    let (one, two) = (host.fork("linux")?.id, host.fork("linux")?.id);
    let (first, second) = (draw(&one)?, draw(&two)?);
    assert!(first.len() >= 47 && first != second, "{first} and {second}");
    Ok(())
}
