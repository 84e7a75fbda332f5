//! Numbers and layouts of the Xen PV ABI for x86-64 (`xen-3.0-x86_64`), for both sides of it.
//!
//! The crate holds facts only: what a number is called, how a structure lies in memory, which bits a field has. The
//! control interfaces (domctl, sysctl) are those of 4.17. It decides nothing and touches no machine.
//!
//! Three kinds of items:
//! - *identifiers* ([`ids`]): newtypes that do not convert into one another;
//! - *wire structures*: `#[repr(C)]`, any bit pattern valid, copied in and out as bytes; guest handles are `u64`;
//! - *live pages* ([`shared_info`], [`io`]): structs of atomics, because the other side writes them at any time.
//!
//! Every item carries its ABI name as a search alias.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

mod atomic;
pub mod callback;
pub mod console;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod evtchn;
pub mod frame;
pub mod grant;
pub mod hypercall;
pub mod ids;
pub mod io;
pub mod memory;
pub mod mmu;
pub mod nmi;
pub mod physdev;
pub mod platform;
pub mod pte;
pub mod sched;
pub mod shared_info;
pub mod start_info;
pub mod sysctl;
pub mod trap;
pub mod vcpu;
pub mod version;
pub mod vm_assist;
