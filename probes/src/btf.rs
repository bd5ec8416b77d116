//! As much of the kernel's type information (BTF) as the programs need: where a field lies in a
//! structure, and what arguments a tracepoint hands out.
//!
//! The format is Documentation/bpf/btf.rst of the kernel: a header, then types of varying length, then
//! strings. Every read is checked against the bytes at hand; nothing here panics on any input.

use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
const TYPE_LEN: usize = 12;
/// How deep anonymous structures are followed: the kernel's own nesting stays below five.
const MAX_NESTING: u32 = 16;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
/// Kinds above it did not exist when this was written, so their length is not known.
const KIND_LAST: u32 = 19;

/// Why type information could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// Not BTF of this machine's byte order.
    #[error("not BTF in this machine's byte order")]
    Magic,
    /// A header, type or string reaches past the end.
    #[error("cut short or damaged at byte {0}")]
    OutOfBounds(usize),
    /// A type of a kind that did not exist when this was written.
    #[error("type {id} is of an unknown kind ({kind})")]
    UnknownKind {
        /// The type's id.
        id: usize,
        /// The kind's number.
        kind: u32,
    },
    /// The kernel has no such field, or not at a byte boundary.
    #[error("no field {structure}.{field}")]
    NoField {
        /// The structure's name.
        structure: String,
        /// The field's name.
        field: String,
    },
    /// The kernel has no such enumerator.
    #[error("no enumerator {0}")]
    NoEnumerator(String),
    /// The kernel has no such tracepoint.
    #[error("no tracepoint {0}")]
    NoTracepoint(String),
}

/// Parsed type information, borrowed from its bytes.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins in `types`; type ids count from 1, or on from those of `base`.
    starts: Vec<usize>,
    /// Of a module: the kernel's own, whose types and strings it refers to.
    base: Option<&'a Btf<'a>>,
}

#[derive(Clone, Copy)]
struct Type {
    name: u32,
    info: u32,
    /// A size, or the id of the type that this one refers to.
    size_or_type: u32,
    /// Where what follows the common part begins.
    tail: usize,
}

