//! The word that every program reads first.

use core::arch::asm;

use probes_common::{Control, IDLE};

/// Whether to record, and whom to watch. User space writes it, as the only value of the map that the loader makes of
/// this section.
///
/// Its address stands in each program: neither a lookup nor a check comes before the load that ends nearly every run.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.control")]
static mut CONTROL: Control = Control::IDLE;

/// Where it is. The compiler sees no other writer, and would take it for a constant: it must not know what this
/// points to.
#[inline(always)]
pub fn pointer() -> *mut Control {
    let mut pointer = &raw mut CONTROL;
    // SAFETY: there is no instruction in it.
    unsafe { asm!("/* {0} */", inout(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// What there is to do, whether it is to be done now or not.
#[inline(always)]
pub fn control() -> &'static Control {
    // SAFETY: a variable, which lives as long as any program. User space changes it meanwhile, a word at a time as far
    // as programs can tell: each of them may see some words before and some after, and does no harm with either.
    unsafe { &*pointer() }
}

/// What there is to do now.
#[inline(always)]
pub fn armed() -> Option<&'static Control> {
    let control = control();
    if control.armed == IDLE { None } else { Some(control) }
}
