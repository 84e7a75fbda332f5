//! The two values that the entry paths start from: the hypervisor's state and the machine.

use hv_core::Hypervisor;
use hv_sync::Once;

use crate::machine::Metal;

static HYPERVISOR: Once<Hypervisor> = Once::new();

/// The machine. It has no state of its own: everything is in the hardware and in the modules behind the ports.
pub(crate) static MACHINE: Metal = Metal;

/// Makes the state known to the entry paths; the first call wins.
pub(crate) fn install(state: Hypervisor) -> &'static Hypervisor {
    HYPERVISOR.call_once(|| state)
}

/// The state, once boot has made it.
pub(crate) fn hypervisor() -> Option<&'static Hypervisor> {
    HYPERVISOR.get()
}
