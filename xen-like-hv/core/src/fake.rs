//! A machine of vectors, for tests on the host.
//!
//! Frames are real arrays of words; a guest's virtual memory is a map from page to bytes that a test fills with
//! [`FakeMachine::map_guest_page`]; everything else records what was asked of it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use hv_sync::{SpinLock, rank};
use pv_abi::ids::{DomId, GuestVa, Mfn, PcpuId};

use crate::entry::GuestMode;
use crate::port::{
    BadSelector, Clock, Console, Cpu, CpuMask, DeviceRegisters, Fault, FlushScope, FrameWords, Frames,
    GsiConfig, GsiUnavailable, GuestMem, Interrupts, Message, Notify, PortWidth, Power, Privileged,
    PvClockScale, RingRead, TaskSwitched, Tlb,
};

pub mod devices;
pub mod tlb;

const PAGE: u64 = 4096;

/// What a test may want to look at afterwards.
#[derive(Debug, Default)]
pub struct Effects {
    /// pcpus that were kicked, in order.
    pub kicks: Vec<PcpuId>,
    /// Flushes that were asked for, in order.
    pub flushes: Vec<(CpuMask, FlushScope)>,
    /// Roots that were loaded, in order.
    pub roots: Vec<Mfn>,
    /// Bytes that guests wrote to the console.
    pub console: Vec<u8>,
    /// Reasons with which the machine was shut down.
    pub shutdowns: Vec<u32>,
    /// Values written to MSR-like state by name, in order.
    pub registers: Vec<(&'static str, u64)>,
}

/// The machine.
#[derive(Debug)]
pub struct FakeMachine {
    frames: Vec<Box<FrameWords>>,
    m2p: Vec<AtomicU64>,
    guest: SpinLock<BTreeMap<u64, Box<[u8; 4096]>>>,
    /// Current time; tests set it.
    pub now_ns: AtomicU64,
    /// How many calls of `preempt_pending` say no before one says yes; `u64::MAX` is never.
    pub preempt_after: AtomicU64,
    /// Requests to pass through the scheduler.
    pub resched_requests: AtomicU64,
    /// Requests to look at events.
    pub exit_requests: AtomicU64,
    /// The pcpu that the test speaks for.
    pub current_pcpu: AtomicU64,
    /// How many copies from or to the guest succeed before all fail; `u64::MAX` is never.
    pub guest_fault_after: AtomicU64,
    /// How often a countdown to a fault or a preemption was due.
    pub faults_fired: AtomicU64,
    /// The flush clock and what pcpus have cached.
    pub tlb: tlb::FakeTlb,
    /// PCI devices and other registers.
    pub devices: devices::FakeDevices,
    /// What was asked.
    pub effects: SpinLock<Effects>,
}

fn index(mfn: Mfn) -> usize {
    usize::try_from(mfn.raw()).unwrap_or(usize::MAX)
}

impl FakeMachine {
    /// A machine with `nr_frames` frames of zeros.
    #[must_use]
    pub fn new(nr_frames: usize) -> Self {
        let frame = || Box::new([const { AtomicU64::new(0) }; 512]);
        Self {
            frames: (0..nr_frames).map(|_| frame()).collect(),
            m2p: (0..nr_frames).map(|_| AtomicU64::new(u64::MAX)).collect(),
            guest: SpinLock::new(rank::CONSOLE, BTreeMap::new()),
            now_ns: AtomicU64::new(0),
            preempt_after: AtomicU64::new(u64::MAX),
            resched_requests: AtomicU64::new(0),
            exit_requests: AtomicU64::new(0),
            current_pcpu: AtomicU64::new(0),
            guest_fault_after: AtomicU64::new(u64::MAX),
            faults_fired: AtomicU64::new(0),
            tlb: tlb::FakeTlb::default(),
            devices: devices::FakeDevices::default(),
            effects: SpinLock::new(rank::CONSOLE, Effects::default()),
        }
    }

    /// Gives the current guest a zeroed page at the page of `va`.
    pub fn map_guest_page(&self, va: u64) {
        self.guest.lock().insert(va / PAGE, Box::new([0; 4096]));
    }

    /// Takes the guest's page at `va` away.
    pub fn unmap_guest_page(&self, va: u64) {
        self.guest.lock().remove(&(va / PAGE));
    }

    fn each_part(
        va: GuestVa,
        len: usize,
        mut f: impl FnMut(u64, usize, usize, usize) -> bool,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = va.raw().wrapping_add(u64::try_from(done).unwrap_or(0));
            let offset = usize::try_from(at % PAGE).unwrap_or(0);
            let part = (len - done).min(4096 - offset);
            if !f(at / PAGE, offset, done, part) {
                return Err(Fault(GuestVa::new(at)));
            }
            done += part;
        }
        Ok(())
    }

