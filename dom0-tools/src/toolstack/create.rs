//! Making a domain.
//!
//! A [`CreateJob`] is stepped until it is done; each step is bounded, so that dom0's other services go
//! on. The order is the ABI's: domain, limits, memory, contents, page tables pinned, grants, vcpu 0,
//! nodes, services, start. When any step fails, or the job is given up, everything done so far is
//! undone: free memory and xenstore are as before.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef, Mfn, Pfn, VcpuId};
use pv_image::{BuildConfig, FrameMap, KernelImage, PageKind, Plan, Role, init_shared_info};

use super::adjust::MAX_MEM_SLACK_KIB;
use super::error::Doing;
use super::ports::{CreateDomain, DiskInfo, MAX_BATCH, Page};
use super::{Env, Error, control, hotplug, nodes, teardown};
use crate::cfg::{DiskAccess, DomainConfig};

/// Largest kernel that is unpacked, bytes.
pub const MAX_KERNEL: usize = 256 << 20;

const PAGES_PER_MIB: u64 = 256;
/// What the hypervisor takes for a domain besides its memory (KiB): the domain, vcpus, grant frames.
const OVERHEAD_KIB: u64 = 1024;
/// Grant references that the ABI reserves.
const CONSOLE_GREF: GrantRef = GrantRef::new(0);
const XENSTORE_GREF: GrantRef = GrantRef::new(1);

/// How a domain is to be made, besides its configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// Leave it paused.
    pub paused: bool,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Step again.
    More,
    /// The domain is there.
    Done(DomId),
}

/// A domain in the making. Borrows the unpacked kernel and the ramdisk.
pub struct CreateJob<'a> {
    config: &'a DomainConfig,
    options: CreateOptions,
    kernel: KernelImage<'a>,
    ramdisk: Option<&'a [u8]>,
    disks: Vec<DiskInfo>,
    mfns: Vec<Mfn>,
    stage: Stage<'a>,
    /// Set as soon as there is something to undo.
    made: Option<Made>,
}

#[derive(Clone, Copy)]
struct Made {
    dom: DomId,
    handle: [u8; 16],
}

enum Stage<'a> {
    Begin,
    Populate { next: usize },
    Wire,
    Load { wired: Box<Wired<'a>>, next: u64 },
    Over,
}

/// What is known once the domain has memory and ports.
struct Wired<'a> {
    plan: Plan<'a>,
    store_port: EvtchnPort,
    console_port: EvtchnPort,
    shared_info: Mfn,
}

impl<'a> CreateJob<'a> {
    /// Prepares a job; nothing is made yet. `kernel` is an ELF: see [`pv_image::unpack`].
    ///
    /// # Errors
    /// `Image`: the kernel is refused.
    pub fn new(
        config: &'a DomainConfig,
        kernel: &'a [u8],
        ramdisk: Option<&'a [u8]>,
        options: CreateOptions,
    ) -> Result<Self, Error> {
        let kernel = KernelImage::parse(kernel)
            .map_err(|error| Error::Image { kernel: config.kernel.clone(), error })?;
        Ok(Self {
            config,
            options,
            kernel,
            ramdisk,
            disks: Vec::new(),
            mfns: Vec::new(),
            stage: Stage::Begin,
            made: None,
        })
    }

    /// The domain in the making, once it has a number.
    #[must_use]
    pub fn domid(&self) -> Option<DomId> {
        self.made.map(|made| made.dom)
    }

    /// Goes on for a bounded time. After an error everything has been undone.
    ///
    /// # Errors
    /// Whatever stopped it.
    pub fn step(&mut self, env: &mut Env<'_>) -> Result<Progress, Error> {
        let result = self.advance(env);
        if result.is_err() {
            self.abandon(env);
        }
        result
    }

