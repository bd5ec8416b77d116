//! Pointers into the kernel's structures, read at offsets that user space found in the running kernel's type
//! information.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// A pointer that the verifier knows the type of: a tracepoint's argument, or what such a structure points to. A
/// null or stale pointer reads as zeros.
#[derive(Clone, Copy)]
pub struct Typed(*const u8);

impl Typed {
    /// # Safety
    /// `pointer` must come from an argument of a tracepoint with type information, and be a pointer to a structure.
    #[inline(always)]
    pub const unsafe fn from_argument(pointer: *const u8) -> Self {
        Self(pointer)
    }

    /// The field at `offset`, a static that is set at load.
    #[inline(always)]
    pub fn field<T: Copy>(self, offset: &'static u32) -> T {
        // SAFETY: the read of the offset is of a static. The verifier knows the base's type, and refuses the
        // program unless offset and width name memory inside that structure.
        unsafe { read_volatile(self.0.add(constant(offset) as usize).cast::<T>()) }
    }

    /// The structure that the field at `offset` points to.
    #[inline(always)]
    pub fn follow(self, offset: &'static u32) -> Self {
        Self(self.field(offset))
    }

    /// The same address, without its type.
    #[inline(always)]
    pub fn untyped(self) -> Untyped {
        Untyped(self.0 as u64)
    }

    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// An address that may lead anywhere: each read is checked by the kernel as it happens.
#[derive(Clone, Copy)]
pub struct Untyped(pub u64);

impl Untyped {
    /// The field at `offset`, a static that is set at load; zeros where it cannot be read.
    #[inline(always)]
    pub fn field<T: Copy + Default>(self, offset: &'static u32) -> T {
        self.at(u64::from(constant(offset)))
    }

    /// What lies `offset` bytes on; zeros where it cannot be read.
    #[inline(always)]
    pub fn at<T: Copy + Default>(self, offset: u64) -> T {
        let mut value = T::default();
        self.read(offset, &mut value);
        value
    }

    /// Fills `value` with what lies `offset` bytes on, or with zeros.
    #[inline(always)]
    pub fn read<T>(self, offset: u64, value: &mut T) {
        let from = self.0.wrapping_add(offset);
        // SAFETY: `value` has room for the bytes named, and any bits are a value of every `T` that is used here.
        // The helper takes any address; where it fails it zeroes the destination.
        unsafe {
            bpf_probe_read_kernel((&raw mut *value).cast(), size_of::<T>() as u32, from as *const _);
        }
    }

    /// The structure that the field at `offset` points to.
    #[inline(always)]
    pub fn follow(self, offset: &'static u32) -> Self {
        Self(self.field(offset))
    }
}

/// A static that is set at load; constant for the verifier from then on.
#[inline(always)]
pub fn constant(value: &'static u32) -> u32 {
    // SAFETY: a read of a static.
    unsafe { read_volatile(value) }
}
