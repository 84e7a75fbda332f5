//! Building dom0: the one domain that the hypervisor builds itself.
//!
//! The layout is [`pv_image`]'s plan. Its page tables are written like any data and then go through the same checks as a
//! guest's, so a fault in the plan is found here and not at run time.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use pv_abi::errno::Errno;
use pv_abi::frame::{PAGE_SIZE, PAGE_SIZE_U64};
use pv_abi::ids::{DomId, MachAddr, Mfn, Pfn, VcpuId};
use pv_abi::trap::{VcpuGuestContext, VgcfFlags, mfn_to_cr3};
use pv_image::{BuildConfig, FrameMap, ImageError, KernelImage, Plan, Role};

use super::context::{self, NotSet, Which};
use super::create::{self, Config};
use super::{Domain, lifecycle};
use crate::access::Privilege;
use crate::cmdline::Dom0Memory;
use crate::frame::{FrameError, MAX_ORDER};
use crate::hv::Hypervisor;
use crate::mm::{Pt, TableError};
use crate::port::Machine;

/// Largest kernel, unpacked.
const MAX_KERNEL_BYTES: usize = 512 << 20;
/// Frames that stay free whatever is asked for: dom0's own tables in the hypervisor and the first guests need some.
const MIN_RESERVE: u64 = 1024;
/// Frames that stay free at most where nothing is asked for: 128 MiB.
const MAX_RESERVE: u64 = 32768;

/// How dom0 shall be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dom0Config {
    /// Its memory.
    pub memory: Dom0Memory,
    /// Its vcpus.
    pub vcpus: u32,
}

/// Why dom0 cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dom0Error {
    /// The kernel, the ramdisk or the command line.
    Image(ImageError),
    /// There is not enough memory.
    NoMemory,
    /// A step that should not fail did.
    Failed(&'static str, Errno),
}

impl From<ImageError> for Dom0Error {
    fn from(e: ImageError) -> Self {
        Self::Image(e)
    }
}

impl fmt::Display for Dom0Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(e) => write!(f, "kernel: {e}"),
            Self::NoMemory => f.write_str("not enough memory"),
            Self::Failed(what, e) => write!(f, "{what}: {e}"),
        }
    }
}

impl core::error::Error for Dom0Error {}

/// Dom0's frames in pfn order: runs of consecutive ones, so that the list stays short.
#[derive(Debug, Default)]
struct Runs {
    runs: Vec<Run>,
    total: u64,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    pfn: u64,
    mfn: u64,
    len: u64,
}

impl Runs {
    fn add(&mut self, mfn: Mfn, len: u64) -> Result<(), FrameError> {
        let next = mfn.raw();
        match self.runs.last_mut() {
            Some(last) if last.mfn + last.len == next => last.len += len,
            _ => {
                self.runs.try_reserve(1).map_err(|_| FrameError::NoMemory)?;
                self.runs.push(Run { pfn: self.total, mfn: next, len });
            }
        }
        self.total += len;
        Ok(())
    }
}

impl FrameMap for Runs {
    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        let pfn = pfn.raw();
        let index = self.runs.partition_point(|r| r.pfn + r.len <= pfn);
        let run = self.runs.get(index).filter(|r| r.pfn <= pfn)?;
        Some(Mfn::new(run.mfn + (pfn - run.pfn)))
    }
}

