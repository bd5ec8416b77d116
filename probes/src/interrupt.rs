//! Which interrupt a wake-up came from.
//!
//! Two things tell. The kernel side notes which handler of a device or a soft interrupt runs as it wakes; that
//! is sure, and names it. Interrupts that have no such handler (a clock tick, a message from another CPU, a
//! page that a host has brought back) are told by their entry on the stack. The entry of the interrupt lies
//! above all that its handling called, so that only a stack that the kernel could not follow hides it.

use crate::aggregate::Names;
use crate::decode::WakeContext;
use crate::interval::Waker;

/// The soft interrupts, by number (include/linux/interrupt.h).
const SOFTIRQS: [&str; 10] =
    ["hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu"];

/// The interrupt that made a wake-up; `None` where the thread that was current did.
pub fn name(waker: &Waker, names: &mut dyn Names) -> Option<String> {
    match waker.context {
        WakeContext::Device(number) => {
            let device = names.device(number).map_or_else(String::new, |device| format!("-{device}"));
            Some(format!("irq/{number}{device}"))
        }
        WakeContext::Soft(number) => {
            let known = SOFTIRQS.get(number as usize).map(|name| (*name).to_owned());
            Some(format!("softirq/{}", known.unwrap_or_else(|| number.to_string())))
        }
        WakeContext::NoHandler => on_stack(&names.kernel(&waker.stack)),
    }
}

/// The interrupt, hard or soft, that a kernel stack belongs to: the thread it was recorded in was then
/// only interrupted. Interrupt entries are `asm_*` stubs (arch/x86/include/asm/idtentry.h); a page fault
/// or another exception has such a stub too, but is the thread's own doing.
pub fn on_stack(kernel: &[String]) -> Option<String> {
    let entry = kernel.iter().find_map(|frame| {
        frame.strip_prefix("asm_sysvec_").or((frame == "asm_common_interrupt").then_some("device_interrupt"))
    });
    let soft = || {
        let is_soft = |frame: &String| matches!(frame.as_str(), "handle_softirqs" | "__do_softirq");
        kernel.iter().any(is_soft).then_some("softirq")
    };
    entry.or_else(soft).map(str::to_owned)
}

/// Who has a handler for `interrupt`, out of the text of `/proc/interrupts`: what stands last in its row.
pub fn device(interrupts: &str, interrupt: u32) -> Option<String> {
    let (cpus, rows) = interrupts.split_once('\n')?;
    let cpus = cpus.split_ascii_whitespace().count();
    let number = interrupt.to_string();
    let is_it = |row: &&str| row.split_once(':').is_some_and(|(name, _)| name.trim() == number);
    let row = rows.lines().find(is_it)?;
    // Number, a count for each CPU, the controller, then its own number and trigger; and the rest.
    let device = row.split_ascii_whitespace().skip(1 + cpus + 2).collect::<Vec<_>>().join(" ");
    (!device.is_empty()).then_some(device)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::aggregate::UserNames;
    use crate::comm::Comm;
    use crate::decode::{Peer, UserSide};

    /// Every kernel stack is a clock tick's; device 9 is a disk.
    struct Tick;

    impl Names for Tick {
        fn kernel(&mut self, _: &[u64]) -> Vec<String> {
            vec!["try_to_wake_up".to_owned(), "asm_sysvec_apic_timer_interrupt".to_owned()]
        }

        fn user(&mut self, _: u32, _: &UserSide) -> UserNames {
            UserNames::default()
        }

        fn device(&mut self, interrupt: u32) -> Option<String> {
            (interrupt == 9).then(|| "disk".to_owned())
        }
    }

    fn named(context: WakeContext) -> Option<String> {
        let peer = Peer { tid: 7, tgid: 7, comm: Comm::from_text("chance") };
        name(&Waker { peer, context, stack: Arc::default() }, &mut Tick)
    }

    #[test]
    fn a_handler_that_was_seen_is_named_and_not_the_interrupt_that_it_ran_in() {
        assert_eq!(named(WakeContext::Device(9)).as_deref(), Some("irq/9-disk"));
        assert_eq!(named(WakeContext::Device(10)).as_deref(), Some("irq/10"));
        assert_eq!(named(WakeContext::Soft(4)).as_deref(), Some("softirq/block"));
        assert_eq!(named(WakeContext::Soft(99)).as_deref(), Some("softirq/99"));
        assert_eq!(named(WakeContext::NoHandler).as_deref(), Some("apic_timer_interrupt"));
    }

    #[test]
    fn interrupts_are_told_from_exceptions_and_system_calls() {
        let frames = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let timer = ["try_to_wake_up", "asm_sysvec_apic_timer_interrupt", "main"];
        assert_eq!(on_stack(&frames(&timer)).as_deref(), Some("apic_timer_interrupt"));
        let disk = ["blk_complete_reqs", "handle_softirqs", "common_interrupt", "asm_common_interrupt"];
        assert_eq!(on_stack(&frames(&disk)).as_deref(), Some("device_interrupt"));
        let daemon = ["blk_complete_reqs", "handle_softirqs", "run_ksoftirqd"];
        assert_eq!(on_stack(&frames(&daemon)).as_deref(), Some("softirq"));
        assert_eq!(on_stack(&frames(&["try_to_wake_up", "asm_exc_page_fault"])), None);
        assert_eq!(on_stack(&frames(&["futex_wake", "do_syscall_64"])), None);
        assert_eq!(on_stack(&[]), None);
    }

    #[test]
    fn a_device_is_what_stands_behind_its_row() {
        let interrupts = "\
            CPU0       CPU1       
   1:          9          0   IO-APIC   1-edge      i8042
  24:     118243          7   PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
 LOC:     773315     778912   Local timer interrupts
";
        assert_eq!(device(interrupts, 24).as_deref(), Some("virtio1-req.0"));
        assert_eq!(device(interrupts, 1).as_deref(), Some("i8042"));
        assert_eq!(device(interrupts, 2), None);
        assert_eq!(device("", 1), None);
    }
}