    /// Counts down; true from 0 on.
    fn is_due(&self, countdown: &AtomicU64) -> bool {
        match countdown.load(Relaxed) {
            u64::MAX => false,
            0 => {
                self.faults_fired.fetch_add(1, Relaxed);
                true
            }
            n => {
                countdown.store(n - 1, Relaxed);
                false
            }
        }
    }

    /// Counts down to the guest accesses that fail: one, and all after it.
    fn guest_faults(&self) -> bool {
        self.is_due(&self.guest_fault_after)
    }

    /// Lets every pcpu cache all translations that it can reach now.
    pub fn fill_tlbs(&self) {
        self.tlb.fill_all(&self.frames);
    }

    /// Takes the root of a pcpu away, as when nothing of a guest runs there; that flushes it.
    pub fn unload_root(&self, cpu: usize) {
        self.tlb.load_root(cpu, None, &self.frames);
    }

    fn note(&self, name: &'static str, value: u64) {
        self.effects.lock().registers.push((name, value));
    }
}

impl Frames for FakeMachine {
    fn words(&self, mfn: Mfn) -> &FrameWords {
        &self.frames[index(mfn)]
    }
    fn zero(&self, mfn: Mfn) {
        for w in self.words(mfn) {
            w.store(0, Relaxed);
        }
    }
    fn copy(&self, src: Mfn, src_offset: usize, dst: Mfn, dst_offset: usize, len: usize) {
        let mut bytes = alloc::vec![0; len];
        self.read(src, src_offset, &mut bytes);
        self.write(dst, dst_offset, &bytes);
    }
    fn read(&self, mfn: Mfn, offset: usize, dst: &mut [u8]) {
        let words = self.words(mfn);
        for (i, b) in dst.iter_mut().enumerate() {
            let at = offset + i;
            *b = words[at / 8].load(Relaxed).to_le_bytes()[at % 8];
        }
    }
    fn write(&self, mfn: Mfn, offset: usize, src: &[u8]) {
        let words = self.words(mfn);
        for (i, b) in src.iter().enumerate() {
            let at = offset + i;
            let mut bytes = words[at / 8].load(Relaxed).to_le_bytes();
            bytes[at % 8] = *b;
            words[at / 8].store(u64::from_le_bytes(bytes), Relaxed);
        }
    }
    fn m2p(&self, mfn: Mfn) -> u64 {
        self.m2p[index(mfn)].load(Relaxed)
    }
    fn set_m2p(&self, mfn: Mfn, pfn: u64) {
        self.m2p[index(mfn)].store(pfn, Relaxed);
    }
    fn hypervisor_l4_entries(&self) -> [u64; 16] {
        core::array::from_fn(|i| 0xfff0_0000_0000_0063 | u64::try_from(i).unwrap_or(0) << 12)
    }
}

impl GuestMem for FakeMachine {
    fn copy_from_guest(&self, dst: &mut [u8], src: GuestVa) -> Result<(), Fault> {
        if self.guest_faults() {
            return Err(Fault(src));
        }
        let guest = self.guest.lock();
        let len = dst.len();
        Self::each_part(src, len, |page, offset, done, part| {
            guest.get(&page).is_some_and(|p| {
                dst[done..done + part].copy_from_slice(&p[offset..offset + part]);
                true
            })
        })
    }
    fn copy_to_guest(&self, dst: GuestVa, src: &[u8]) -> Result<(), Fault> {
        if self.guest_faults() {
            return Err(Fault(dst));
        }
        let mut guest = self.guest.lock();
        Self::each_part(dst, src.len(), |page, offset, done, part| {
            guest.get_mut(&page).is_some_and(|p| {
                p[offset..offset + part].copy_from_slice(&src[done..done + part]);
                true
            })
        })
    }
}

impl Tlb for FakeMachine {
    fn flush(&self, cpus: CpuMask, scope: FlushScope) {
        if scope == FlushScope::All {
            self.tlb.flush(cpus, &self.frames);
        }
        self.effects.lock().flushes.push((cpus, scope));
    }
    fn flush_local(&self, scope: FlushScope) {
        self.flush(CpuMask::of(self.pcpu()), scope);
    }
    fn flush_clock(&self) -> u64 {
        self.tlb.clock()
    }
    fn stale_since(&self, cpus: CpuMask, stamp: u64) -> CpuMask {
        self.tlb.stale_since(cpus, stamp)
    }
}

impl Notify for FakeMachine {
    fn kick(&self, cpu: PcpuId) {
        self.effects.lock().kicks.push(cpu);
    }
}

