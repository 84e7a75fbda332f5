//! Why an operation failed, in words for people.

use alloc::string::String;
use core::fmt;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;
use pv_image::ImageError;

use crate::ctl::Exit;
use crate::net::Mac;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Another domain has this name.
    NameInUse(String),
    /// No domain has this name or number.
    NoSuchDomain(String),
    /// dom0 is not to be treated so.
    IsDom0,
    /// The domain is in no state for this.
    NotRunning(DomId),
    /// The kernel (or its plan) is refused.
    Image {
        /// The kernel's path.
        kernel: String,
        /// Why.
        error: ImageError,
    },
    /// A disk cannot be used.
    Disk {
        /// As configured.
        target: String,
        /// Why.
        errno: Errno,
    },
    /// A domain is given a disk twice, and writes to it.
    DiskTwice(String),
    /// Another interface has this address.
    MacInUse(Mac),
    /// A disk may not be written, and the domain wants to.
    ReadOnlyDisk(String),
    /// The domain has a device of this number already.
    DeviceExists {
        /// The domain.
        dom: DomId,
        /// As the user named it.
        name: String,
    },
    /// The domain has no such device.
    NoSuchDevice {
        /// The domain.
        dom: DomId,
        /// As the user named it.
        name: String,
    },
    /// A number is too small or too large.
    OutOfRange {
        /// Which.
        what: &'static str,
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// The machine has not enough free memory (both KiB).
    NoMemory {
        /// What the domain takes.
        need_kib: u64,
        /// What is free.
        free_kib: u64,
    },
    /// A hypercall or another part of dom0 refused.
    Refused {
        /// What was being done.
        doing: &'static str,
        /// Why.
        errno: Errno,
    },
}

impl Error {
    /// The exit status it means.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NoSuchDomain(_) => Exit::NoDomain,
            _ => Exit::Failed,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameInUse(name) => write!(f, "a domain named '{name}' exists already"),
            Self::NoSuchDomain(name) => write!(f, "there is no domain '{name}'"),
            Self::IsDom0 => f.write_str("this cannot be done to dom0"),
            Self::NotRunning(dom) => write!(f, "domain {} has stopped", dom.raw()),
            Self::Image { kernel, error } => write!(f, "{kernel}: {error}"),
            Self::Disk { target, errno: Errno::NoEnt } => {
                write!(f, "there is no disk '{target}'; disks shows those of dom0")
            }
            Self::Disk { target, errno: Errno::Busy } => {
                write!(f, "disk '{target}' is in use: a disk that one domain writes to is no other's")
            }
            Self::DiskTwice(target) => write!(f, "disk '{target}' is there twice, and is written to"),
            Self::Disk { target, errno } => write!(f, "disk '{target}': {}", errno.name()),
            Self::MacInUse(mac) => write!(f, "another interface has the address {mac}"),
            Self::ReadOnlyDisk(target) => write!(f, "disk '{target}' can only be read; configure it so"),
            Self::DeviceExists { dom, name } => {
                write!(f, "domain {} has a device '{name}' already", dom.raw())
            }
            Self::NoSuchDevice { dom, name } => write!(f, "domain {} has no device '{name}'", dom.raw()),
            Self::OutOfRange { what, min, max } => write!(f, "{what} must be between {min} and {max}"),
            Self::NoMemory { need_kib, free_kib } => {
                write!(f, "not enough free memory: {need_kib} KiB wanted, {free_kib} KiB free")
            }
            Self::Refused { doing, errno } => write!(f, "{doing} failed: {}", errno.name()),
        }
    }
}

impl core::error::Error for Error {}

/// Names what was being done when a port refused.
pub(super) trait Doing<T> {
    /// The error with its context.
    fn doing(self, doing: &'static str) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, doing: &'static str) -> Result<T, Error> {
        self.map_err(|errno| Error::Refused { doing, errno })
    }
}
