//! One entry of `disk`: `phy:/dev/vdb,xvda,w`, `/dev/vdb,raw,xvda,rw`, or
//! `format=raw, vdev=xvda, access=rw, target=/dev/vdb`; `persistent` may stand among the later parts.

use alloc::format;
use alloc::string::{String, ToString};

use super::error::{Flaw, Position};

/// What a guest may do with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskAccess {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// A virtual disk's name and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vdev {
    /// As configured: `xvda`.
    pub name: String,
    /// As in the store: 51712.
    pub number: u32,
}

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// What dom0 shall open.
    pub target: String,
    /// What the guest sees.
    pub vdev: Vdev,
    /// What it may do.
    pub access: DiskAccess,
    /// Whether the front end may use its grants again and again.
    pub persistent: bool,
    /// Where the entry stands.
    pub at: Position,
}

/// What was found so far.
#[derive(Default)]
struct Parts {
    target: Option<String>,
    format_seen: bool,
    /// `phy:` and its like stand for the format.
    prefixed: bool,
    vdev: Option<Vdev>,
    access: Option<DiskAccess>,
    persistent: bool,
}

/// Parses an entry that stands alone, as on a command line.
///
/// # Errors
/// What is wrong with it.
pub fn parse_disk(text: &str) -> Result<DiskConfig, String> {
    parse(text, Position { line: 1, column: 0 }).map_err(|flaw| flaw.message)
}

/// Parses an entry whose text begins at `at` (the opening quote).
pub(crate) fn parse(text: &str, at: Position) -> Result<DiskConfig, Flaw> {
    let mut parts = Parts::default();
    let mut offset = 1;
    let mut rest = text;
    loop {
        let (part, next) = match rest.split_once(',') {
            // The target comes last and may hold commas.
            _ if rest.trim_start().starts_with("target=") => (rest, None),
            Some((part, next)) => (part, Some(next)),
            None => (rest, None),
        };
        let blanks = part.len() - part.trim_start().len();
        parts.take(part.trim(), at.right(offset + blanks))?;
        match next {
            Some(next) => rest = next,
            None => break,
        }
        offset += part.chars().count() + 1;
    }
    let missing = |what: &str| Flaw::new(at, format!("this disk has no {what}"));
    Ok(DiskConfig {
        target: parts.target.filter(|target| !target.is_empty()).ok_or_else(|| missing("target"))?,
        vdev: parts.vdev.ok_or_else(|| missing("vdev"))?,
        access: parts.access.unwrap_or(DiskAccess::ReadWrite),
        persistent: parts.persistent,
        at,
    })
}

impl Parts {
    fn take(&mut self, part: &str, at: Position) -> Result<(), Flaw> {
        if let Some((key, value)) = part.split_once('=').filter(|(key, _)| is_key(key)) {
            return self.keyed(key, value.trim(), at);
        }
        if part == "persistent" && (self.target.is_some() || self.vdev.is_some()) {
            self.persistent = true;
            return Ok(());
        }
        if self.target.is_none() {
            return self.positional_target(part, at);
        }
        if !self.format_seen && !self.prefixed {
            self.format_seen = true;
            return if part.is_empty() { Ok(()) } else { format_is_raw(part, at) };
        }
        if self.vdev.is_none() {
            return self.set_vdev(part, at);
        }
        if self.access.is_none() {
            self.access = Some(access(part, at)?);
            return Ok(());
        }
        Err(Flaw::new(at, format!("too much in a disk: '{part}'")))
    }

    fn positional_target(&mut self, part: &str, at: Position) -> Result<(), Flaw> {
        let mut target = part;
        for prefix in ["phy:", "file:", "raw:"] {
            if let Some(stripped) = target.strip_prefix(prefix) {
                target = stripped;
                self.prefixed = true;
            }
        }
        if let Some((prefix, _)) = target.split_once(':').filter(|(p, _)| !p.contains('/')) {
            return Err(Flaw::new(at, format!("unknown kind of disk '{prefix}:'")));
        }
        self.target = Some(target.to_string());
        Ok(())
    }

    fn keyed(&mut self, key: &str, value: &str, at: Position) -> Result<(), Flaw> {
        let value_at = at.right(key.len() + 1);
        match key {
            "target" => set(&mut self.target, value.to_string(), "target", at),
            "format" => {
                self.format_seen = true;
                format_is_raw(value, value_at)
            }
            "vdev" => self.set_vdev(value, value_at),
            "access" => set(&mut self.access, access(value, value_at)?, "access", at),
            "backendtype" if matches!(value, "phy") => Ok(()),
            "backendtype" => Err(Flaw::new(value_at, format!("backendtype '{value}' is not supported"))),
            "devtype" if value == "disk" => Ok(()),
            other => Err(Flaw::new(at, format!("'{other}' is not supported for a disk"))),
        }
    }

    fn set_vdev(&mut self, name: &str, at: Position) -> Result<(), Flaw> {
        let number =
            vdev_number(name).ok_or_else(|| Flaw::new(at, format!("'{name}' is no virtual disk's name")))?;
        set(&mut self.vdev, Vdev { name: name.to_string(), number }, "vdev", at)
    }
}

fn set<T>(slot: &mut Option<T>, value: T, what: &str, at: Position) -> Result<(), Flaw> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Flaw::new(at, format!("a disk has only one {what}"))),
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
}

fn format_is_raw(format: &str, at: Position) -> Result<(), Flaw> {
    match format {
        "raw" => Ok(()),
        "qcow" | "qcow2" | "vhd" | "qed" => {
            Err(Flaw::new(at, format!("format '{format}' is not supported, only raw")))
        }
        _ => Err(Flaw::new(at, format!("unknown disk format '{format}'"))),
    }
}