/// Builds dom0 and lets it run.
///
/// # Errors
/// See [`Dom0Error`]; the machine has no dom0 then.
pub fn build_dom0<M: Machine>(
    hv: &Hypervisor,
    m: &M,
    kernel: &[u8],
    ramdisk: Option<&[u8]>,
    cmdline: &[u8],
    config: &Dom0Config,
) -> Result<Arc<Domain>, Dom0Error> {
    let elf = pv_image::unpack(kernel, MAX_KERNEL_BYTES)?;
    let image = KernelImage::parse(&elf)?;
    let nr_pages = pages(hv.frames.free_frames(), &config.memory).ok_or(Dom0Error::NoMemory)?;
    let build = BuildConfig { role: Role::Dom0 { console: None }, nr_pages, cmdline };
    let plan = Plan::new(image, ramdisk, build)?;
    let dom = new_domain(hv, m, config, nr_pages)?;
    let frames = allocate(hv, m, &dom, nr_pages).map_err(|_| Dom0Error::NoMemory)?;
    fill(m, &plan, &frames, dom.shared_info.to_maddr())?;
    fill_hypercall_page(m, &plan, &frames);
    let root = frames.mfn(plan.l4()).ok_or(Dom0Error::NoMemory)?;
    pin(hv, m, &dom, root)?;
    start_vcpu(hv, m, &dom, &plan, root)?;
    log::info!("d0: {nr_pages} pages, {} vcpus, entry {:#x}", config.vcpus, plan.initial_vcpu().rip.raw());
    lifecycle::unpause_by_controller(hv, m, &dom).map_err(|e| Dom0Error::Failed("unpause", e))?;
    Ok(dom)
}

/// How many pages dom0 gets of `free` ones: what is asked for, else all but a sixteenth (at most 128 MiB).
fn pages(free: u64, memory: &Dom0Memory) -> Option<u64> {
    let frames = |bytes: u64| bytes / PAGE_SIZE_U64;
    let most = free.checked_sub(MIN_RESERVE)?;
    let usual = free - (free / 16).clamp(MIN_RESERVE, MAX_RESERVE);
    let wanted = memory.bytes.map_or(usual, frames);
    let wanted = wanted.max(memory.min.map_or(0, frames)).min(memory.max.map_or(u64::MAX, frames));
    Some(wanted.min(most)).filter(|&n| n != 0)
}

fn new_domain<M: Machine>(
    hv: &Hypervisor,
    m: &M,
    config: &Dom0Config,
    nr_pages: u64,
) -> Result<Arc<Domain>, Dom0Error> {
    let most = config.memory.max.map_or(u64::MAX, |bytes| bytes / PAGE_SIZE_U64);
    let config = Config {
        privilege: Privilege::Control,
        max_vcpus: config.vcpus.clamp(1, create::MAX_VCPUS),
        max_pages: most.max(nr_pages),
        ..Config::unprivileged()
    };
    let failed = |e| Dom0Error::Failed("domain", e);
    let dom = create::create(hv, m, DomId::DOM0, &config).map_err(failed)?;
    create::add_vcpus(hv, m, &dom).map_err(failed)?;
    Ok(dom)
}

/// Takes the frames in the largest pieces there are, and notes their pfns in the machine-to-physical table.
fn allocate<M: Machine>(hv: &Hypervisor, m: &M, dom: &Domain, nr_pages: u64) -> Result<Runs, FrameError> {
    let mut frames = Runs::default();
    let mut order = MAX_ORDER;
    while frames.total < nr_pages {
        let left = nr_pages - frames.total;
        order = order.min(left.ilog2());
        let len = 1_u64 << order;
        match hv.frames.alloc_for(m, &dom.mem, order, 0) {
            Ok(first) => {
                for n in 0..len {
                    m.set_m2p(Mfn::new(first.raw() + n), frames.total + n);
                }
                frames.add(first, len)?;
            }
            Err(FrameError::NoMemory) if order != 0 => order -= 1,
            Err(e) => return Err(e),
        }
    }
    Ok(frames)
}

/// Writes the pages that the plan has something for; the others are zeros already.
fn fill<M: Machine>(m: &M, plan: &Plan<'_>, frames: &Runs, shared_info: MachAddr) -> Result<(), Dom0Error> {
    let mut page = Box::new([0; PAGE_SIZE]);
    for pfn in (0..plan.used_pages()).map(Pfn::new) {
        if plan.render(pfn, frames, shared_info, &mut page)? != pv_image::PageKind::Zero
            && let Some(mfn) = frames.mfn(pfn)
        {
            m.write(mfn, 0, page.as_slice());
        }
    }
    Ok(())
}

