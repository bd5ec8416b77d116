//! Network namespaces that a Firecracker can be started in.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns add` keeps them.
const NETNS_DIR: &str = "/run/netns";

/// Why a network namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The name can be no namespace's.
    #[error(
        "'netns' must be the name of a network namespace, or its path below {NETNS_DIR}, and '{0}' is neither"
    )]
    Invalid(String),
    /// There is none of that name.
    #[error("there is no network namespace '{0}' in {NETNS_DIR}: create it with `ip netns add`")]
    Absent(String),
    /// There is a file of that name, and it is something else.
    #[error("{} is no network namespace", .0.display())]
    Other(PathBuf),
    /// It could not be opened.
    #[error("cannot open the network namespace {}: {source}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A network namespace, open: it stays the same one whatever becomes of its name.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Opens the namespace of that name, which may also be an absolute path below `/run/netns`.
    pub fn open(named: &str) -> Result<Self, NetnsError> {
        let name = name_of(named).ok_or_else(|| NetnsError::Invalid(named.to_owned()))?;
        let path = Path::new(NETNS_DIR).join(name);
        let failed = |error: rustix::io::Errno| match error {
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => NetnsError::Absent(name.to_owned()),
            error => NetnsError::Open { path: path.clone(), source: error.into() },
        };
        let dir = openat(CWD, NETNS_DIR, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
        // A namespace is a file bound over an empty one: a mount is crossed, and no link is followed out of here.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file =
            openat2(dir, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty(), resolve)
                .map_err(failed)?;
        match is_network_namespace(&file) {
            true => Ok(Self { name: name.to_owned(), file: File::from(file) }),
            false => Err(NetnsError::Other(path)),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A second handle.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { name: self.name.clone(), file: self.file.try_clone()? })
    }

    /// Moves the calling thread into it: for a child between fork and exec, which has one thread.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

/// The name in a name or path: one plain component.
fn name_of(named: &str) -> Option<&str> {
    let name = named.strip_prefix(NETNS_DIR).and_then(|rest| rest.strip_prefix('/')).unwrap_or(named);
    let mut components = Path::new(name).components();
    let is_plain = matches!(components.next(), Some(Component::Normal(only)) if only == name)
        && components.next().is_none();
    (is_plain && !name.contains('\0') && name.len() <= 255).then_some(name)
}

fn is_network_namespace(file: &impl AsRawFd) -> bool {
    // SAFETY: NS_GET_NSTYPE takes no argument and writes nothing; a file that knows it not gives an error
    // (ioctl_nsfs(2)).
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

#[cfg(test)]
mod tests {
    use super::{Netns, NetnsError, name_of};

    #[test]
    fn a_namespace_is_named_by_one_plain_component_or_by_its_path() {
        assert_eq!(name_of("blue"), Some("blue"));
        assert_eq!(name_of("/run/netns/blue"), Some("blue"));
        for wrong in [
            "",
            ".",
            "..",
            "a/b",
            "/etc/passwd",
            "/run/netns/",
            "/run/netns/../x",
            "/run/netnsx",
            "blue/",
            "a\0b",
        ] {
            assert_eq!(name_of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn one_that_is_not_there_is_refused_by_name() {
        let refused = Netns::open("forkd-no-such-namespace");
        assert!(
            matches!(&refused, Err(NetnsError::Absent(name)) if name == "forkd-no-such-namespace"),
            "{refused:?}"
        );
    }
}