impl Type {
    const fn kind(self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    const fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Set where member offsets carry a bit-field size in their upper byte.
    const fn flag(self) -> bool {
        self.info >> 31 != 0
    }

    /// Bytes after the common part; `None` for an unknown kind.
    fn tail_len(self) -> Option<usize> {
        let count = self.count();
        match self.kind() {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => Some(4),
            KIND_ARRAY => Some(12),
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => Some(12 * count),
            KIND_ENUM | KIND_FUNC_PROTO => Some(8 * count),
            kind if kind <= KIND_LAST => Some(0),
            _ => None,
        }
    }
}

impl<'a> Btf<'a> {
    /// Reads the layout of `bytes`, as in `/sys/kernel/btf/vmlinux`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Magic);
        }
        let header_len = word(bytes, 4)? as usize;
        if header_len < HEADER_LEN {
            return Err(BtfError::OutOfBounds(4));
        }
        let types = section(bytes, header_len, word(bytes, 8)?, word(bytes, 12)?)?;
        let strings = section(bytes, header_len, word(bytes, 16)?, word(bytes, 20)?)?;
        let mut starts = Vec::new();
        let mut at = 0;
        while at < types.len() {
            let parsed = read_type(types, at)?;
            let tail_len = parsed
                .tail_len()
                .ok_or(BtfError::UnknownKind { id: starts.len() + 1, kind: parsed.kind() })?;
            starts.push(at);
            at = parsed.tail + tail_len;
        }
        if at > types.len() {
            return Err(BtfError::OutOfBounds(at));
        }
        Ok(Self { types, strings, starts, base: None })
    }

    /// Reads what a module adds to the kernel's own, as in `/sys/kernel/btf/ext4`.
    pub fn parse_module(bytes: &'a [u8], base: &'a Btf<'a>) -> Result<Self, BtfError> {
        Ok(Self { base: Some(base), ..Self::parse(bytes)? })
    }

    /// The offset, in bytes, of `field` in `struct structure`; anonymous structures and unions inside it
    /// are looked through.
    pub fn field_offset(&self, structure: &str, field: &str) -> Result<u32, BtfError> {
        self.named(KIND_STRUCT, structure)
            .and_then(|found| self.field_bit(found, field, 0))
            .filter(|bit| bit % 8 == 0)
            .map(|bit| bit / 8)
            .ok_or_else(|| BtfError::NoField { structure: structure.to_owned(), field: field.to_owned() })
    }

    /// The size of `struct structure` in bytes.
    pub fn size(&self, structure: &str) -> Result<u32, BtfError> {
        let found = self.named(KIND_STRUCT, structure);
        found
            .map(|found| found.size_or_type)
            .ok_or_else(|| BtfError::NoField { structure: structure.to_owned(), field: "size".to_owned() })
    }

    /// The number of `enumerator` in `enum list`, where it fits 32 bits.
    pub fn enumerator(&self, list: &str, enumerator: &str) -> Result<u32, BtfError> {
        self.named(KIND_ENUM, list)
            .and_then(|found| {
                let starts = (0..found.count()).map(|index| found.tail + 8 * index);
                let mut matching = starts
                    .filter(|at| word(self.types, *at).is_ok_and(|name| self.is_named(name, enumerator)));
                word(self.types, matching.next()? + 4).ok()
            })
            .ok_or_else(|| BtfError::NoEnumerator(format!("{list}.{enumerator}")))
    }

    /// How many arguments the tracepoint hands to a BPF program.
    ///
    /// The kernel describes them as the prototype of `btf_trace_NAME`, whose first parameter is the
    /// tracepoint's own data pointer, which programs do not get.
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> Result<usize, BtfError> {
        self.named(KIND_TYPEDEF, &format!("btf_trace_{tracepoint}"))
            .and_then(|typedef| self.by_id(typedef.size_or_type))
            .filter(|(_, pointer)| pointer.kind() == KIND_PTR)
            .and_then(|(owner, pointer)| owner.by_id(pointer.size_or_type))
            .filter(|(_, prototype)| prototype.kind() == KIND_FUNC_PROTO)
            .and_then(|(_, prototype)| prototype.count().checked_sub(1))
            .ok_or_else(|| BtfError::NoTracepoint(tracepoint.to_owned()))
    }

    /// The id of a function, as `attach_btf_id` takes it.
    pub fn function_id(&self, name: &str) -> Option<u32> {
        self.id(KIND_FUNC, name)
    }

    /// The id of the type that stands for a tracepoint, as `attach_btf_id` takes it.
    pub fn tracepoint_id(&self, name: &str) -> Option<u32> {
        self.id(KIND_TYPEDEF, &format!("btf_trace_{name}"))
    }

    fn id(&self, kind: u32, name: &str) -> Option<u32> {
        let index = self.starts.iter().position(|at| {
            read_type(self.types, *at)
                .is_ok_and(|found| found.kind() == kind && self.is_named(found.name, name))
        })?;
        u32::try_from(index + 1).ok()
    }

    fn field_bit(&self, structure: Type, field: &str, depth: u32) -> Option<u32> {
        for index in 0..structure.count() {
            let at = structure.tail + 12 * index;
            let (name, of_type, offset) =
                (word(self.types, at).ok()?, word(self.types, at + 4).ok()?, word(self.types, at + 8).ok()?);
            let bit = if structure.flag() { offset & 0x00ff_ffff } else { offset };
            if self.is_named(name, field) {
                return Some(bit);
            }
            if self.is_named(name, "")
                && depth < MAX_NESTING
                && let Some((owner, inner)) = self.by_id(of_type)
                && matches!(inner.kind(), KIND_STRUCT | KIND_UNION)
                && let Some(inside) = owner.field_bit(inner, field, depth + 1)
            {
                return bit.checked_add(inside);
            }
        }
        None
    }

    fn named(&self, kind: u32, name: &str) -> Option<Type> {
        self.starts
            .iter()
            .filter_map(|at| read_type(self.types, *at).ok())
            .find(|found| found.kind() == kind && self.is_named(found.name, name))
    }

    /// The type of that id, and whose it is.
    fn by_id(&self, id: u32) -> Option<(&Btf<'a>, Type)> {
        let mut index = (id as usize).checked_sub(1)?;
        if let Some(base) = self.base {
            match index.checked_sub(base.starts.len()) {
                Some(own) => index = own,
                None => return base.by_id(id),
            }
        }
        let at = self.starts.get(index)?;
        Some((self, read_type(self.types, *at).ok()?))
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let mut offset = offset as usize;
        if let Some(base) = self.base {
            match offset.checked_sub(base.strings.len()) {
                Some(own) => offset = own,
                None => return base.is_named(offset as u32, name),
            }
        }
        self.strings
            .get(offset..)
            .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn read_type(types: &[u8], at: usize) -> Result<Type, BtfError> {
    Ok(Type {
        name: word(types, at)?,
        info: word(types, at + 4)?,
        size_or_type: word(types, at + 8)?,
        tail: at + TYPE_LEN,
    })
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    at.checked_add(4)
        .and_then(|end| bytes.get(at..end))
        .and_then(|four| four.try_into().ok())
        .map(u32::from_ne_bytes)
        .ok_or(BtfError::OutOfBounds(at))
}

fn section(bytes: &[u8], header_len: usize, offset: u32, length: u32) -> Result<&[u8], BtfError> {
    let start = header_len.saturating_add(offset as usize);
    bytes.get(start..start.saturating_add(length as usize)).ok_or(BtfError::OutOfBounds(start))
}

/// For [`crate::fuzzing`]: a structure in a structure.
#[cfg(any(test, feature = "fuzzing"))]
pub fn samples() -> Vec<Vec<u8>> {
    vec![sample()]
}

/// `struct task { int pid; struct { int tgid; }; }`, written by hand.
#[cfg(any(test, feature = "fuzzing"))]
fn sample() -> Vec<u8> {
    let strings = b"\0int\0task\0pid\0tgid\0";
    let mut types: Vec<u32> = Vec::new();
    types.extend([1, KIND_INT << 24, 4, 32]);
    types.extend([0, KIND_STRUCT << 24 | 1, 4, 14, 1, 0]);
    types.extend([5, KIND_STRUCT << 24 | 2, 8, 10, 1, 0, 0, 2, 32]);
    let type_bytes: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut bytes = MAGIC.to_ne_bytes().to_vec();
    bytes.extend([1, 0]);
    for word in [24, 0, type_bytes.len() as u32, type_bytes.len() as u32, strings.len() as u32] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(type_bytes);
    bytes.extend(strings);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_field_is_found_directly_and_inside_an_anonymous_structure() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.field_offset("task", "pid"), Ok(0));
        assert_eq!(btf.field_offset("task", "tgid"), Ok(4));
    }

    #[test]
    fn ids_count_from_one_and_are_those_of_the_kind_that_was_asked_for() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.id(KIND_INT, "int"), Some(1));
        assert_eq!(btf.id(KIND_STRUCT, "task"), Some(3));
        assert_eq!(btf.function_id("task"), None);
    }

    /// `struct op { struct task task_of; int flags; }` and `enum bits { LOW = 3 }`, as a module of `sample`'s kernel has
    /// them: types count on from its three, strings from its 19 bytes.
    fn module() -> Vec<u8> {
        let strings = b"\0op\0flags\0bits\0LOW\0";
        let at = |offset: u32| 19 + offset;
        let mut types: Vec<u32> = Vec::new();
        types.extend([at(1), KIND_STRUCT << 24 | 3, 16, 0, 3, 0, at(4), 1, 64, 10, 1, 96]);
        types.extend([at(10), KIND_ENUM << 24 | 1, 4, at(15), 3]);
        let type_bytes: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, type_bytes.len() as u32, type_bytes.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(type_bytes);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn a_modules_types_refer_to_the_kernels_own() {
        let (kernel, module) = (sample(), module());
        let kernel = Btf::parse(&kernel).unwrap();
        let module = Btf::parse_module(&module, &kernel).unwrap();
        assert_eq!(module.field_offset("op", "flags"), Ok(8));
        assert_eq!(
            module.field_offset("op", "pid"),
            Ok(0),
            "inside the kernel's structure, which has no name here"
        );
        assert_eq!(module.field_offset("op", "tgid"), Ok(4));
        assert_eq!(module.enumerator("bits", "LOW"), Ok(3));
        assert_eq!(module.size("op"), Ok(16));
        let error = module.enumerator("bits", "HIGH").unwrap_err();
        assert_eq!(error.to_string(), "no enumerator bits.HIGH");
    }

    #[test]
    fn what_is_not_there_is_named_in_the_error() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        let error = btf.field_offset("task", "comm").unwrap_err();
        assert_eq!(error.to_string(), "no field task.comm");
        assert_eq!(btf.tracepoint_arguments("x"), Err(BtfError::NoTracepoint("x".into())));
    }

    #[test]
    fn a_prefix_of_a_name_is_not_that_name() {
        let bytes = sample();
        assert!(Btf::parse(&bytes).unwrap().field_offset("tas", "pid").is_err());
        assert!(Btf::parse(&bytes).unwrap().field_offset("task", "pi").is_err());
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic(at in 0usize..200, value: u8, length in 0usize..200) {
            let mut bytes = sample();
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            bytes.truncate(length);
            if let Ok(btf) = Btf::parse(&bytes) {
                let _ = btf.field_offset("task", "tgid");
                let _ = btf.tracepoint_arguments("task");
            }
        }

        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let mut bytes = MAGIC.to_ne_bytes().to_vec();
            bytes.extend(body);
            let _ = Btf::parse(&bytes);
        }
    }
}
