#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forkd::fuzzing::audit_line(bytes));
