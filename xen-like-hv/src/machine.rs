//! The ports of the core over the hardware: everything that the core can do to the machine.
#![expect(unsafe_code, reason = "reaches RAM through the direct map, and registers")]

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use hv_core::entry::GuestMode;
use hv_core::hypercall::guest_ptr::{Checked, access_ok, begins_outside};
use hv_core::port::{
    BadSelector, Clock, Console, Cpu, CpuMask, DeviceRegisters, Fault, FlushScope, FrameWords, Frames,
    GsiConfig, GsiUnavailable, GuestMem, Interrupts, Message, Notify, PortWidth, Power, Privileged,
    PvClockScale, RingRead, TaskSwitched, Tlb,
};
use hv_sync::{SpinLock, rank};
use pv_abi::ids::{DomId, GuestVa, Mfn, PcpuId};

use crate::arch::cpu::{self, port, regs};
use crate::arch::entry::context::{BaseRegister, read_msr, write_base};
use crate::arch::entry::cpu_info::work;
use crate::arch::entry::current::{cpu_info, set_mode};
use crate::arch::entry::{stubs, words};
use crate::arch::irq::{ioapic, ipi, message};
use crate::arch::mm::{layout, ram, registers, tlb};
use crate::arch::time;
use crate::{arch, console, percpu};

/// The machine; its state is the hardware's.
#[derive(Debug)]
pub(crate) struct Metal;

/// Address of a frame's byte in the direct map.
fn address(mfn: Mfn, offset: usize) -> usize {
    let base = layout::direct_map(mfn.to_maddr().raw());
    usize::try_from(base).unwrap_or(0) + offset
}

#[inline(always)]
fn pointer(mfn: Mfn, offset: usize, len: usize) -> *mut u8 {
    if offset + len > 4096 {
        past_the_end(mfn);
    }
    core::ptr::with_exposed_provenance_mut(address(mfn, offset))
}

/// Apart, so that what is said does not cost those who ask for a pointer.
#[cold]
#[inline(never)]
fn past_the_end(mfn: Mfn) -> ! {
    panic!("access past the end of {mfn}")
}

fn m2p_word(mfn: Mfn) -> Option<&'static AtomicU64> {
    arch::mm::m2p_word(mfn.raw())
}

impl Frames for Metal {
    fn words(&self, mfn: Mfn) -> &FrameWords {
        let at: *const FrameWords = core::ptr::with_exposed_provenance(address(mfn, 0));
        // SAFETY: the port's contract: a frame of RAM, all of which is mapped for good; only atomics are lent.
        unsafe { &*at }
    }

    #[inline(always)]
    fn zero(&self, mfn: Mfn) {
        // SAFETY: one frame of RAM through the direct map; shared words are only ever accessed as bytes or atomics, and a
        // guest that races sees its own memory change.
        unsafe { ram::zero_page(pointer(mfn, 0, 4096)) };
    }

    #[inline(always)]
    fn copy(&self, src: Mfn, src_offset: usize, dst: Mfn, dst_offset: usize, len: usize) {
        let (from, to) = (pointer(src, src_offset, len), pointer(dst, dst_offset, len));
        if src == dst {
            // SAFETY: both ranges lie in a frame of RAM; `copy` allows them to overlap.
            unsafe { core::ptr::copy(from, to, len) };
        } else {
            // SAFETY: the ranges lie in two frames of RAM; shared words are only ever accessed as bytes or atomics, and a
            // guest that races sees its own memory change.
            unsafe { ram::copy_apart(from, to, len) };
        }
    }

    fn read(&self, mfn: Mfn, offset: usize, dst: &mut [u8]) {
        // SAFETY: the range lies in a frame of RAM; `dst` is ordinary memory elsewhere.
        unsafe {
            core::ptr::copy_nonoverlapping(pointer(mfn, offset, dst.len()), dst.as_mut_ptr(), dst.len())
        };
    }

    fn write(&self, mfn: Mfn, offset: usize, src: &[u8]) {
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), pointer(mfn, offset, src.len()), src.len()) };
    }

    fn m2p(&self, mfn: Mfn) -> u64 {
        m2p_word(mfn).map_or(u64::MAX, |w| w.load(Relaxed))
    }

    fn set_m2p(&self, mfn: Mfn, pfn: u64) {
        if let Some(w) = m2p_word(mfn) {
            w.store(pfn, Relaxed);
        }
    }

    fn hypervisor_l4_entries(&self) -> [u64; 16] {
        arch::mm::hypervisor_l4_entries()
    }
}

