//! The little of hv-core's ports that flushes and the scheduler need.

pub use hv_core::port::CpuMask;
use pv_abi::ids::PcpuId;

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

pub trait Cpu {
    fn online(&self) -> CpuMask {
        CpuMask::from_bits(1)
    }
    fn pcpu(&self) -> PcpuId {
        PcpuId::new(0)
    }
    fn request_resched(&self) {}
    fn request_exit_work(&self) {}
}

pub trait Clock {
    fn now_ns(&self) -> u64;
    fn set_deadline(&self, _: Option<u64>) {}
}

pub trait Notify {
    fn kick(&self, cpu: PcpuId);
}
