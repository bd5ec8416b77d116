//! Where the messages of the BPF programs go: standard error, a line each.

use log::{Log, Metadata, Record};

struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        eprintln!("forkd-probe: bpf: {}", record.args());
    }

    fn flush(&self) {}
}

/// Has what is handed to the logger told on standard error. The level stays off, so that libraries say nothing: the
/// programs' messages do not ask for it.
pub fn to_standard_error() {
    // Fails where it was done before.
    let _ = log::set_logger(&StandardError);
}
