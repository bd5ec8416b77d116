//! The bare-metal guest that dirties its memory on command, and a model of what that memory must hold.

pub mod model;

/// The guest as an ELF64 image that Firecracker boots as a kernel.
pub const IMAGE: &[u8] = include_bytes!(env!("GUEST_ELF"));

/// The line it prints on its serial console when it takes commands.
pub const READY_LINE: &str = "ready\n";

/// Bytes of a guest page.
pub const PAGE_BYTES: usize = 4096;

/// The first page that commands may touch; the image and its page tables lie below.
pub const FIRST_PAGE: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::IMAGE;

    #[test]
    fn the_image_is_a_64_bit_elf_for_x86_64() {
        assert_eq!(&IMAGE[..5], b"\x7fELF\x02");
        assert_eq!(u16::from_le_bytes([IMAGE[18], IMAGE[19]]), 62);
    }
}
