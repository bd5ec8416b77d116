//! The kernels of the lab, pinned by version: one line for each.

use anyhow::{Result, bail};

/// A kernel as Debian packages it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What it is called on the command line and in the names of tests.
    pub name: &'static str,
    /// Debian's binary package.
    pub package: &'static str,
    /// The package's version.
    pub version: &'static str,
}

/// All of them; README.md in this folder says how another joins.
pub const KERNELS: &[Kernel] = &[
    Kernel { name: "6.1", package: "linux-image-6.1.0-56-cloud-amd64", version: "6.1.192-2" },
    Kernel { name: "6.12", package: "linux-image-6.12.117+deb12-cloud-amd64", version: "6.12.117-1~deb12u1" },
];

/// The newest kernel: what commands run on where none is named.
pub const DEFAULT: &str = "6.12";

/// The kernels that `name` stands for: one of them, or `all`.
pub fn named(name: &str) -> Result<Vec<Kernel>> {
    if name == "all" {
        return Ok(KERNELS.to_vec());
    }
    match KERNELS.iter().find(|kernel| kernel.name == name) {
        Some(kernel) => Ok(vec![*kernel]),
        None => {
            let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
            bail!("the lab has no kernel '{name}': name one of {}, or all", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_by_name_and_an_unknown_one_is_refused_with_those_there_are() {
        assert_eq!(named("all").unwrap(), KERNELS);
        assert_eq!(named(DEFAULT).unwrap()[0].name, DEFAULT);
        let error = named("5.10").unwrap_err().to_string();
        assert_eq!(error, "the lab has no kernel '5.10': name one of 6.1, 6.12, or all");
    }

    #[test]
    fn names_are_unique_and_part_of_the_package() {
        for (index, kernel) in KERNELS.iter().enumerate() {
            assert!(kernel.package.starts_with(&format!("linux-image-{}", kernel.name)), "{kernel:?}");
            assert!(KERNELS[index + 1..].iter().all(|other| other.name != kernel.name), "{kernel:?}");
        }
    }
}
