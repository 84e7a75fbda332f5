use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::{DomId, GuestVa, Mfn};
use pv_abi::vm_assist::VmAssist;

use super::{Emulation, forced_emulation, privileged_instruction};
use crate::access::Privilege;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::entry::GuestMode;
use crate::fake::FakeWorld;
use crate::port::GuestMem;
use crate::regs::UserRegs;
use crate::vcpu::Vcpu;

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x50_0000;
const IOPL_1: u64 = 1 << 12;

struct Guest {
    world: FakeWorld,
    dom: Arc<Domain>,
    vcpu: Arc<Vcpu>,
    regs: UserRegs,
}

impl Guest {
    fn new(privilege: Privilege) -> Self {
        let world = FakeWorld::new(32);
        let (dom, vcpu) = world.add_domain(DomId::new(1), privilege, 8);
        world.m.map_guest_page(CODE);
        world.m.map_guest_page(DATA);
        // A #GP handler, as all but the earliest code has it.
        vcpu.entry.traps[13].set(0x1000, 0xe033, 0);
        Self { world, dom, vcpu, regs: UserRegs { rip: CODE, ..UserRegs::default() } }
    }

    fn domu() -> Self {
        Self::new(Privilege::Unprivileged)
    }

    fn dom0() -> Self {
        Self::new(Privilege::Control)
    }

