//! Kernel images and the plan of a PV domain's first address space.
//!
//! Pure code: bytes in, a [`Plan`] out. The hypervisor builds dom0 with it and dom0's toolstack builds
//! every other domain, so that both find the same kernels good or bad and lay them out alike. The
//! layout is that of the `start of day` rules of the Xen PV ABI.
//!
//! The way through:
//!
//! 1. [`unpack`]: a file becomes an ELF (bzImage payloads and gzip are decompressed);
//! 2. [`KernelImage::parse`]: segments and Xen notes, checked;
//! 3. [`Plan::new`]: where each page of the domain goes, for a [`BuildConfig`];
//! 4. [`Plan::render`]: the contents of any one page, once the frames are known.
//!
//! Every number in an image is an allegation: checked arithmetic, bounded loops, typed errors.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod bytes;
mod bzimage;
mod checksum;
mod decompress;
mod elf;
mod error;
pub mod hypercall_page;
mod kernel;
mod layout;
mod notes;
mod plan;
mod render;
mod start;
mod tables;
mod zstd;

pub use bzimage::{unpack, unpack_owned};
pub use elf::Segment;
pub use error::ImageError;
pub use kernel::KernelImage;
pub use layout::{Layout, P2mPlace, PageRange, Ramdisk};
pub use notes::Notes;
pub use plan::{BuildConfig, ConsoleInfo, FrameMap, InitialVcpu, PageKind, Plan, Role};
pub use start::init_shared_info;
pub use tables::TableEntry;

#[cfg(test)]
mod testelf;
#[cfg(test)]
mod tests;
