//! What only x86-64 hardware understands. All of the image's unsafe code but the heap's and the per-CPU area's is here.

pub(crate) mod acpi;
pub(crate) mod backtrace;
pub(crate) mod boot;
pub(crate) mod cpu;
pub(crate) mod entry;
pub(crate) mod irq;
pub(crate) mod mm;
pub(crate) mod power;
pub(crate) mod time;
pub(crate) mod uart;