    fn with_code(
        &mut self,
        at: u64,
        code: &[u8],
        f: fn(&mut Cx<'_, crate::fake::FakeMachine>) -> Emulation,
    ) -> Emulation {
        self.world.m.copy_to_guest(GuestVa::new(at), code).unwrap();
        self.regs.rip = at;
        let mut cx = Cx::new(&self.world.hv, &self.world.m, &self.dom, &self.vcpu, &mut self.regs);
        f(&mut cx)
    }

    fn run(&mut self, code: &[u8]) -> Emulation {
        self.with_code(CODE, code, privileged_instruction)
    }

    /// Runs an instruction that must be carried out in full.
    fn does(&mut self, code: &[u8]) {
        assert_eq!(self.run(code), Emulation::Done);
        assert_eq!(self.regs.rip, CODE + code.len() as u64);
    }

    /// Runs an instruction that must be left to the guest, with nothing changed.
    fn refuses(&mut self, code: &[u8]) {
        let before = UserRegs { rip: CODE, ..self.regs };
        assert_eq!(self.run(code), Emulation::NotMine, "{code:x?}");
        assert_eq!(self.regs, before);
    }

    fn registers(&self) -> Vec<(&'static str, u64)> {
        core::mem::take(&mut self.world.m.effects.lock().registers)
    }

    fn outs(&self) -> Vec<(u64, u64)> {
        self.registers().iter().filter(|r| r.0 == "out").map(|r| (r.1 >> 32, r.1 & 0xffff_ffff)).collect()
    }
}

#[test]
fn the_first_write_of_gs_base_needs_no_handler() {
    let mut g = Guest::domu();
    g.vcpu.entry.traps[13].clear();
    g.regs.rcx = 0xc000_0101;
    (g.regs.rax, g.regs.rdx) = (0x8123_4000, 0xffff_ffff);
    g.does(&[0x0f, 0x30]);
    assert_eq!(g.registers(), [("gs_base", 0xffff_ffff_8123_4000)]);
}

#[test]
fn a_base_that_is_not_canonical_is_refused() {
    for index in [0xc000_0100u64, 0xc000_0101, 0xc000_0102] {
        let mut g = Guest::domu();
        g.regs.rcx = index;
        (g.regs.rax, g.regs.rdx) = (0, 0x8000);
        g.refuses(&[0x0f, 0x30]);
        assert!(g.registers().is_empty());
    }
}

#[test]
fn known_msrs_are_read_and_unknown_ones_refused() {
    let mut g = Guest::domu();
    g.regs.rcx = 0x277;
    g.does(&[0x0f, 0x32]);
    assert_eq!((g.regs.rax, g.regs.rdx), (0x0007_0406, 0x0501));
    // Written back as read is fine, anything else is not.
    g.does(&[0x0f, 0x30]);
    g.regs.rax = 0x0606_0606;
    g.refuses(&[0x0f, 0x30]);
    g.regs.rcx = 0x1b;
    g.does(&[0x0f, 0x32]);
    assert_eq!(g.regs.rax, 0xfee0_0900);
    // XSA-351: energy counters; STAR; the TSC cannot be set.
    for index in [0x611, 0xc000_0081, 0x10] {
        g.regs.rcx = index;
        g.refuses(&[0x0f, 0x30]);
    }
    g.regs.rcx = 0x611;
    g.refuses(&[0x0f, 0x32]);
}

#[test]
fn tsc_aux_belongs_to_the_vcpu() {
    let mut g = Guest::domu();
    (g.regs.rcx, g.regs.rax, g.regs.rdx) = (0xc000_0103, 7, 0);
    g.does(&[0x0f, 0x30]);
    assert_eq!(g.registers(), [("tsc_aux", 7)]);
    g.regs.rax = 0;
    g.does(&[0x0f, 0x32]);
    assert_eq!(g.regs.rax, 7);
    // It has 32 bits; the value stays.
    g.regs.rdx = 1;
    g.refuses(&[0x0f, 0x30]);
    // RDTSCP where the guest wants it trapped.
    g.vcpu.entry.cr4.store(1 << 2, Relaxed);
    g.does(&[0x0f, 0x01, 0xf9]);
    assert_eq!(g.regs.rcx, 7);
}

#[test]
fn a_hypercall_page_can_be_asked_for() {
    let mut g = Guest::domu();
    let mfn = g.world.hv.frames.alloc_for(&g.world.m, &g.dom.mem, 0, 0).unwrap();
    g.regs.rcx = 0x4000_0000;
    g.regs.rax = mfn.raw() << 12;
    g.does(&[0x0f, 0x30]);
    let mut stub = [0; 6];
    crate::port::Frames::read(&g.world.m, mfn, 32 * 17, &mut stub);
    assert_eq!(stub, [0x51, 0x41, 0x53, 0xb8, 17, 0]);
    // A second page, the domain's shared_info, a frame that is not there.
    for value in [mfn.raw() << 12 | 1, (mfn.raw() + 1) << 12, 0xffff_f000] {
        g.regs.rax = value;
        g.refuses(&[0x0f, 0x30]);
    }
}

#[test]
fn ports_need_iopl() {
    let mut g = Guest::dom0();
    g.regs.rdx = 0x70;
    g.refuses(&[0xee]);
    g.refuses(&[0xfa]);
    g.vcpu.entry.iopl.store(IOPL_1, Relaxed);
    g.does(&[0xee]);
    g.does(&[0xfa]);
    g.does(&[0xfb]);
    // Processes count as ring 3.
    g.vcpu.entry.set_mode(GuestMode::User);
    g.refuses(&[0xee]);
    g.refuses(&[0xfb]);
    g.vcpu.entry.iopl.store(3 << 12, Relaxed);
    g.does(&[0xee]);
    assert_eq!(g.outs(), [(0x70, 0), (0x70, 0)]);
}

#[test]
fn architectural_iopl_lets_the_kernel_through_at_iopl_0() {
    let mut g = Guest::dom0();
    g.dom.set_assist(VmAssist::ArchitecturalIopl, true);
    g.regs.rax = 0x55;
    g.does(&[0xe6, 0x80]);
    assert_eq!(g.outs(), [(0x80, 0x55)]);
    g.vcpu.entry.set_mode(GuestMode::User);
    g.refuses(&[0xe6, 0x80]);
}

#[test]
fn an_unprivileged_guest_reaches_no_port() {
    let mut g = Guest::domu();
    g.vcpu.entry.iopl.store(IOPL_1, Relaxed);
    g.regs.rax = 0x1234_5678_9abc_def0;
    g.regs.rdx = 0x3f9;
    g.does(&[0xec]);
    assert_eq!(g.regs.rax, 0x1234_5678_9abc_deff);
    g.does(&[0x66, 0xed]);
    assert_eq!(g.regs.rax, 0x1234_5678_9abc_ffff);
    g.does(&[0xed]);
    assert_eq!(g.regs.rax, 0xffff_ffff);
    g.does(&[0xef]);
    g.regs.rdx = 0xcf8;
    g.regs.rax = 0x8000_0000;
    g.does(&[0xef]);
    g.does(&[0xed]);
    assert_eq!(g.regs.rax, 0xffff_ffff);
    assert!(g.registers().is_empty());
}

#[test]
fn the_hypervisors_own_devices_are_out_of_dom0s_reach() {
    let mut g = Guest::dom0();
    g.vcpu.entry.iopl.store(IOPL_1, Relaxed);
    for port in [0x20, 0xa1, 0x40, 0x43, 0x61, 0x3f8, 0x3ff] {
        g.regs.rdx = port;
        g.does(&[0xee]);
    }
    // Wider accesses that touch them, too.
    for port in [0x1e, 0x1f, 0x60, 0x3f5] {
        g.regs.rdx = port;
        g.does(&[0xef]);
    }
    assert!(g.outs().is_empty());
    g.regs.rdx = 0xffff;
    g.does(&[0xef]);
    assert!(g.outs().is_empty(), "an access must not wrap around");
}

#[test]
fn pci_configuration_goes_through_the_domains_own_address() {
    let mut g = Guest::dom0();
    g.vcpu.entry.iopl.store(IOPL_1, Relaxed);
    (g.regs.rdx, g.regs.rax) = (0xcf8, 0x8000_1004);
    g.does(&[0xef]);
    assert!(g.outs().is_empty(), "the address is kept, not written");
    g.regs.rax = 0;
    g.does(&[0xed]);
    assert_eq!(g.regs.rax, 0x8000_1004);
    (g.regs.rdx, g.regs.rax) = (0xcfe, 0xabcd);
    g.does(&[0x66, 0xef]);
    assert_eq!(g.outs(), [(0xcf8, 0x8000_1004), (0xcfe, 0xabcd)]);
    // Across the window's end.
    g.regs.rdx = 0xcfe;
    g.does(&[0xef]);
    assert!(g.outs().is_empty());
}

#[test]
fn string_output_reads_memory_and_counts_down() {
    let mut g = Guest::dom0();
    g.vcpu.entry.iopl.store(IOPL_1, Relaxed);
    g.world.m.copy_to_guest(GuestVa::new(DATA), &[1, 2, 3]).unwrap();
    (g.regs.rdx, g.regs.rsi, g.regs.rcx) = (0x80, DATA, 3);
    g.does(&[0xf3, 0x6e]);
    assert_eq!((g.regs.rcx, g.regs.rsi), (0, DATA + 3));
    assert_eq!(g.outs(), [(0x80, 1), (0x80, 2), (0x80, 3)]);
    // Backwards, without repetition.
    g.regs.rflags |= 1 << 10;
    g.regs.rsi = DATA + 2;
    g.does(&[0x6e]);
    assert_eq!(g.regs.rsi, DATA + 1);
    assert_eq!(g.outs(), [(0x80, 3)]);
}

#[test]
fn a_long_string_instruction_stops_to_look_around() {
    let mut g = Guest::dom0();
    g.vcpu.entry.iopl.store(IOPL_1, Relaxed);
    (g.regs.rdx, g.regs.rdi, g.regs.rcx) = (0x1f0, DATA, 300);
    assert_eq!(g.run(&[0xf3, 0x6c]), Emulation::Done);
    assert_eq!((g.regs.rip, g.regs.rcx, g.regs.rdi), (CODE, 44, DATA + 256));
    g.does(&[0xf3, 0x6c]);
    assert_eq!(g.regs.rcx, 0);
    g.does(&[0xf3, 0x6c]);
    assert_eq!(g.regs.rdi, DATA + 300);
}

#[test]
fn string_input_to_a_missing_page_is_the_guests_page_fault() {
    let mut g = Guest::dom0();
    g.vcpu.entry.iopl.store(IOPL_1, Relaxed);
    (g.regs.rdi, g.regs.rcx) = (DATA + 0xffe, 2);
    let fault = Emulation::Inject { vector: 14, error_code: 2, cr2: DATA + 0x1000 };
    assert_eq!(g.run(&[0xf3, 0x66, 0x6d]), fault);
    assert_eq!((g.regs.rip, g.regs.rcx, g.regs.rdi), (CODE, 1, DATA + 0x1000));
    // The hypervisor's own area is nobody's buffer.
    g.regs.rdi = 0xffff_8300_0000_0000;
    g.refuses(&[0x6c]);
}

#[test]
fn control_registers_are_virtual() {
    let mut g = Guest::domu();
    g.does(&[0x0f, 0x20, 0xc0]);
    assert_eq!(g.regs.rax, 0x8005_0033);
    g.regs.rax |= 8;
    g.does(&[0x0f, 0x22, 0xc0]);
    assert_eq!(g.registers(), [("ts", 1)]);
    g.does(&[0x0f, 0x20, 0xc3]);
    assert_eq!(g.regs.rbx, 0x8005_003b);
    g.does(&[0x0f, 0x06]);
    assert_eq!(g.registers(), [("ts", 0)]);
    assert!(!g.vcpu.entry.task_switched.load(Relaxed));
    // Without protection or paging there is no guest.
    g.regs.rax = 0x8005_0032;
    g.refuses(&[0x0f, 0x22, 0xc0]);

    g.regs.rdx = 0x1234;
    g.does(&[0x0f, 0x22, 0xd2]);
    g.does(&[0x0f, 0x20, 0xd6]);
    assert_eq!(g.regs.rsi, 0x1234);
    g.vcpu.mm.set_roots_for_test(Mfn::new(7), Mfn::new(8));
    g.does(&[0x0f, 0x20, 0xd8]);
    assert_eq!(g.regs.rax, 0x7000);
    g.refuses(&[0x0f, 0x22, 0xd8]);
    g.refuses(&[0x0f, 0x20, 0xc8]);
}

#[test]
fn only_its_own_bits_of_cr4_are_the_guests() {
    let mut g = Guest::domu();
    // SMEP and SMAP are the hypervisor's, FSGSBASE and OSXSAVE not there on this machine.
    g.regs.rax = 0x0035_0660 | 0xc;
    g.does(&[0x0f, 0x22, 0xe0]);
    assert_eq!(g.registers(), [("cr4", 0xc)]);
    g.does(&[0x0f, 0x20, 0xe1]);
    assert_eq!(g.regs.rcx, 0x66c);
}

#[test]
fn debug_registers_obey_the_hypercalls_rules() {
    let mut g = Guest::domu();
    g.regs.rbx = 0x1000;
    g.does(&[0x0f, 0x23, 0xc3]);
    g.does(&[0x0f, 0x21, 0xc1]);
    assert_eq!(g.regs.rcx, 0x1000);
    g.regs.rbx = 0xffff_82d0_8010_0000;
    g.refuses(&[0x0f, 0x23, 0xc3]);
}

#[test]
fn xsetbv_needs_osxsave_and_a_valid_value() {
    let mut g = Guest::domu();
    assert_eq!(g.run(&[0x0f, 0x01, 0xd1]), Emulation::Inject { vector: 6, error_code: 0, cr2: 0 });
    g.vcpu.entry.cr4.store(1 << 18, Relaxed);
    // This machine has no extended state at all.
    g.regs.rax = 1;
    g.refuses(&[0x0f, 0x01, 0xd1]);
}

#[test]
fn the_counter_is_read_for_a_kernel_that_has_switched_it_off() {
    let mut g = Guest::domu();
    g.world.m.now_ns.store(0x5_0000_0007, Relaxed);
    g.refuses(&[0x0f, 0x31]);
    g.vcpu.entry.cr4.store(1 << 2, Relaxed);
    g.does(&[0x0f, 0x31]);
    assert_eq!((g.regs.rax, g.regs.rdx), (7, 5));
    g.vcpu.entry.set_mode(GuestMode::User);
    g.refuses(&[0x0f, 0x31]);
}

#[test]
fn processes_have_no_privileged_instructions() {
    let mut g = Guest::dom0();
    g.vcpu.entry.set_mode(GuestMode::User);
    g.vcpu.entry.iopl.store(3 << 12, Relaxed);
    for code in [
        &[0x0f, 0x32][..],
        &[0x0f, 0x30],
        &[0x0f, 0x06],
        &[0x0f, 0x20, 0xc0],
        &[0x0f, 0x22, 0xe0],
        &[0x0f, 0x09],
        &[0x0f, 0x01, 0xd1],
        &[0xf3, 0x6c],
    ] {
        g.refuses(code);
    }
}

#[test]
fn only_a_control_domain_flushes_caches() {
    let mut g = Guest::domu();
    g.does(&[0x0f, 0x09]);
    assert!(g.registers().is_empty());
    let mut g = Guest::dom0();
    g.does(&[0x0f, 0x09]);
    assert_eq!(g.registers(), [("wbinvd", 0)]);
}

const FORCED_CPUID: [u8; 7] = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2];

