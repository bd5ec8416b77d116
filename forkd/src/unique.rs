//! Names that no other daemon, run or request will choose.

use rustix::rand::{GetRandomFlags, getrandom};

/// `bytes` random bytes as hexadecimal digits, two a byte; 16 bytes at most.
pub fn hex(bytes: usize) -> String {
    let mut buffer = [0_u8; 16];
    let wanted = &mut buffer[..bytes.min(16)];
    // getrandom(2) cannot fail or fall short for up to 256 bytes once the pool is initialised, and blocks until then.
    getrandom(&mut *wanted, GetRandomFlags::empty()).expect("getrandom(2) of at most 16 bytes succeeds");
    wanted.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A UUID of version 7 (RFC 9562): later ones of this process are greater, also as text.
pub fn ordered_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use super::ordered_id;

    #[test]
    fn later_ids_are_greater() {
        let ids: Vec<String> = (0..10_000).map(|_| ordered_id()).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
    }
}
