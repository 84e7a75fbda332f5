//! From the first Rust instruction to the kernel's `main`.

#![expect(unsafe_code, reason = "reads start_info at the address the builder gave")]

use pv_abi::ids::MachAddr;
use pv_abi::start_info::StartInfo;
use pv_abi::trap::SegmentBase;

use crate::context::Context;
use crate::{arch, console, hypercall, println, shared};

// SAFETY: `entry!` defines it with this type.
unsafe extern "Rust" {
    /// The kernel's entry, defined by [`crate::entry!`].
    safe fn pv_guest_main(context: &'static Context);
}

/// What `_start` calls.
pub(crate) extern "C" fn rust_start(start_info: *const StartInfo) -> ! {
    // Before anything that asks for the number of this vcpu.
    set_gs_base(0);
    // SAFETY: the builder passes the address of a mapped page with this structure, and nobody changes it.
    let context = Context::init(unsafe { start_info.read() });
    console::init(context);
    if let Err(error) = start(context) {
        println!("boot failed: {error}");
        crate::sched::shutdown(crate::sched::ShutdownReason::Crash);
    }
    pv_guest_main(context);
    crate::sched::power_off()
}

/// Points GS at the per-vcpu area.
pub(crate) fn set_gs_base(vcpu: u32) {
    if let Some(area) = arch::percpu::prepare(vcpu) {
        // SAFETY: the area is the one of this vcpu.
        let _ = unsafe { hypercall::set_segment_base(SegmentBase::GsKernel, area) };
    }
}

fn start(context: &'static Context) -> hypercall::Result {
    shared::init(MachAddr::new(context.start_info().shared_info))?;
    arch::trap::init_vcpu()?;
    arch::user::init_trap_stack(arch::start::TRAP_STACK.top())?;
    crate::privileged::ports::enable()?;
    crate::memory::init(context)?;
    if context.option("events") != Some("2l") {
        crate::event::fifo::init()?;
    }
    crate::time::init()?;
    crate::event::unmask();
    Ok(())
}

/// What the tests link instead of a kernel.
#[cfg(test)]
mod no_kernel {
    #[unsafe(no_mangle)]
    fn pv_guest_main(_context: &'static crate::Context) {}
}