#[test]
fn forced_emulation_answers_cpuid_in_both_modes() {
    for mode in [GuestMode::Kernel, GuestMode::User] {
        let mut g = Guest::domu();
        g.vcpu.entry.set_mode(mode);
        g.regs.rax = 0x1_4000_0000;
        assert_eq!(g.with_code(CODE, &FORCED_CPUID, forced_emulation), Emulation::Done);
        assert_eq!(g.regs.rip, CODE + 7);
        assert_eq!((g.regs.rax, g.regs.rbx), (0x4000_0005, 0x566e_6558));
    }
}

#[test]
fn forced_emulation_with_a_prefix_goes_through_the_decoder() {
    let mut g = Guest::domu();
    g.regs.rax = 0x4000_0000;
    let prefixed = [0x0f, 0x0b, b'x', b'e', b'n', 0x48, 0x0f, 0xa2];
    assert_eq!(g.with_code(CODE, &prefixed, forced_emulation), Emulation::Done);
    assert_eq!((g.regs.rip, g.regs.rbx), (CODE + 8, 0x566e_6558));
    let locked = [0x0f, 0x0b, b'x', b'e', b'n', 0xf0, 0x0f, 0xa2];
    assert_eq!(g.with_code(CODE, &locked, forced_emulation), Emulation::NotMine);
}