    /// Gives the job up and undoes what was done. Does nothing to a domain that is complete.
    pub fn abandon(&mut self, env: &mut Env<'_>) {
        self.stage = Stage::Over;
        if let Some(made) = self.made.take() {
            // There is nobody to tell: the error that led here is the one to report.
            let _ = teardown::release(env, made.dom, Some(&made.handle));
        }
    }

    fn advance(&mut self, env: &mut Env<'_>) -> Result<Progress, Error> {
        self.stage = match core::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Begin => {
                self.check(env)?;
                self.make(env)?;
                Stage::Populate { next: 0 }
            }
            Stage::Populate { next } => self.populate(env, next)?,
            Stage::Wire => Stage::Load { wired: Box::new(self.wire(env)?), next: 0 },
            Stage::Load { wired, next } if next < wired.plan.used_pages() => {
                let next = self.load(env, &wired, next)?;
                Stage::Load { wired, next }
            }
            Stage::Load { wired, .. } => {
                let dom = self.finish(env, &wired)?;
                self.made = None;
                return Ok(Progress::Done(dom));
            }
            // Stepped on after its end.
            Stage::Over => {
                return Err(Error::Refused { doing: "creating", errno: pv_abi::errno::Errno::Inval });
            }
        };
        Ok(Progress::More)
    }

    /// What can be known before anything is made.
    fn check(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        if control::find_name(env, &self.config.name)?.is_some() {
            return Err(Error::NameInUse(self.config.name.clone()));
        }
        for disk in &self.config.disks {
            let info = hotplug::check_disk(env, disk)?;
            let mut earlier = self.config.disks.iter().zip(&self.disks);
            let twin = earlier.find(|(_, other)| other.physical_device == info.physical_device);
            if twin.is_some_and(|(other, _)| [other.access, disk.access].contains(&DiskAccess::ReadWrite)) {
                return Err(Error::DiskTwice(disk.target.clone()));
            }
            self.disks.push(info);
        }
        for (number, vif) in (0..).zip(&self.config.vifs) {
            let mac = vif.address(&self.config.name, number);
            if nodes::has_mac(env.store, mac) {
                return Err(Error::MacInUse(mac));
            }
        }
        let free = env.hv.host_info().doing("asking for free memory")?.free_pages;
        let need_kib = self.config.memory_mib * 1024 + OVERHEAD_KIB;
        let free_kib = free.saturating_mul(4);
        if need_kib > free_kib {
            return Err(Error::NoMemory { need_kib, free_kib });
        }
        // The layout does not depend on ports: whatever is wrong with it shows here already. A plan grows with the
        // domain; now it is known that the machine could hold that.
        let role = Role::DomU { store_port: 0, console_port: 0 };
        let plan = Plan::new(self.kernel.clone(), self.ramdisk, build_config(self.config, role));
        plan.map(drop).map_err(|error| self.image_error(error))
    }

    fn make(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        let handle = match self.config.uuid {
            Some(uuid) => uuid,
            None => env.services.random_uuid(),
        };
        let params = CreateDomain {
            handle,
            max_vcpus: self.config.maxvcpus,
            max_evtchn_port: self.config.event_channels,
            max_grant_frames: 64,
            max_maptrack_frames: 1024,
        };
        let dom = env.hv.create_domain(&params).doing("creating the domain")?;
        self.made = Some(Made { dom, handle });
        env.store.forget_domain(dom);
        nodes::claim_name(env.store, dom, &handle, &self.config.name).doing("writing xenstore")?;
        env.hv.set_max_vcpus(dom, self.config.maxvcpus).doing("giving it vcpus")?;
        let max_kib = self.config.maxmem_mib * 1024 + MAX_MEM_SLACK_KIB;
        env.hv.set_max_mem(dom, max_kib).doing("setting its memory limit")?;
        // Room to grow into: a balloon knows of no memory beyond its map.
        let map_bytes = self.config.maxmem_mib * PAGES_PER_MIB * PAGE_SIZE as u64;
        env.hv.set_memory_map(dom, map_bytes).doing("setting its memory map")?;
        let pages = usize::try_from(nr_pages(self.config)).unwrap_or(usize::MAX);
        if self.mfns.try_reserve_exact(pages).is_err() {
            return Err(Error::Refused { doing: "planning its memory", errno: pv_abi::errno::Errno::NoMem });
        }
        self.mfns.resize(pages, Mfn::INVALID);
        Ok(())
    }

    fn dom(&self) -> Result<DomId, Error> {
        // Every stage but the first has one.
        self.domid().ok_or(Error::Refused { doing: "creating", errno: pv_abi::errno::Errno::Srch })
    }

    fn populate(&mut self, env: &mut Env<'_>, next: usize) -> Result<Stage<'a>, Error> {
        let dom = self.dom()?;
        let end = next.saturating_add(MAX_BATCH).min(self.mfns.len());
        let batch = self.mfns.get_mut(next..end).unwrap_or_default();
        let wanted = batch.len();
        let got = env.hv.populate(dom, Pfn::new(next as u64), batch).doing("giving it memory")?;
        if got < wanted {
            let need_kib = self.config.memory_mib * 1024;
            return Err(Error::NoMemory { need_kib, free_kib: (next.saturating_add(got) as u64) * 4 });
        }
        Ok(if end == self.mfns.len() { Stage::Wire } else { Stage::Populate { next: end } })
    }

    /// Ports, shared_info and with them the plan.
    fn wire(&mut self, env: &mut Env<'_>) -> Result<Wired<'a>, Error> {
        let dom = self.dom()?;
        let store_port = env.hv.alloc_unbound(dom, DomId::DOM0).doing("making its xenstore port")?;
        let console_port = env.hv.alloc_unbound(dom, DomId::DOM0).doing("making its console port")?;
        let info = env.hv.domain_info(dom).doing("asking for its shared_info")?;
        write_shared_info(env, dom, info.shared_info)?;
        let role = Role::DomU { store_port: store_port.raw(), console_port: console_port.raw() };
        let plan = Plan::new(self.kernel.clone(), self.ramdisk, build_config(self.config, role));
        let plan = plan.map_err(|error| self.image_error(error))?;
        Ok(Wired { plan, store_port, console_port, shared_info: info.shared_info })
    }

    fn image_error(&self, error: pv_image::ImageError) -> Error {
        Error::Image { kernel: self.config.kernel.clone(), error }
    }

    /// Fills one batch of pages from `next` on; gives where to go on.
    fn load(&mut self, env: &mut Env<'_>, wired: &Wired<'_>, mut next: u64) -> Result<u64, Error> {
        let dom = self.dom()?;
        let mut pfns = vec![];
        let mut frames = vec![];
        // Skipping costs little, but not nothing: bounded like the batch itself.
        let horizon = wired.plan.used_pages().min(next.saturating_add(16 * MAX_BATCH as u64));
        while next < horizon && pfns.len() < MAX_BATCH {
            let pfn = Pfn::new(next);
            next += 1;
            if needs_writing(&wired.plan, pfn) {
                frames.push(self.frame(pfn)?);
                pfns.push(pfn);
            }
        }
        if pfns.is_empty() {
            return Ok(next);
        }
        let mut failed = None;
        let mfns: &[Mfn] = &self.mfns;
        let written = env.hv.write_frames(dom, &frames, &mut |index, page| {
            let pfn = *pfns.get(index)?;
            let whole = wired.plan.whole_page(pfn);
            if whole.is_none() {
                let rendered = wired.plan.render(pfn, mfns, wired.shared_info.to_maddr(), page);
                failed = failed.take().or(rendered.err());
            }
            whole
        });
        written.doing("writing its memory")?;
        failed.map_or(Ok(next), |error| Err(self.image_error(error)))
    }

    fn frame(&self, pfn: Pfn) -> Result<Mfn, Error> {
        let frame = self.mfns.as_slice().mfn(pfn);
        frame.ok_or_else(|| self.image_error(pv_image::ImageError::NoFrame(pfn.raw())))
    }

    /// The rings' frames: xenstore, console.
    fn rings(&self, wired: &Wired<'_>) -> Result<(Mfn, Mfn), Error> {
        let layout = wired.plan.layout();
        let frame = |pfn: Option<u64>| self.frame(Pfn::new(pfn.unwrap_or(u64::MAX)));
        Ok((frame(layout.store)?, frame(layout.console)?))
    }

    fn finish(&mut self, env: &mut Env<'_>, wired: &Wired<'_>) -> Result<DomId, Error> {
        let dom = self.dom()?;
        if let Some(page) = wired.plan.hypercall_page() {
            env.hv.init_hypercall_page(dom, self.frame(page)?).doing("writing its hypercall page")?;
        }
        let l4 = self.frame(wired.plan.l4())?;
        env.hv.pin_l4(dom, l4).doing("pinning its page tables")?;
        let (store, console) = self.rings(wired)?;
        env.hv.seed_grant(dom, CONSOLE_GREF, DomId::DOM0, console).doing("granting its console")?;
        env.hv.seed_grant(dom, XENSTORE_GREF, DomId::DOM0, store).doing("granting its xenstore ring")?;
        // Events stay masked until the guest is ready for them: the builder's part of the ABI.
        write_shared_info(env, dom, wired.shared_info)?;
        let vcpu = wired.plan.initial_vcpu();
        env.hv.set_vcpu_context(dom, VcpuId::new(0), &vcpu, l4).doing("setting vcpu 0")?;
        self.publish(env, wired, store, console)?;
        if !self.options.paused {
            env.hv.unpause(dom).doing("starting it")?;
        }
        Ok(dom)
    }

    /// Nodes and services.
    fn publish(&self, env: &mut Env<'_>, wired: &Wired<'_>, store: Mfn, console: Mfn) -> Result<(), Error> {
        let dom = self.dom()?;
        let writing = "writing xenstore";
        nodes::describe(env.store, dom, self.config).doing(writing)?;
        let (store_ring, console_ring) = ((store, wired.store_port), (console, wired.console_port));
        nodes::rings(env.store, dom, store_ring, console_ring).doing(writing)?;
        env.services.store_introduce(dom, store, wired.store_port).doing("connecting it to xenstore")?;
        let name = self.config.name.to_string();
        env.services
            .console_attach(dom, &name, console, wired.console_port)
            .doing("connecting its console")?;
        for (disk, info) in self.config.disks.iter().zip(&self.disks) {
            nodes::vbd(env.store, dom, disk, info).doing(writing)?;
        }
        for (number, vif) in (0..).zip(&self.config.vifs) {
            let mac = vif.address(&self.config.name, number);
            nodes::vif(env.store, dom, number, vif, mac).doing(writing)?;
        }
        Ok(())
    }
}

fn nr_pages(config: &DomainConfig) -> u64 {
    config.memory_mib * PAGES_PER_MIB
}

fn build_config(config: &DomainConfig, role: Role) -> BuildConfig<'_> {
    BuildConfig { role, nr_pages: nr_pages(config), cmdline: config.cmdline.as_bytes() }
}

/// A guest finds its upcalls masked: it has no handler for them yet.
fn write_shared_info(env: &mut Env<'_>, dom: DomId, frame: Mfn) -> Result<(), Error> {
    let mut initialise = |_: usize, page: &mut Page| {
        init_shared_info(page);
        None
    };
    env.hv.write_frames(dom, &[frame], &mut initialise).doing("writing its shared_info")
}

/// New frames are zero; of the plan's zero pages only the rings are written, for their other end is us.
fn needs_writing(plan: &Plan<'_>, pfn: Pfn) -> bool {
    let layout = plan.layout();
    let ring = [layout.store, layout.console].contains(&Some(pfn.raw()));
    ring || plan.kind(pfn) != PageKind::Zero
}