impl Clock for FakeMachine {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Relaxed)
    }
    fn wallclock_base_ns(&self) -> u64 {
        1_700_000_000_000_000_000
    }
    fn pvclock_scale(&self) -> PvClockScale {
        let now = self.now_ns();
        PvClockScale {
            tsc_timestamp: now,
            system_time_ns: now,
            mul: 0x8000_0000,
            shift: 1,
            tsc_khz: 1_000_000,
        }
    }
    fn set_deadline(&self, deadline_ns: Option<u64>) {
        self.note("deadline", deadline_ns.unwrap_or(u64::MAX));
    }
}

impl Console for FakeMachine {
    fn guest_write(&self, _dom: DomId, bytes: &[u8]) {
        self.effects.lock().console.extend_from_slice(bytes);
    }
    fn read_input(&self, _dst: &mut [u8]) -> usize {
        0
    }
    fn read_ring(&self, from: u64, dst: &mut [u8], _clear: RingRead) -> (usize, u64) {
        let effects = self.effects.lock();
        let start = usize::try_from(from).unwrap_or(usize::MAX).min(effects.console.len());
        let n = dst.len().min(effects.console.len() - start);
        dst[..n].copy_from_slice(&effects.console[start..start + n]);
        (n, from + u64::try_from(n).unwrap_or(0))
    }
}

impl Cpu for FakeMachine {
    fn pcpu(&self) -> PcpuId {
        PcpuId::new(u32::try_from(self.current_pcpu.load(Relaxed)).unwrap_or(0))
    }
    fn online(&self) -> CpuMask {
        CpuMask::from_bits(0b11)
    }
    fn preempt_pending(&self) -> bool {
        self.is_due(&self.preempt_after)
    }
    fn request_resched(&self) {
        self.resched_requests.fetch_add(1, Relaxed);
    }
    fn request_exit_work(&self) {
        self.exit_requests.fetch_add(1, Relaxed);
    }
    fn load_root(&self, root: Mfn) {
        let cpu = usize::try_from(self.current_pcpu.load(Relaxed)).unwrap_or(0);
        self.tlb.load_root(cpu, Some(root), &self.frames);
        self.effects.lock().roots.push(root);
    }
    fn enter_mode(&self, _to: GuestMode) {
        self.note("swapgs", 0);
    }
    fn set_fs_base(&self, base: u64) {
        self.note("fs_base", base);
    }
    fn fs_base(&self) -> u64 {
        0
    }
    fn set_gs_base(&self, base: u64) {
        self.note("gs_base", base);
    }
    fn gs_base(&self) -> u64 {
        0
    }
    fn set_gs_base_hidden(&self, base: u64) {
        self.note("gs_base_hidden", base);
    }
    fn gs_base_hidden(&self) -> u64 {
        0
    }
    fn load_user_gs_selector(&self, selector: u16) -> Result<(), BadSelector> {
        self.note("user_gs", u64::from(selector));
        if selector < 4 { Ok(()) } else { Err(BadSelector) }
    }
    fn set_ts(&self, ts: TaskSwitched) {
        self.note("ts", u64::from(ts == TaskSwitched::Set));
    }
    fn write_debug_register(&self, _index: u8, value: u64) {
        self.note("dr", value);
    }
    fn load_gdt(&self, _frames: &[Mfn], entries: u32) {
        self.note("gdt", u64::from(entries));
    }
    fn load_ldt(&self, _frames: &[Mfn], entries: u32) {
        self.note("ldt", u64::from(entries));
    }
    fn set_guest_cr4(&self, bits: u64) {
        self.note("cr4", bits);
    }
}

impl Privileged for FakeMachine {
    fn read_msr(&self, index: u32) -> Option<u64> {
        // Only TSC_AUX is there.
        (index == 0xc000_0103).then_some(0)
    }
    fn cpuid(&self, _leaf: u32, _subleaf: u32) -> [u32; 4] {
        [0; 4]
    }
    fn port_in(&self, _port: u16, _width: PortWidth) -> u32 {
        u32::MAX
    }
    fn port_out(&self, port: u16, _width: PortWidth, value: u32) {
        self.note("out", u64::from(port) << 32 | u64::from(value));
    }
    fn wbinvd(&self) {
        self.note("wbinvd", 0);
    }
    fn set_xcr0(&self, value: u64) {
        self.note("xcr0", value);
    }
    fn set_tsc_aux(&self, value: u32) {
        self.note("tsc_aux", u64::from(value));
    }
    fn rdtsc(&self) -> u64 {
        self.now_ns()
    }
}

