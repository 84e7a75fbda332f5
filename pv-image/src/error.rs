//! Why an image was refused. Each variant is one thing a person can act on.

use alloc::string::String;
use core::fmt;

/// Why an image or a plan was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The file ends before this part of it.
    Truncated(&'static str),
    /// Neither an ELF nor anything that unpacks to one.
    NotElf,
    /// An ELF for 32 bits; only 64-bit kernels are supported.
    Elf32,
    /// An ELF for another machine (`e_machine`).
    WrongMachine(u16),
    /// An ELF that is not an executable or shared object (`e_type`), or big-endian.
    WrongType,
    /// More program headers, notes or segments than any kernel has.
    TooMany(&'static str),
    /// A loadable segment whose sizes or addresses contradict one another.
    BadSegment(usize),
    /// Nothing to load.
    NoSegments,
    /// No Xen ELF notes: not a PV kernel.
    NoXenNotes,
    /// This Xen note has an impossible value.
    BadNote(&'static str),
    /// The LOADER note names another loader.
    BadLoader(String),
    /// The XEN_VERSION note names another interface.
    BadXenVersion(String),
    /// The kernel requires a feature that does not exist here.
    UnknownRequiredFeature(String),
    /// The kernel says that it cannot be dom0.
    NoDom0Support,
    /// The entry point lies outside the kernel.
    EntryOutside(u64),
    /// The hypercall page lies outside the initial region or is not page-aligned.
    BadHypercallPage(u64),
    /// The initial region would touch addresses the hypervisor keeps, or no address at all.
    BadAddress(u64),
    /// Larger than the limit (both in bytes).
    TooLarge {
        /// What it takes.
        need: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The domain has too little memory for this kernel and ramdisk (both in pages).
    NotEnoughMemory {
        /// What it takes.
        need: u64,
        /// What the domain has.
        have: u64,
    },
    /// The command line is longer than `start_info` holds (both in bytes).
    CmdlineTooLong {
        /// Its length.
        len: usize,
        /// The most that fits.
        max: usize,
    },
    /// A bzImage too old to hold an ELF payload.
    OldBzImage,
    /// A payload packed by this method, which is not built in.
    UnsupportedCompression(&'static str),
    /// A payload that begins like no known format.
    UnknownCompression([u8; 4]),
    /// A packed payload that does not unpack.
    DamagedPayload(&'static str),
    /// No memory for the unpacked kernel.
    OutOfMemory,
    /// A page was asked for whose frame is not known.
    NoFrame(u64),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(what) => write!(f, "the file is truncated: its {what} lies beyond its end"),
            Self::NotElf => f.write_str("not an ELF file, nor a bzImage"),
            Self::Elf32 => f.write_str("a 32-bit kernel; only 64-bit PV kernels are supported"),
            Self::WrongMachine(machine) => write!(f, "an ELF for another machine (e_machine {machine})"),
            Self::WrongType => f.write_str("an ELF that is not a little-endian executable"),
            Self::TooMany(what) => write!(f, "the ELF has too many {what}"),
            Self::BadSegment(index) => write!(f, "program header {index} contradicts itself"),
            Self::NoSegments => f.write_str("the ELF has nothing to load"),
            Self::NoXenNotes => f.write_str("no Xen ELF notes: not a PV kernel"),
            Self::BadNote(name) => write!(f, "the Xen note {name} has an impossible value"),
            Self::BadLoader(name) => write!(f, "the kernel wants the loader '{name}'"),
            Self::BadXenVersion(name) => write!(f, "the kernel is for the interface '{name}', not xen-3.0"),
            Self::UnknownRequiredFeature(name) => {
                write!(f, "the kernel requires the unknown feature '{name}'")
            }
            Self::NoDom0Support => f.write_str("the kernel was built without support for running as dom0"),
            Self::EntryOutside(va) => write!(f, "the entry point {va:#x} lies outside the kernel"),
            Self::BadHypercallPage(va) => {
                write!(f, "the hypercall page {va:#x} is not a page of the initial region")
            }
            Self::BadAddress(va) => write!(f, "the kernel's addresses (at {va:#x}) are not a guest's"),
            Self::TooLarge { need, limit } => {
                write!(f, "too large: {need} bytes, where at most {limit} are allowed")
            }
            Self::NotEnoughMemory { need, have } => {
                write!(
                    f,
                    "not enough memory: kernel and ramdisk take {} KiB, the domain has {} KiB",
                    need * 4,
                    have * 4
                )
            }
            Self::CmdlineTooLong { len, max } => {
                write!(f, "the command line has {len} bytes, at most {max} fit")
            }
            Self::OldBzImage => f.write_str("a bzImage older than boot protocol 2.08"),
            Self::UnsupportedCompression(name) => {
                write!(f, "the kernel is packed with {name}, not supported")
            }
            Self::UnknownCompression(magic) => {
                write!(f, "the kernel's payload is of no known format ({magic:02x?})")
            }
            Self::DamagedPayload(what) => write!(f, "the kernel's payload is damaged ({what})"),
            Self::OutOfMemory => f.write_str("no memory for the unpacked kernel"),
            Self::NoFrame(pfn) => write!(f, "no machine frame for pfn {pfn:#x}"),
        }
    }
}

impl core::error::Error for ImageError {}
