//! Other domains: making, watching and ending them.
//!
//! Restarts of long operations happen in the hypervisor; a caller sees only their end.

#![expect(unsafe_code, reason = "domctl, memory and mmuext hypercalls for other domains")]

use alloc::boxed::Box;
use alloc::vec::Vec;

use pv_abi::domctl::{
    AffinityFlags, Domctl, DomctlCmd, DomctlCreatedomain, DomctlGetdomaininfo, DomctlGetvcpuinfo,
    DomctlHypercallInit, DomctlMaxMem, DomctlMaxVcpus, DomctlVcpuaffinity, DomctlVcpucontext, XenctlBitmap,
};
use pv_abi::ids::{DomId, Mfn, Pfn, VcpuId};
use pv_abi::memory::{MemResource, MemoryOp, XenMemAcquireResource, XenMemoryReservation};
use pv_abi::mmu::MmuextCmd;
use pv_abi::trap::VcpuGuestContext;
use zerocopy::{Immutable, IntoBytes};

use super::foreign::{must_be_foreign, must_be_foreign_frame};
use crate::hypercall::{Errno, Result, address_of, memory_op, mmu, table};

/// Attempts at an operation that asks to be repeated.
const ATTEMPTS: usize = 1 << 16;

/// Carries out `op`.
///
/// # Safety
/// An address in the payload must be good for what the command does with it.
unsafe fn run(op: &mut Domctl) -> Result {
    for _ in 0..ATTEMPTS {
        // SAFETY: the structure is borrowed exclusively meanwhile; its payload is as the caller promised.
        match unsafe { table::domctl([address_of(&raw const *op)]) } {
            Err(Errno::Restart | Errno::Again) => crate::sched::yield_now(),
            other => return other.map(drop),
        }
    }
    Err(Errno::Again)
}

/// A command whose payload holds no address.
fn plain<T: IntoBytes + Immutable>(cmd: DomctlCmd, dom: DomId, payload: &T) -> Result<Domctl> {
    let mut op = Domctl::new(cmd, dom, payload);
    // SAFETY: no address in the payload.
    unsafe { run(&mut op) }?;
    Ok(op)
}

/// Makes an empty domain, paused. The hypervisor chooses its number.
pub fn create(params: &DomctlCreatedomain) -> Result<DomId> {
    // Zero stands for "any free number".
    plain(DomctlCmd::CreateDomain, DomId::new(0), params).map(|op| DomId::new(op.domain))
}

/// Ends a domain and frees what it has.
pub fn destroy(dom: DomId) -> Result {
    plain(DomctlCmd::DestroyDomain, dom, &[0_u8; 0]).map(drop)
}

/// Stops running a domain.
pub fn pause(dom: DomId) -> Result {
    plain(DomctlCmd::PauseDomain, dom, &[0_u8; 0]).map(drop)
}

/// Goes on running a domain.
pub fn unpause(dom: DomId) -> Result {
    plain(DomctlCmd::UnpauseDomain, dom, &[0_u8; 0]).map(drop)
}

/// Gives a domain its vcpus, once.
pub fn set_max_vcpus(dom: DomId, max: u32) -> Result {
    plain(DomctlCmd::MaxVcpus, dom, &DomctlMaxVcpus { max }).map(drop)
}

/// Limits a domain's memory.
pub fn set_max_mem(dom: DomId, kib: u64) -> Result {
    plain(DomctlCmd::MaxMem, dom, &DomctlMaxMem { max_memkb: kib }).map(drop)
}

/// What the hypervisor knows about the domain, or about the next one if there is none of that number.
pub fn info(dom: DomId) -> Result<DomctlGetdomaininfo> {
    plain(DomctlCmd::GetDomainInfo, dom, &DomctlGetdomaininfo::default()).map(|op| op.payload())
}

/// What the hypervisor knows about a vcpu.
pub fn vcpu_info(dom: DomId, vcpu: VcpuId) -> Result<DomctlGetvcpuinfo> {
    let payload = DomctlGetvcpuinfo { vcpu: vcpu.raw(), ..DomctlGetvcpuinfo::default() };
    plain(DomctlCmd::GetVcpuInfo, dom, &payload).map(|op| op.payload())
}

/// Has the hypervisor write its call stubs into a frame of the domain.
pub fn init_hypercall_page(dom: DomId, frame: Mfn) -> Result {
    must_be_foreign_frame(frame)?;
    plain(DomctlCmd::HypercallInit, dom, &DomctlHypercallInit { gmfn: frame.raw() }).map(drop)
}

