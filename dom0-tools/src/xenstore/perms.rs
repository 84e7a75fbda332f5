//! Permissions: an owner, what all others may, and exceptions.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;

/// What one domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `n`
    None,
    /// `r`
    Read,
    /// `w`
    Write,
    /// `b`
    Both,
}

impl Access {
    /// May read.
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// May write.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }

    const fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Both => 'b',
        }
    }

    const fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'n' => Some(Self::None),
            b'r' => Some(Self::Read),
            b'w' => Some(Self::Write),
            b'b' => Some(Self::Both),
            _ => None,
        }
    }
}

/// Permissions of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perms {
    /// May do everything.
    pub owner: DomId,
    /// What those may who are not named.
    pub others: Access,
    /// The exceptions; the first that names a domain holds.
    pub acl: Vec<(DomId, Access)>,
}

impl Perms {
    /// Owned by dom0, closed to others.
    #[must_use]
    pub const fn closed() -> Self {
        Self { owner: DomId::DOM0, others: Access::None, acl: Vec::new() }
    }

    /// What `who` may do.
    pub(crate) fn access(&self, who: Who) -> Access {
        if who.is_privileged() || who.is(self.owner) {
            return Access::Both;
        }
        self.acl.iter().find(|(dom, _)| who.is(*dom)).map_or(self.others, |(_, access)| *access)
    }

    /// Whether a domain is named.
    pub(crate) fn names(&self, dom: DomId) -> bool {
        self.owner == dom || self.acl.iter().any(|(named, _)| *named == dom)
    }

    /// As on the wire: `n5\0r0\0`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        text.push_str(&format!("{}{}\0", self.others.letter(), self.owner.raw()));
        for (dom, access) in &self.acl {
            text.push_str(&format!("{}{}\0", access.letter(), dom.raw()));
        }
        text.into_bytes()
    }

    /// From the wire.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Errno> {
        let body = payload.strip_suffix(&[0]).ok_or(Errno::Inval)?;
        let mut entries = body.split(|&b| b == 0).map(|entry| {
            let (letter, number) = entry.split_first().ok_or(Errno::Inval)?;
            let access = Access::from_letter(*letter).ok_or(Errno::Inval)?;
            Ok((domid(core::str::from_utf8(number).map_err(|_| Errno::Inval)?)?, access))
        });
        let (owner, others) = entries.next().ok_or(Errno::Inval)??;
        let acl = entries.collect::<Result<Vec<_>, Errno>>()?;
        Ok(Self { owner, others, acl })
    }
}

/// Reads a decimal domid; only ordinary domains have one in the store.
pub(crate) fn domid(text: &str) -> Result<DomId, Errno> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let raw: u16 = if digits { text.parse().map_err(|_| Errno::Inval)? } else { return Err(Errno::Inval) };
    let dom = DomId::new(raw);
    if dom.is_ordinary() { Ok(dom) } else { Err(Errno::Inval) }
}

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    /// The domain.
    pub(crate) dom: DomId,
    /// The domain it acts for, if dom0 said so.
    pub(crate) target: Option<DomId>,
}

impl Who {
    pub(crate) const fn new(dom: DomId) -> Self {
        Self { dom, target: None }
    }

    pub(crate) fn is_privileged(self) -> bool {
        self.dom == DomId::DOM0
    }

    fn is(self, dom: DomId) -> bool {
        self.dom == dom || self.target == Some(dom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn wire_form_comes_back() {
        let perms =
            Perms { owner: DomId::new(5), others: Access::None, acl: vec![(DomId::new(0), Access::Read)] };
        assert_eq!(perms.encode(), b"n5\0r0\0");
        assert_eq!(Perms::decode(b"n5\0r0\0").unwrap(), perms);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [&b""[..], b"\0", b"n5", b"x5\0", b"n\0", b"n-1\0", b"n32752\0", b"n99999\0", b"n5\0\0"] {
            assert_eq!(Perms::decode(bad), Err(Errno::Inval), "{bad:?}");
        }
    }

    #[test]
    fn the_owner_may_all_and_the_first_entry_is_for_the_rest() {
        let perms = Perms::decode(b"r5\0n6\0b7\0").unwrap();
        let of = |dom| perms.access(Who::new(DomId::new(dom)));
        assert_eq!(
            [of(0), of(5), of(6), of(7), of(8)],
            [Access::Both, Access::Both, Access::None, Access::Both, Access::Read]
        );
    }
}
