//! Symbols as the source spells them.

use rustc_demangle::try_demangle;

/// The name that a mangled symbol stands for, without the compiler's hash; any other symbol as it is.
///
/// What is mangled says so by its first letters. Without them a C function called `c` would be read as the
/// type `char`.
pub fn demangle(symbol: &str) -> String {
    if let Ok(rust) = try_demangle(symbol) {
        return format!("{rust:#}");
    }
    let is_cpp = ["_Z", "__Z", "_GLOBAL__"].iter().any(|start| symbol.starts_with(start));
    let cpp = is_cpp.then(|| cpp_demangle::Symbol::new(symbol).ok()?.demangle().ok()).flatten();
    cpp.unwrap_or_else(|| symbol.to_owned())
}

#[cfg(test)]
mod tests {
    use super::demangle;

    #[test]
    fn rust_and_cpp_names_are_read_and_others_left_alone() {
        assert_eq!(
            demangle("_ZN3vmm7persist15create_snapshot17h0123456789abcdefE"),
            "vmm::persist::create_snapshot"
        );
        assert_eq!(demangle("_RNvNtCs1234_7mycrate3foo3bar"), "mycrate::foo::bar");
        assert_eq!(
            demangle("_ZNSt6vectorIiSaIiEE9push_backERKi"),
            "std::vector<int, std::allocator<int> >::push_back(int const&)"
        );
        for c in ["c", "a", "b", "fsync", "_start", "_Znonsense"] {
            assert_eq!(demangle(c), c);
        }
    }
}