/// Reads a vcpu's registers.
pub fn vcpu_context(dom: DomId, vcpu: VcpuId) -> Result<Box<VcpuGuestContext>> {
    let mut context = Box::<VcpuGuestContext>::default();
    let ctxt = address_of(&raw mut *context);
    let payload = DomctlVcpucontext { vcpu: vcpu.raw(), ctxt, ..DomctlVcpucontext::default() };
    // SAFETY: the context is exclusively ours and of the type that is written.
    unsafe { run(&mut Domctl::new(DomctlCmd::GetVcpuContext, dom, &payload)) }?;
    Ok(context)
}

/// Which pcpus a vcpu may run on, a bit each, lowest pcpu first.
pub fn vcpu_affinity(dom: DomId, vcpu: VcpuId) -> Result<[u8; 16]> {
    affinity(DomctlCmd::GetVcpuAffinity, dom, vcpu, [0; 16])
}

/// Sets which pcpus a vcpu may run on.
pub fn set_vcpu_affinity(dom: DomId, vcpu: VcpuId, pcpus: [u8; 16]) -> Result {
    affinity(DomctlCmd::SetVcpuAffinity, dom, vcpu, pcpus).map(drop)
}

fn affinity(cmd: DomctlCmd, dom: DomId, vcpu: VcpuId, mut hard: [u8; 16]) -> Result<[u8; 16]> {
    let cpumap_hard =
        XenctlBitmap { bitmap: address_of(&raw mut hard), nr_bits: 128, ..XenctlBitmap::default() };
    let flags = AffinityFlags::HARD.bits();
    let payload =
        DomctlVcpuaffinity { vcpu: vcpu.raw(), flags, cpumap_hard, ..DomctlVcpuaffinity::default() };
    // SAFETY: the map has 128 bits, is ours, and outlives the call.
    unsafe { run(&mut Domctl::new(cmd, dom, &payload)) }?;
    Ok(hard)
}

/// Sets a vcpu's first registers.
pub fn set_vcpu_context(dom: DomId, vcpu: VcpuId, context: &VcpuGuestContext) -> Result {
    let ctxt = address_of(&raw const *context);
    let payload = DomctlVcpucontext { vcpu: vcpu.raw(), ctxt, ..DomctlVcpucontext::default() };
    // SAFETY: the context is only read, and borrowed meanwhile.
    unsafe { run(&mut Domctl::new(DomctlCmd::SetVcpuContext, dom, &payload)) }
}

/// Gives a domain frames for its pfns `first..first + mfns.len()`. Returns how many it got, with their numbers at
/// the start of `mfns`; fewer when memory or the domain's limit ran out.
pub fn populate(dom: DomId, first: Pfn, mfns: &mut [Mfn]) -> Result<usize> {
    must_be_foreign(dom)?;
    let mut extents: Vec<u64> = (first.raw()..).take(mfns.len()).collect();
    let mut argument = XenMemoryReservation {
        extent_start: address_of(extents.as_mut_slice()),
        nr_extents: mfns.len() as u64,
        domid: dom.raw(),
        ..XenMemoryReservation::default()
    };
    // SAFETY: the hypervisor replaces the numbers in `extents`, which has that many.
    let done = unsafe { memory_op(MemoryOp::PopulatePhysmap, &mut argument) }?;
    for (mfn, raw) in mfns.iter_mut().zip(&extents) {
        *mfn = Mfn::new(*raw);
    }
    Ok(usize::try_from(done).unwrap_or(0).min(mfns.len()))
}

/// The machine frame of a page of the domain's grant table, which grows as far as needed.
pub fn grant_table_frame(dom: DomId, frame: u64) -> Result<Mfn> {
    must_be_foreign(dom)?;
    let mut mfn = [0_u64];
    let mut argument = XenMemAcquireResource {
        domid: dom.raw(),
        kind: MemResource::GrantTable.raw(),
        nr_frames: 1,
        frame,
        frame_list: address_of(mfn.as_mut_slice()),
        ..XenMemAcquireResource::default()
    };
    // SAFETY: the hypervisor writes one number.
    unsafe { memory_op(MemoryOp::AcquireResource, &mut argument) }?;
    let [mfn] = mfn;
    Ok(Mfn::new(mfn))
}

/// Declares a frame of the domain to be an L4 table and keeps it one.
pub fn pin_l4(dom: DomId, frame: Mfn) -> Result {
    must_be_foreign(dom)?;
    // SAFETY: concerns the other domain's memory alone.
    unsafe { mmu::mmuext_op(&[mmu::on_frame(MmuextCmd::PinL4Table, frame)], dom) }
}