#[test]
fn a_plain_invalid_opcode_stays_the_guests() {
    let mut g = Guest::domu();
    assert_eq!(g.with_code(CODE, &[0x0f, 0x0b], forced_emulation), Emulation::NotMine);
    let mut other = FORCED_CPUID;
    other[6] = 0x31;
    assert_eq!(g.with_code(CODE, &other, forced_emulation), Emulation::NotMine);
    assert_eq!(g.regs.rip, CODE);
}

#[test]
fn an_instruction_may_end_at_the_last_byte_that_is_mapped() {
    let mut g = Guest::domu();
    let at = CODE + 0x1000 - 7;
    assert_eq!(g.with_code(at, &FORCED_CPUID, forced_emulation), Emulation::Done);
    g.vcpu.entry.cr4.store(1 << 2, Relaxed);
    assert_eq!(g.with_code(CODE + 0xffe, &[0x0f, 0x31], privileged_instruction), Emulation::Done);
    // One byte short.
    assert_eq!(g.with_code(CODE + 0xfff, &[0x0f], privileged_instruction), Emulation::NotMine);
    // Code that cannot be read at all, and code in the hypervisor's area.
    for rip in [0x60_0000, 0xffff_82d0_8010_0000, 0x7fff_ffff_ffff] {
        let mut regs = UserRegs { rip, ..UserRegs::default() };
        let mut cx = Cx::new(&g.world.hv, &g.world.m, &g.dom, &g.vcpu, &mut regs);
        assert_eq!(privileged_instruction(&mut cx), Emulation::NotMine);
    }
}
