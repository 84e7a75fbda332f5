//! Paths: absolute inside the store, maybe relative to a domain's home on the wire.

use alloc::format;
use alloc::string::{String, ToString};

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;
use pv_abi::io::xenstore::{ABS_PATH_MAX as ABS_MAX, REL_PATH_MAX as REL_MAX};

/// The home of a domain.
pub(crate) fn home(dom: DomId) -> String {
    format!("/local/domain/{}", dom.raw())
}

/// Makes a client's path absolute, or says why it is none.
///
/// Checked as given and again as made absolute: only the first check would let a relative path grow
/// beyond the limit.
pub(crate) fn canonical(dom: DomId, given: &str, depth: usize) -> Result<String, Errno> {
    let limit = if given.starts_with('/') { ABS_MAX } else { REL_MAX };
    if given.is_empty() || given.len() > limit {
        return Err(Errno::Inval);
    }
    let path = if given.starts_with('/') { given.to_string() } else { format!("{}/{given}", home(dom)) };
    check(&path, depth)?;
    Ok(path)
}

/// Whether an absolute path is well-formed.
pub(crate) fn check(path: &str, depth: usize) -> Result<(), Errno> {
    if path == "/" {
        return Ok(());
    }
    let rest = path.strip_prefix('/').ok_or(Errno::Inval)?;
    if path.len() > ABS_MAX {
        return Err(Errno::Inval);
    }
    let mut levels = 0;
    for name in rest.split('/') {
        levels += 1;
        if name.is_empty() || !name.bytes().all(is_path_byte) {
            return Err(Errno::Inval);
        }
    }
    if levels > depth { Err(Errno::NoSpc) } else { Ok(()) }
}

const fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'@')
}

/// The parent; `None` for the root.
pub(crate) fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        _ if path == "/" => None,
        0 => Some("/"),
        at => path.get(..at),
    }
}

/// The last name.
pub(crate) fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or("")
}

/// A child's path.
pub(crate) fn join(parent: &str, child: &str) -> String {
    if parent == "/" { format!("/{child}") } else { format!("{parent}/{child}") }
}

/// The path itself and its ancestors, up to the root.
pub(crate) fn upwards(path: &str) -> impl Iterator<Item = &str> {
    core::iter::successors(Some(path), |path| parent(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn relative_paths_start_at_home() {
        assert_eq!(canonical(DomId::new(7), "device/vbd", 32).unwrap(), "/local/domain/7/device/vbd");
    }

    #[test]
    fn malformed_paths_are_refused() {
        for bad in ["", "//", "/a//b", "/a/", "a/", "/a b", "/a.b", "/\u{e9}", "/a\nb"] {
            assert_eq!(canonical(DomId::new(1), bad, 32), Err(Errno::Inval), "{bad:?}");
        }
        assert_eq!(canonical(DomId::new(1), &"a".repeat(2049), 32), Err(Errno::Inval));
        assert_eq!(canonical(DomId::new(1), &format!("/{}", "a".repeat(3072)), 32), Err(Errno::Inval));
        assert_eq!(canonical(DomId::new(1), &"/a".repeat(33), 32), Err(Errno::NoSpc));
    }

    #[test]
    fn walking_up_ends_at_the_root() {
        assert_eq!(upwards("/a/b").collect::<Vec<_>>(), ["/a/b", "/a", "/"]);
        assert_eq!((parent("/"), parent("/a"), name("/a/b")), (None, Some("/"), "b"));
    }
}