fn fault_at(va: GuestVa, len: usize, left: usize) -> Fault {
    let done = u64::try_from(len - left.min(len)).unwrap_or(0);
    Fault(GuestVa::new(va.raw().wrapping_add(done)))
}

#[inline(always)]
fn guest_range(va: GuestVa, len: usize) -> Result<*mut u8, Fault> {
    let bytes = u64::try_from(len).map_err(|_| Fault(va))?;
    let at = usize::try_from(va.raw()).map_err(|_| Fault(va))?;
    if access_ok(va, bytes) { Ok(core::ptr::with_exposed_provenance_mut(at)) } else { Err(Fault(va)) }
}

impl GuestMem for Metal {
    fn copy_from_guest(&self, dst: &mut [u8], src: GuestVa) -> Result<(), Fault> {
        let from = guest_range(src, dst.len())?;
        let len = dst.len();
        // SAFETY: `dst` is the hypervisor's; the source lies outside the hypervisor's area, and a fault there makes the copy
        // return early.
        let left = unsafe { stubs::guest_copy(dst.as_mut_ptr(), from, len) };
        if left == 0 { Ok(()) } else { Err(fault_at(src, len, left)) }
    }

    fn copy_to_guest(&self, dst: GuestVa, src: &[u8]) -> Result<(), Fault> {
        let to = guest_range(dst, src.len())?;
        // SAFETY: as above, the other way round; CR0.WP is set, so read-only pages of the guest fault.
        let left = unsafe { stubs::guest_copy(to, src.as_ptr(), src.len()) };
        if left == 0 { Ok(()) } else { Err(fault_at(dst, src.len(), left)) }
    }

    #[inline(always)]
    fn read_words<const N: usize>(&self, src: Checked<N>) -> Result<[u64; N], Fault> {
        // SAFETY: the type says that the range does not reach the hypervisor's area if it is read upwards.
        unsafe { words::read(src.address().raw()) }.ok_or(Fault(src.address()))
    }

    #[inline(always)]
    fn write_words<const N: usize>(&self, dst: Checked<N>, values: &[u64; N]) -> Result<(), Fault> {
        // SAFETY: as above.
        if unsafe { words::write(dst.address().raw(), values) } { Ok(()) } else { Err(Fault(dst.address())) }
    }

    #[inline(always)]
    fn copy_small_from_guest(&self, dst: &mut [u8], src: GuestVa) -> Result<(), Fault> {
        if !begins_outside(src) {
            return Err(Fault(src));
        }
        if !words::suits(dst.len()) {
            return self.copy_from_guest(dst, src);
        }
        // SAFETY: the range begins outside the hypervisor's area and is read upwards.
        if unsafe { words::read_bytes(src.raw(), dst) } { Ok(()) } else { Err(Fault(src)) }
    }

    #[inline(always)]
    fn copy_small_to_guest(&self, dst: GuestVa, src: &[u8]) -> Result<(), Fault> {
        if !begins_outside(dst) {
            return Err(Fault(dst));
        }
        if !words::suits(src.len()) {
            return self.copy_to_guest(dst, src);
        }
        // SAFETY: as above; CR0.WP is set, so read-only pages of the guest fault.
        if unsafe { words::write_bytes(dst.raw(), src) } { Ok(()) } else { Err(Fault(dst)) }
    }
}

impl Tlb for Metal {
    #[inline]
    fn flush(&self, cpus: CpuMask, scope: FlushScope) {
        if cpus == CpuMask::of(self.pcpu()) {
            self.flush_local(scope);
        } else {
            ipi::flush_on(cpus.bits());
        }
    }

    #[inline]
    fn flush_local(&self, scope: FlushScope) {
        match scope {
            // Only guests' entries ask for it, and they run on a stack block.
            FlushScope::All => tlb::flush_as(cpu_info().record),
            FlushScope::Page(va) => regs::invlpg(va.raw()),
        }
    }

