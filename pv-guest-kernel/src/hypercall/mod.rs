//! Hypercalls.
//!
//! Three layers: [`raw`] issues the instruction; [`table`] has one function per row of the ABI's table, with untyped
//! arguments; the functions here and in [`typed`], [`mmu`] and [`multicall`] take types. Prefer the module of the subject
//! ([`crate::event`], [`crate::memory`], [`crate::grant`], …) where there is one: it also keeps the books.

#![expect(unsafe_code, reason = "hands addresses of its arguments to the hypervisor")]

pub mod mmu;
pub mod multicall;
pub mod raw;
pub mod table;
pub mod typed;

use pv_abi::callback::{CallbackFlags, CallbackOp, CallbackRegister, CallbackType};
use pv_abi::console::ConsoleIoOp;
pub use pv_abi::errno::Errno;
use pv_abi::evtchn::EvtchnOp;
use pv_abi::grant::GnttabOp;
use pv_abi::memory::MemoryOp;
use pv_abi::sched::SchedOp;
use pv_abi::trap::{SegmentBase, TrapInfo};
use pv_abi::vcpu::VcpuOp;
use pv_abi::version::{
    CAPABILITIES_INFO_LEN, CHANGESET_INFO_LEN, COMMANDLINE_LEN, EXTRAVERSION_LEN, XenCompileInfo,
    XenFeatureInfo, XenPlatformParameters, XenVersionOp,
};
use pv_abi::vm_assist::{VmAssist, VmAssistCmd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What a hypercall gives back.
pub type Result<T = ()> = core::result::Result<T, Errno>;

/// Tells success from error. An error number that the ABI does not have counts as EIO.
#[inline(always)]
pub(crate) fn check(returned: i64) -> Result<u64> {
    u64::try_from(returned).map_err(|_| error_of(returned))
}

#[cold]
#[inline(never)]
fn error_of(returned: i64) -> Errno {
    Errno::from_ret(returned).unwrap_or(Errno::Io)
}

/// A structure that a hypercall reads and writes: plain bytes.
pub trait Wire: FromBytes + IntoBytes + Immutable {}
impl<T: FromBytes + IntoBytes + Immutable> Wire for T {}

/// The address of `value` as a hypercall argument.
pub(crate) fn address_of<T: ?Sized>(value: *const T) -> u64 {
    value.cast::<u8>().addr() as u64
}

/// Sets entries of this vcpu's trap table. `entries` must end with an empty one.
pub fn set_trap_table(entries: &[TrapInfo]) -> Result {
    if entries.last().is_none_or(|last| last.address != 0) {
        return Err(Errno::Inval);
    }
    // SAFETY: the hypervisor only reads the list, up to its empty entry.
    unsafe { table::set_trap_table([address_of(entries)]) }.map(drop)
}

/// Registers an entry point of this vcpu that is not an exception; events are masked when it is entered.
pub fn register_callback(kind: CallbackType, address: u64) -> Result {
    let mask = CallbackFlags::MASK_EVENTS.bits();
    let argument = CallbackRegister { kind: kind.raw(), flags: mask, address, ..CallbackRegister::default() };
    // SAFETY: only read.
    unsafe { table::callback_op([CallbackOp::Register.raw().into(), address_of(&raw const argument)]) }
        .map(drop)
}

/// Sets the stack on which traps from user mode arrive.
///
/// # Safety
/// `top` must be the end of memory that serves as nothing else.
pub unsafe fn stack_switch(top: u64) -> Result {
    // SAFETY: as promised by the caller.
    unsafe { table::stack_switch([crate::arch::KERNEL_SS.into(), top]) }.map(drop)
}

/// Sets a segment base of this vcpu.
///
/// # Safety
/// The kernel's GS base belongs to the SDK; user bases are free.
pub unsafe fn set_segment_base(which: SegmentBase, base: u64) -> Result {
    // SAFETY: as promised by the caller.
    unsafe { table::set_segment_base([which.raw().into(), base]) }.map(drop)
}

/// Prints on the hypervisor's console (dom0, or any domain of a debug build).
pub fn console_write(bytes: &[u8]) -> Result {
    let op = ConsoleIoOp::Write.raw().into();
    // SAFETY: only read, and within its length.
    unsafe { table::console_io([op, bytes.len() as u64, address_of(bytes)]) }.map(drop)
}

/// Reads what was typed on the hypervisor's console; returns how many bytes.
pub fn console_read(buffer: &mut [u8]) -> Result<usize> {
    let op = ConsoleIoOp::Read.raw().into();
    // SAFETY: written within its length, and exclusively borrowed.
    let count = unsafe { table::console_io([op, buffer.len() as u64, address_of(buffer)]) }?;
    Ok(usize::try_from(count).unwrap_or(0).min(buffer.len()))
}

/// The hypervisor's version, major and minor.
pub fn version() -> Result<(u64, u64)> {
    // SAFETY: takes no memory.
    let number = unsafe { table::xen_version([XenVersionOp::Version.raw().into(), 0]) }?;
    Ok((number >> 16, number & 0xffff))
}

/// `xen_version` with a structure or text as its result.
///
/// EINVAL if `result` is smaller than what the operation writes. A build id cannot be asked for here: its size is not
/// known in advance.
pub fn version_info<T: Wire + ?Sized>(op: XenVersionOp, result: &mut T) -> Result<u64> {
    if size_of_val(result) < version_result_size(op).ok_or(Errno::Inval)? {
        return Err(Errno::Inval);
    }
    // SAFETY: exclusively borrowed and big enough for what is written.
    unsafe { table::xen_version([op.raw().into(), address_of(&raw const *result)]) }
}

/// Bytes that an operation of `xen_version` writes at most.
const fn version_result_size(op: XenVersionOp) -> Option<usize> {
    match op {
        XenVersionOp::Version | XenVersionOp::Pagesize => Some(0),
        XenVersionOp::Extraversion => Some(EXTRAVERSION_LEN),
        XenVersionOp::CompileInfo => Some(size_of::<XenCompileInfo>()),
        XenVersionOp::Capabilities => Some(CAPABILITIES_INFO_LEN),
        XenVersionOp::Changeset => Some(CHANGESET_INFO_LEN),
        XenVersionOp::PlatformParameters => Some(size_of::<XenPlatformParameters>()),
        XenVersionOp::GetFeatures => Some(size_of::<XenFeatureInfo>()),
        XenVersionOp::GuestHandle => Some(16),
        XenVersionOp::Commandline => Some(COMMANDLINE_LEN),
        XenVersionOp::BuildId => None,
    }
}

/// The feature bits of submap 0.
pub fn features() -> Result<u32> {
    let mut info = XenFeatureInfo::default();
    version_info(XenVersionOp::GetFeatures, &mut info)?;
    Ok(info.submap)
}

/// Switches a behaviour of the hypervisor on for this domain.
pub fn vm_assist_enable(kind: VmAssist) -> Result {
    // SAFETY: takes no memory; the assists change how faults are handled, not what is mapped.
    unsafe { table::vm_assist([VmAssistCmd::Enable.raw().into(), kind.raw().into()]) }.map(drop)
}

macro_rules! with_argument {
    ($(#[$doc:meta])* $name:ident, $op:ty, $call:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `argument` must be the structure that `op` takes, and addresses in it must be good for what `op` does.
        pub unsafe fn $name<T: Wire + ?Sized>(op: $op, argument: &mut T) -> Result<u64> {
            // SAFETY: as promised by the caller; the structure is exclusively borrowed meanwhile.
            unsafe { table::$call([op.raw().into(), address_of(&raw const *argument)]) }
        }
    };
}

with_argument!(
    /// An event-channel operation.
    evtchn_op, EvtchnOp, event_channel_op
);
with_argument!(
    /// A memory operation.
    memory_op, MemoryOp, memory_op
);
with_argument!(
    /// A scheduler operation.
    sched_op, SchedOp, sched_op
);
with_argument!(
    /// An operation on interrupt lines and devices.
    physdev_op, pv_abi::physdev::PhysdevOp, physdev_op
);
/// An operation on a vcpu.
///
/// # Safety
/// `argument` must be the structure that `op` takes, or a null pointer where it takes none.
pub unsafe fn vcpu_op<T: Wire>(op: VcpuOp, vcpu: u32, argument: *mut T) -> Result<u64> {
    // SAFETY: as promised by the caller.
    unsafe { table::vcpu_op([op.raw().into(), vcpu.into(), address_of(argument)]) }
}

/// A grant-table operation on a list; each entry carries its own status.
///
/// # Safety
/// `T` must be the structure that `op` takes, and what the entries map, unmap or copy must be good for that.
pub unsafe fn grant_table_op<T: Wire>(op: GnttabOp, entries: &mut [T]) -> Result {
    // SAFETY: as promised by the caller.
    unsafe { table::grant_table_op([op.raw().into(), address_of(entries), entries.len() as u64]) }.map(drop)
}
