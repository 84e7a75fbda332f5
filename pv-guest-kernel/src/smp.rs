//! More vcpus.
//!
//! Vcpu 0 starts the others with [`start`]. A started vcpu has its own stacks, traps and events and runs a closure; tasks
//! stay on vcpu 0, but their wakers may be called from everywhere.

#![expect(unsafe_code, reason = "hands a stack and a closure to another vcpu")]

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};

use pv_abi::ids::VcpuId;
use pv_abi::trap::{VcpuGuestContext, VgcfFlags, mfn_to_cr3};
use pv_abi::vcpu::VcpuOp;

use crate::arch::percpu::MAX_VCPUS;
use crate::arch::{KERNEL_CS, KERNEL_SS, percpu, trap};
use crate::hypercall::{self, Errno, Result, typed};
use crate::memory::{PAGE_SIZE, Pages, table};

/// Pages of a vcpu's stack, a guard page below not counted.
const STACK_PAGES: usize = 16;
/// Pages of the stack for traps from user mode.
const TRAP_STACK_PAGES: usize = 4;

type Body = Box<dyn FnOnce() + Send>;

/// Vcpus that run, the first included.
static ONLINE: AtomicU32 = AtomicU32::new(1);

/// How many vcpus the domain has, running or not, as far as the SDK can use them.
#[must_use]
pub fn vcpu_count() -> u32 {
    let most = u32::try_from(MAX_VCPUS).unwrap_or(1);
    (0..most).take_while(|vcpu| is_up(VcpuId::new(*vcpu)).is_ok()).count().try_into().unwrap_or(1)
}

/// Whether a vcpu runs. ENOENT if there is none of that number.
pub fn is_up(vcpu: VcpuId) -> Result<bool> {
    typed::vcpu_is_up(vcpu)
}

/// How many vcpus run.
#[must_use]
pub fn online_count() -> u32 {
    ONLINE.load(Ordering::Acquire)
}

/// Starts a vcpu that has not run yet. It runs `body` with events open and goes down when that returns.
///
/// EEXIST if it was started before, ENOENT if there is none of that number.
pub fn start(vcpu: VcpuId, body: impl FnOnce() + Send + 'static) -> Result {
    let area = percpu::prepare(vcpu.raw()).filter(|_| vcpu.raw() != 0).ok_or(Errno::Inval)?;
    crate::event::init_boot_vcpu_ipi()?;
    let stack = Stack::new(STACK_PAGES)?;
    let trap_stack = Stack::new(TRAP_STACK_PAGES)?;
    // A thin pointer to the closure travels in a register.
    let body: *mut Body = Box::into_raw(Box::new(Box::new(body)));
    let mut context = first_context(stack.top(), trap_stack.top(), area, body);
    // SAFETY: the context is a whole one, and stacks and closure belong to that vcpu from now on.
    let initialised = unsafe { hypercall::vcpu_op(VcpuOp::Initialise, vcpu.raw(), &raw mut *context) };
    if let Err(error) = initialised {
        // SAFETY: the vcpu did not start, so the closure is still ours.
        drop(unsafe { Box::from_raw(body) });
        return Err(error);
    }
    stack.give_away()?;
    trap_stack.give_away()?;
    typed::vcpu_up(vcpu)
}

/// A stack in the making, with a page below it that becomes a guard.
struct Stack(Pages);

impl Stack {
    fn new(pages: usize) -> Result<Self> {
        Pages::new(pages + 1).map(Self).ok_or(Errno::NoMem)
    }

    fn top(&self) -> u64 {
        self.0.va() + (self.0.count() * PAGE_SIZE) as u64
    }

    /// The stack is a vcpu's from now on and is never freed.
    fn give_away(self) -> Result {
        let bottom = self.0.va();
        core::mem::forget(self);
        table::unmap_for_ever(bottom)
    }
}

fn first_context(stack: u64, trap_stack: u64, gs_base: u64, body: *mut Body) -> Box<VcpuGuestContext> {
    let mut context = Box::<VcpuGuestContext>::default();
    let masked = VgcfFlags::FAILSAFE_DISABLES_EVENTS | VgcfFlags::SYSCALL_DISABLES_EVENTS;
    context.flags = (VgcfFlags::IN_KERNEL | masked).bits();
    context.user_regs.rip = (rust_start_secondary as *const ()).addr() as u64;
    // As after a call: the address of a return that never happens, and 0 as the end of the chain of frames.
    context.user_regs.rsp = stack - 8;
    context.user_regs.rbp = 0;
    context.user_regs.rdi = body.expose_provenance() as u64;
    context.user_regs.rflags = 0x202;
    context.user_regs.cs = KERNEL_CS;
    context.user_regs.ss = KERNEL_SS;
    context.kernel_ss = KERNEL_SS.into();
    context.kernel_sp = trap_stack;
    context.ctrlreg[3] = mfn_to_cr3(table::root());
    context.gs_base_kernel = gs_base;
    context
}

/// The first instructions of a vcpu: traps and callbacks, then its body.
extern "C" fn rust_start_secondary(body: *mut Body) -> ! {
    if let Err(error) = trap::init_vcpu().and_then(|()| crate::privileged::ports::enable()) {
        crate::println!("v{}: cannot start: {error}", percpu::vcpu_id());
        go_down();
    }
    ONLINE.fetch_add(1, Ordering::AcqRel);
    crate::event::unmask();
    // SAFETY: `start` made the pointer for this vcpu alone.
    let body = unsafe { Box::from_raw(body) };
    (*body)();
    ONLINE.fetch_sub(1, Ordering::AcqRel);
    go_down()
}

fn go_down() -> ! {
    loop {
        let _ = typed::vcpu_down(VcpuId::new(percpu::vcpu_id()));
        crate::sched::yield_now();
    }
}
