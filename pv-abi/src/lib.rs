//! Numbers and layouts of the Xen PV ABI for x86-64.
#![no_std]
#![forbid(unsafe_code)]
