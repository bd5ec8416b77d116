//! The stock Firecracker release: static, without frame pointers, and with hand-written system calls.

use std::fs::{self, File};
use std::process::Command;
use std::sync::Arc;

use object::read::elf::{ElfFile64, ProgramHeader};
use probes::images::Content;
use probes::unwind::{At, Module};
use testkit::Outcome;

use crate::program::{Program, chain};

const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Addresses after each `syscall` instruction in the code of the file.
fn syscalls(bytes: &[u8]) -> Vec<u64> {
    let file = ElfFile64::<object::Endianness>::parse(bytes).unwrap();
    let mut found = Vec::new();
    for segment in file.elf_program_headers() {
        let endian = file.endian();
        if segment.p_flags(endian) & object::elf::PF_X == 0 {
            continue;
        }
        let code = segment.data(endian, bytes).unwrap();
        let start = segment.p_vaddr(endian);
        let at = code.windows(2).enumerate().filter(|(_, window)| *window == SYSCALL);
        found.extend(at.map(|(offset, _)| start + offset as u64 + 2));
    }
    found
}

/// Of the system calls that no call frame information covers, nearly all have one distance to their return
/// address.
pub fn offsets() -> Outcome {
    let path = testkit::firecracker().ok_or("no firecracker")?;
    let module = Module::new(&Content::File(Arc::new(File::open(&path)?)));
    let all = syscalls(&fs::read(&path)?);
    let uncovered: Vec<u64> = all.iter().copied().filter(|ip| !module.is_covered(ip - 1)).collect();
    let known = uncovered.iter().filter(|ip| module.rule(At::After(**ip)).is_some()).count();
    println!("{} system calls, {} uncovered, {known} with one offset", all.len(), uncovered.len());
    assert!(uncovered.len() >= 120, "another binary than the stock release? {}", uncovered.len());
    assert!(known * 126 >= uncovered.len() * 120, "{known} of {}", uncovered.len());
    Ok(())
}

/// Its threads, as they wait for requests and answer one.
pub fn whole() -> Outcome {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("api");
    let mut command = Command::new(testkit::firecracker().ok_or("no firecracker")?);
    let program = Program::start(command.arg("--api-sock").arg(&socket), folder);
    let report = program.record();
    let total_ns: u64 = report.stacks.iter().map(|stack| stack.ns).sum();
    let whole_ns: u64 =
        report.stacks.iter().filter(|stack| !stack.user_truncated).map(|stack| stack.ns).sum();
    assert!(whole_ns * 100 >= total_ns * 99, "{whole_ns} of {total_ns} ns whole: {report:#?}");
    for (comm, root, leaf) in [("firecracker", "_start;", "syscall"), ("fc_api", "start;", "__syscall_cp_c")]
    {
        let stack = report.stacks.iter().find(|stack| stack.comm == comm).ok_or(comm)?;
        let chain = chain(stack);
        assert!(chain.starts_with(root) && chain.ends_with(leaf), "{chain}");
    }
    Ok(())
}
