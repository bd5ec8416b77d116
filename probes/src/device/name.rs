//! Devices by number.

use probes_common::MINOR_BITS;

/// `major:minor` of a kernel's `dev_t`.
pub fn device_id(device: u32) -> String {
    format!("{}:{}", device >> MINOR_BITS, device & ((1 << MINOR_BITS) - 1))
}

/// The name that a throttle or a writeback list goes by: `major:minor` for a disk.
pub fn device_of_name(name: &[u8]) -> String {
    let used = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..used]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_name_of_one_device_read_the_same() {
        assert_eq!(device_id(7 << 20 | 3), "7:3");
        assert_eq!(device_of_name(b"7:3\0\0rest"), "7:3");
        assert_eq!(device_of_name(b"no end"), "no end");
    }
}