    #[inline(always)]
    fn flush_clock(&self) -> u64 {
        tlb::clock()
    }

    fn stale_since(&self, cpus: CpuMask, stamp: u64) -> CpuMask {
        let stale = |c: &PcpuId| !tlb::has_forgotten(usize::try_from(c.raw()).unwrap_or(0), stamp);
        cpus.iter().filter(stale).fold(CpuMask::EMPTY, |mask, c| mask.union(CpuMask::of(c)))
    }
}

impl Notify for Metal {
    fn kick(&self, cpu: PcpuId) {
        ipi::reschedule(usize::try_from(cpu.raw()).unwrap_or(0));
    }
}

impl Clock for Metal {
    fn now_ns(&self) -> u64 {
        time::now_ns()
    }

    fn wallclock_base_ns(&self) -> u64 {
        time::wallclock_base_ns()
    }

    fn pvclock_scale(&self) -> PvClockScale {
        time::pvclock_scale()
    }

    fn set_deadline(&self, deadline_ns: Option<u64>) {
        time::set_deadline_ns(deadline_ns);
    }
}

impl Console for Metal {
    fn guest_write(&self, dom: DomId, bytes: &[u8]) {
        console::guest_write(dom, bytes);
    }

    fn read_input(&self, dst: &mut [u8]) -> usize {
        let mut n = 0;
        for slot in dst.iter_mut() {
            let Some(byte) = console::read_byte() else { break };
            *slot = byte;
            n += 1;
        }
        n
    }

    fn read_ring(&self, from: u64, dst: &mut [u8], clear: RingRead) -> (usize, u64) {
        let (n, next) = console::read_ring(from, dst);
        if clear == RingRead::Clear {
            console::clear_ring();
        }
        (n, next)
    }
}

impl Cpu for Metal {
    fn pcpu(&self) -> PcpuId {
        PcpuId::new(cpu_info().cpu)
    }

    fn online(&self) -> CpuMask {
        CpuMask::from_bits(percpu::all_mask())
    }

    fn preempt_pending(&self) -> bool {
        #[cfg(feature = "stretch")]
        arch::entry::stretch::point();
        regs::interrupt_window();
        let info = cpu_info();
        info.work.load(Relaxed) != 0 || info.upcall_wanted()
    }

    fn request_resched(&self) {
        cpu_info().work.fetch_or(work::RESCHED, Relaxed);
    }

    fn request_exit_work(&self) {
        cpu_info().work.fetch_or(work::EVENTS, Relaxed);
    }

    fn load_root(&self, root: Mfn) {
        // SAFETY: a validated L4, which holds the hypervisor's entries.
        unsafe { arch::mm::load_root(root.to_maddr().raw()) };
    }

    fn enter_mode(&self, to: GuestMode) {
        set_mode(Some(to));
        // SAFETY: the hypervisor uses neither base.
        unsafe { core::arch::asm!("swapgs", options(nomem, nostack, preserves_flags)) };
    }

    fn set_fs_base(&self, base: u64) {
        write_base(BaseRegister::Fs, base);
    }

    fn fs_base(&self) -> u64 {
        read_msr(BaseRegister::Fs.msr())
    }

    fn set_gs_base(&self, base: u64) {
        write_base(BaseRegister::Gs, base);
    }

    fn gs_base(&self) -> u64 {
        read_msr(BaseRegister::Gs.msr())
    }

    fn set_gs_base_hidden(&self, base: u64) {
        write_base(BaseRegister::GsHidden, base);
    }

    fn gs_base_hidden(&self) -> u64 {
        read_msr(BaseRegister::GsHidden.msr())
    }

    fn load_user_gs_selector(&self, selector: u16) -> Result<(), BadSelector> {
        // SAFETY: the stub turns a fault into the null selector.
        let failed = unsafe { stubs::load_user_gs(u32::from(selector)) };
        if failed == 0 { Ok(()) } else { Err(BadSelector) }
    }

    fn set_ts(&self, ts: TaskSwitched) {
        cpu::set_task_switched(ts == TaskSwitched::Set);
    }

    fn write_debug_register(&self, index: u8, value: u64) {
        cpu::write_debug_register(index, value);
    }

    fn load_gdt(&self, frames: &[Mfn], entries: u32) {
        arch::mm::windows::load_gdt(frames, entries);
    }