fn access(text: &str, at: Position) -> Result<DiskAccess, Flaw> {
    match text {
        "r" | "ro" => Ok(DiskAccess::ReadOnly),
        "w" | "rw" => Ok(DiskAccess::ReadWrite),
        _ => Err(Flaw::new(at, format!("unknown access '{text}', expected r, ro, w or rw"))),
    }
}

/// Number of a virtual disk: `xvdb3`, `sda`, `hdc`, `d5p2`, or the number itself.
#[must_use]
pub fn vdev_number(name: &str) -> Option<u32> {
    const EXTENDED: u32 = 1 << 28;
    if let Some((disk, part)) = name.strip_prefix("xvd").and_then(letters_and_partition) {
        return if disk < 16 && part < 16 {
            Some((202 << 8) | (disk << 4) | part)
        } else {
            (disk < 1 << 20 && part < 256).then_some(EXTENDED | (disk << 8) | part)
        };
    }
    if let Some((disk, part)) = name.strip_prefix("sd").and_then(letters_and_partition) {
        return (disk < 16 && part < 16).then_some((8 << 8) | (disk << 4) | part);
    }
    if let Some((disk, part)) = name.strip_prefix("hd").and_then(letters_and_partition) {
        let major = *[3, 22].get(usize::try_from(disk / 2).ok()?)?;
        return (part < 64).then_some((major << 8) | ((disk % 2) << 6) | part);
    }
    if let Some(rest) = name.strip_prefix('d') {
        let (disk, part) = rest.split_once('p').unwrap_or((rest, "0"));
        let (disk, part): (u32, u32) = (disk.parse().ok()?, part.parse().ok()?);
        return (disk < 1 << 20 && part < 256).then_some(EXTENDED | (disk << 8) | part);
    }
    match name.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => name.parse().ok(),
    }
}

/// `b3` is disk 1, partition 3; `aa` is disk 26.
fn letters_and_partition(text: &str) -> Option<(u32, u32)> {
    let end = text.bytes().position(|b| !b.is_ascii_lowercase()).unwrap_or(text.len());
    let (letters, digits) = text.split_at(end);
    if letters.is_empty() || letters.len() > 3 {
        return None;
    }
    let disk = letters.bytes().fold(0u32, |sum, letter| sum * 26 + u32::from(letter - b'a') + 1) - 1;
    let part = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    Some((disk, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { line: 3, column: 9 };

    fn disk(text: &str) -> DiskConfig {
        parse(text, AT).unwrap()
    }

    fn flaw(text: &str) -> (u32, String) {
        let flaw = parse(text, AT).unwrap_err();
        (flaw.at.column, flaw.message)
    }

    #[test]
    fn all_spellings_mean_the_same() {
        let expected = disk("phy:/dev/vdb,xvda,w");
        assert_eq!(expected.target, "/dev/vdb");
        assert_eq!(expected.vdev, Vdev { name: "xvda".into(), number: 51712 });
        assert_eq!(expected.access, DiskAccess::ReadWrite);
        for text in [
            "/dev/vdb,raw,xvda,rw",
            "/dev/vdb,,xvda",
            "format=raw, vdev=xvda, access=rw, target=/dev/vdb",
            "vdev=xvda,format=raw,target=/dev/vdb",
            "/dev/vdb, raw, xvda",
        ] {
            assert_eq!(disk(text), expected, "{text}");
        }
        assert_eq!(disk("phy:/dev/vdb,xvdb,r").access, DiskAccess::ReadOnly);
        assert_eq!(disk("vdev=xvda,target=a,b").target, "a,b");
        let persistent = DiskConfig { persistent: true, ..expected };
        for text in [
            "phy:/dev/vdb,xvda,w,persistent",
            "/dev/vdb,raw,xvda,persistent,rw",
            "vdev=xvda,persistent,target=/dev/vdb",
        ] {
            assert_eq!(disk(text), persistent, "{text}");
        }
        assert_eq!(disk("persistent,raw,xvda").target, "persistent");
    }

    #[test]
    fn numbers_of_disks() {
        let numbers = [
            ("xvda", 51712),
            ("xvdb1", 51729),
            ("xvdq", 1 << 28 | 16 << 8),
            ("xvdaa", 1 << 28 | 26 << 8),
            ("sda", 2048),
            ("hda", 768),
            ("hdc2", 5634),
            ("d5p2", 1 << 28 | 5 << 8 | 2),
            ("51712", 51712),
            ("0xca00", 51712),
        ];
        for (name, number) in numbers {
            assert_eq!(vdev_number(name), Some(number), "{name}");
        }
        for bad in ["", "xvd", "xvdA", "hde", "sdaa", "disk", "xvda999", "-1"] {
            assert_eq!(vdev_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn flaws_point_at_the_part() {
        assert_eq!(flaw("phy:/dev/vdb,bad,w"), (9 + 14, "'bad' is no virtual disk's name".into()));
        assert_eq!(flaw("/dev/vdb,qcow2,xvda").0, 9 + 10);
        assert_eq!(flaw("phy:/dev/vdb"), (9, "this disk has no vdev".into()));
        assert_eq!(flaw("vdev=xvda"), (9, "this disk has no target".into()));
        assert_eq!(flaw("phy:/a,xvda,q").1, "unknown access 'q', expected r, ro, w or rw");
        assert_eq!(flaw("tap:aio:/a,xvda,w").1, "unknown kind of disk 'tap:'");
        assert_eq!(flaw("phy:/a,xvda,w,vdev=xvdb").1, "a disk has only one vdev");
        assert_eq!(flaw("phy:/a,xvda,w,more").1, "too much in a disk: 'more'");
    }
}
