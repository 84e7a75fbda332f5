//! The little of hv-core's ports that a flush before a new use needs.

/// A set of pcpus: here one or none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuMask(u64);

impl CpuMask {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What to drop from a TLB.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlushScope {
    All,
}

pub(crate) trait Tlb {
    fn flush(&self, cpus: CpuMask, scope: FlushScope);
    fn flush_clock(&self) -> u64;
    fn stale_since(&self, cpus: CpuMask, stamp: u64) -> CpuMask;
}

pub(crate) trait Cpu {
    fn online(&self) -> CpuMask;
}