    fn load_ldt(&self, frames: &[Mfn], entries: u32) {
        arch::mm::windows::load_ldt(frames, entries);
    }

    fn set_guest_cr4(&self, bits: u64) {
        cpu::set_guest_cr4(bits);
    }
}

impl Privileged for Metal {
    fn read_msr(&self, index: u32) -> Option<u64> {
        let mut value = 0;
        // SAFETY: reading an MSR that does not exist faults into the stub's own return.
        let failed = unsafe { stubs::read_msr_safe(index, &raw mut value) };
        (failed == 0).then_some(value)
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let r = regs::cpuid(leaf, subleaf);
        [r.eax, r.ebx, r.ecx, r.edx]
    }

    fn port_in(&self, at: u16, width: PortWidth) -> u32 {
        // SAFETY: the core has checked that the domain may use the port.
        unsafe {
            match width {
                PortWidth::Byte => u32::from(port::in8(at)),
                PortWidth::Word => u32::from(port::in16(at)),
                PortWidth::Dword => port::in32(at),
            }
        }
    }

    fn port_out(&self, at: u16, width: PortWidth, value: u32) {
        let [b0, b1, ..] = value.to_le_bytes();
        // SAFETY: as in `port_in`.
        unsafe {
            match width {
                PortWidth::Byte => port::out8(at, b0),
                PortWidth::Word => port::out16(at, u16::from_le_bytes([b0, b1])),
                PortWidth::Dword => port::out32(at, value),
            }
        }
    }

    fn wbinvd(&self) {
        // SAFETY: writes caches back; no memory changes.
        unsafe { core::arch::asm!("wbinvd", options(nostack, preserves_flags)) };
    }

    fn set_xcr0(&self, value: u64) {
        cpu::load_xcr0(value);
    }

    fn set_tsc_aux(&self, value: u32) {
        cpu::load_tsc_aux(value);
    }

    fn rdtsc(&self) -> u64 {
        regs::rdtsc()
    }
}

/// The two ports of PCI configuration mechanism 1 are one resource.
static PCI_CONFIG: SpinLock<()> = SpinLock::new(rank::PCI_REGISTERS, ());
const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;

impl DeviceRegisters for Metal {
    fn config_read(&self, address: u32, offset: u8, width: PortWidth) -> u32 {
        let _ports = PCI_CONFIG.lock();
        self.port_out(PCI_ADDRESS, PortWidth::Dword, address);
        self.port_in(PCI_DATA + u16::from(offset & 3), width)
    }

    fn config_write(&self, address: u32, offset: u8, width: PortWidth, value: u32) {
        let _ports = PCI_CONFIG.lock();
        self.port_out(PCI_ADDRESS, PortWidth::Dword, address);
        self.port_out(PCI_DATA + u16::from(offset & 3), width, value);
    }

    fn register_read(&self, at: u64, width: PortWidth) -> u32 {
        registers::read(at, width)
    }

    fn register_write(&self, at: u64, width: PortWidth, value: u32) {
        registers::write(at, width, value);
    }
}

impl Interrupts for Metal {
    fn nr_gsis(&self) -> u32 {
        ioapic::gsi_count()
    }

    fn nr_pirqs(&self) -> u32 {
        message::MAX_PIRQS
    }

    fn open_message(&self, pirq: u32) -> Option<Message> {
        message::open(pirq)
    }

    fn close_message(&self, pirq: u32) {
        message::close(pirq);
    }

    fn route_gsi(&self, gsi: u32, config: GsiConfig) -> Result<(), GsiUnavailable> {
        arch::irq::route_for_guest(gsi, config)
    }

    fn unmask_gsi(&self, gsi: u32) {
        ioapic::unmask(gsi);
    }

    fn mask_gsi(&self, gsi: u32) {
        ioapic::mask(gsi);
    }

    fn gsi_is_level(&self, gsi: u32) -> bool {
        ioapic::is_level(gsi)
    }

    fn ioapic_read(&self, phys_base: u64, index: u32) -> Option<u32> {
        ioapic::read_register(phys_base, index)
    }
}

impl Power for Metal {
    fn machine_shutdown(&self, reason: u32) {
        crate::power::domain_ended(reason)
    }
}