impl DeviceRegisters for FakeMachine {
    fn config_read(&self, address: u32, offset: u8, width: PortWidth) -> u32 {
        self.devices.config_read(address, offset, width)
    }
    fn config_write(&self, address: u32, offset: u8, width: PortWidth, value: u32) {
        self.note("out", 0xcf8 << 32 | u64::from(address));
        self.note("out", (0xcfc + u64::from(offset)) << 32 | u64::from(value));
        self.devices.config_write(address, offset, width, value);
    }
    fn register_read(&self, at: u64, width: PortWidth) -> u32 {
        self.devices.register_read(at, width)
    }
    fn register_write(&self, at: u64, width: PortWidth, value: u32) {
        self.devices.register_write(at, width, value);
    }
}

impl Interrupts for FakeMachine {
    fn nr_gsis(&self) -> u32 {
        24
    }
    fn nr_pirqs(&self) -> u32 {
        32
    }
    fn open_message(&self, pirq: u32) -> Option<Message> {
        self.devices.open_vector(pirq).then(|| Message { address: 0xfee0_0000, data: 0x40 + pirq })
    }
    fn close_message(&self, pirq: u32) {
        self.devices.close_vector(pirq);
    }
    fn route_gsi(&self, gsi: u32, _config: GsiConfig) -> Result<(), GsiUnavailable> {
        // Line 4 is the hypervisor's serial port.
        if gsi >= 24 || gsi == 4 {
            return Err(GsiUnavailable);
        }
        self.note("route_gsi", u64::from(gsi));
        Ok(())
    }
    fn unmask_gsi(&self, gsi: u32) {
        self.note("unmask_gsi", u64::from(gsi));
    }
    fn mask_gsi(&self, gsi: u32) {
        self.note("mask_gsi", u64::from(gsi));
    }
    fn gsi_is_level(&self, gsi: u32) -> bool {
        (16..24).contains(&gsi)
    }
    fn ioapic_read(&self, _phys_base: u64, _index: u32) -> Option<u32> {
        None
    }
}

impl Power for FakeMachine {
    fn machine_shutdown(&self, reason: u32) {
        self.effects.lock().shutdowns.push(reason);
    }
}

/// Makes all frames of a table reserved again, for the next world; nobody uses the last one any more.
pub fn forget(pages: &[crate::frame::PageInfo]) {
    pages.iter().for_each(crate::frame::PageInfo::forget);
}

/// A hypervisor over a [`FakeMachine`], for tests.
#[derive(Debug)]
pub struct FakeWorld {
    /// All state.
    pub hv: crate::Hypervisor,
    /// The machine.
    pub m: FakeMachine,
}

impl FakeWorld {
    /// A world of `nr_frames` frames, two pcpus and no domain.
    #[must_use]
    pub fn new(nr_frames: usize) -> Self {
        let pages: Vec<_> = (0..nr_frames).map(|_| crate::frame::PageInfo::new()).collect();
        Self::over(Box::leak(pages.into_boxed_slice()))
    }

    /// As [`Self::new`], with a table of reserved frames that the caller has.
    #[must_use]
    pub fn over(pages: &'static [crate::frame::PageInfo]) -> Self {
        let nr_frames = pages.len();
        let frames = crate::frame::FrameTable::new(pages);
        frames.add_free_range(Mfn::new(1), Mfn::new(u64::try_from(nr_frames).unwrap_or(0)));
        let platform = crate::hv::Platform {
            nr_pcpus: 2,
            config_areas: alloc::vec![crate::acpi::ConfigArea {
                base: devices::at::AREA,
                last_bus: 255,
                ..Default::default()
            }],
            cpu_names: [0, 1].map(|n| crate::hv::CpuName { apic_id: 2 * n, acpi_id: n + 1 }).into(),
            ..Default::default()
        };
        let hv = crate::Hypervisor::new(platform, frames, crate::sched::Scheduler::new(2));
        Self { hv, m: FakeMachine::new(nr_frames) }
    }

    /// Adds a domain of one vcpu that may have `max_pages` frames; its `vcpu_info` is the first of its `shared_info`.
    ///
    /// # Panics
    /// There are too few frames, or the id is in use.
    pub fn add_domain(
        &self,
        id: DomId,
        privilege: crate::access::Privilege,
        max_pages: u64,
    ) -> (alloc::sync::Arc<crate::domain::Domain>, alloc::sync::Arc<crate::vcpu::Vcpu>) {
        let Some(shared_info) = self.hv.frames.alloc_hypervisor(&self.m) else { panic!("no frame is free") };
        let Ok(memory) = self.hv.frames.create_memory(id, max_pages) else { panic!("{id} exists") };
        self.hv.frames.share_with(shared_info, &memory, crate::frame::ShareAccess::ReadWrite);
        let dom = alloc::sync::Arc::new(crate::domain::Domain::new(id, privilege, shared_info, memory));
        let vcpu = dom.add_vcpu();
        vcpu.events.set_info(shared_info, 0);
        assert!(self.hv.domains.insert(dom.clone()), "{id} exists");
        (dom, vcpu)
    }
}