fn fill_hypercall_page<M: Machine>(m: &M, plan: &Plan<'_>, frames: &Runs) {
    if let Some(mfn) = plan.hypercall_page().and_then(|pfn| frames.mfn(pfn)) {
        let mut page = Box::new([0; PAGE_SIZE]);
        m.read(mfn, 0, page.as_mut_slice());
        pv_image::hypercall_page::fill(&mut page);
        m.write(mfn, 0, page.as_slice());
    }
}

/// Nobody else runs yet, so that a preempted step is simply taken again.
fn pin<M: Machine>(hv: &Hypervisor, m: &M, dom: &Domain, root: Mfn) -> Result<(), Dom0Error> {
    let pt = Pt { frames: &hv.frames, m, slot: &dom.mm.teardown };
    loop {
        let step = pt.finish().and_then(|()| pt.pin_initial_root(dom, root)).and_then(|()| pt.settle());
        match step {
            Ok(()) => return Ok(()),
            Err(TableError::Again) => hv_sync::relax(),
            Err(TableError::Errno(e)) => return Err(Dom0Error::Failed("page tables", e)),
        }
    }
}

fn start_vcpu<M: Machine>(
    hv: &Hypervisor,
    m: &M,
    dom: &Domain,
    plan: &Plan<'_>,
    root: Mfn,
) -> Result<(), Dom0Error> {
    let v = dom.vcpu(VcpuId::new(0)).ok_or(Dom0Error::NoMemory)?;
    let ctx = initial_context(plan, root);
    loop {
        match context::set(hv, m, dom, &v, &ctx, Which::New) {
            Ok(()) => return Ok(()),
            Err(NotSet::Again) => hv_sync::relax(),
            Err(NotSet::Failed(e)) => return Err(Dom0Error::Failed("first vcpu", e)),
        }
    }
}

/// The registers of start of day; all that are not named are zero.
fn initial_context(plan: &Plan<'_>, root: Mfn) -> Box<VcpuGuestContext> {
    let first = plan.initial_vcpu();
    let mut ctx: Box<VcpuGuestContext> = Box::default();
    ctx.flags = (VgcfFlags::IN_KERNEL | VgcfFlags::ONLINE).bits();
    ctx.user_regs.rip = first.rip.raw();
    ctx.user_regs.rsp = first.rsp.raw();
    ctx.user_regs.rsi = first.rsi.raw();
    ctx.user_regs.rflags = first.rflags;
    ctx.user_regs.cs = first.cs;
    ctx.user_regs.ss = first.ss;
    ctx.kernel_ss = u64::from(first.ss);
    ctx.kernel_sp = first.rsp.raw();
    ctx.ctrlreg[3] = mfn_to_cr3(root);
    ctx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dom0_gets_all_but_a_sixteenth_unless_it_is_told_otherwise() {
        let any = Dom0Memory::default();
        assert_eq!(pages(160_000, &any), Some(150_000));
        assert_eq!(pages(16_000_000, &any), Some(16_000_000 - 32768));
        assert_eq!(pages(1000, &any), None);
        let asked = Dom0Memory { bytes: Some(512 << 20), ..any };
        assert_eq!(pages(1 << 20, &asked), Some(131_072));
        assert_eq!(pages(100_000, &asked), Some(100_000 - MIN_RESERVE));
        let capped = Dom0Memory { max: Some(1 << 30), ..any };
        assert_eq!(pages(1 << 20, &capped), Some(262_144));
    }

    #[test]
    fn runs_find_each_frame() {
        let mut runs = Runs::default();
        for (mfn, len) in [(100, 4), (104, 4), (50, 1), (200, 2)] {
            assert_eq!(runs.add(Mfn::new(mfn), len), Ok(()));
        }
        let found: Vec<_> = (0..12).map(|n| FrameMap::mfn(&runs, Pfn::new(n)).map(Mfn::raw)).collect();
        let want = [100, 101, 102, 103, 104, 105, 106, 107, 50, 200, 201].map(Some);
        assert_eq!(found[..11], want);
        assert_eq!(found[11], None);
        assert_eq!(runs.runs.len(), 3);
    }
}
