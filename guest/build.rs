//! Compiles the guest image with the host's C compiler; see image/guest.c for why it is C.

use std::env;
use std::path::PathBuf;
use std::process::exit;

fn main() {
    for source in ["image/guest.c", "image/guest.ld", "build.rs"] {
        println!("cargo::rerun-if-changed={source}");
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if arch != "x86_64" {
        refuse(&format!("the built-in guest is written for x86_64, and this build is for {arch}"));
    }
    let image = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("guest.elf");
    let mut compiler = cc::Build::new().opt_level(2).debug(false).pic(false).get_compiler().to_command();
    compiler
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fno-stack-protector"])
        .args([
            "-mgeneral-regs-only",
            "-mno-red-zone",
            "-fno-asynchronous-unwind-tables",
            "-fcf-protection=none",
        ])
        // Loops that fill a page must stay loops: there is no memset to call.
        .args(["-fno-builtin", "-fno-pie", "-no-pie", "-static", "-nostdlib"])
        .args(["-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-T,image/guest.ld"])
        .arg("image/guest.c")
        .arg("-o")
        .arg(&image);
    match compiler.status() {
        Ok(status) if status.success() => println!("cargo::rustc-env=GUEST_ELF={}", image.display()),
        Ok(status) => refuse(&format!("compiling image/guest.c failed ({status})")),
        Err(error) => refuse(&format!(
            "no C compiler for image/guest.c ({error}): install one, e.g. apt-get install gcc"
        )),
    }
}

fn refuse(reason: &str) -> ! {
    println!("cargo::error={reason}");
    exit(1);
}
