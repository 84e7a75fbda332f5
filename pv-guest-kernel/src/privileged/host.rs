//! The machine as a whole.

#![expect(unsafe_code, reason = "sysctl hypercalls with buffers")]

use alloc::vec::Vec;

use pv_abi::domctl::DomctlGetdomaininfo;
use pv_abi::ids::DomId;
use pv_abi::memory::{E820Entry, MemoryOp, XenMemoryMap};
use pv_abi::sysctl::{
    Sysctl, SysctlCmd, SysctlCpuinfo, SysctlDebugKeys, SysctlGetcpuinfo, SysctlGetdomaininfolist,
    SysctlPhysinfo, SysctlReadconsole, SysctlSchedId,
};
use zerocopy::FromZeros;

use crate::hypercall::{Errno, Result, address_of, memory_op, table};

/// Carries out `op`.
///
/// # Safety
/// An address in the payload must be good for what the command does with it.
unsafe fn run(op: &mut Sysctl) -> Result {
    // SAFETY: the structure is borrowed exclusively meanwhile; its payload is as the caller promised.
    unsafe { table::sysctl([address_of(&raw const *op)]) }.map(drop)
}

/// Processors and memory.
pub fn physinfo() -> Result<SysctlPhysinfo> {
    let mut op = Sysctl::new(SysctlCmd::PhysInfo, &SysctlPhysinfo::default());
    // SAFETY: no address in the payload.
    unsafe { run(&mut op) }?;
    Ok(op.payload())
}

/// Which scheduler runs (`XEN_SCHEDULER_*`).
pub fn scheduler_id() -> Result<u32> {
    let mut op = Sysctl::new(SysctlCmd::SchedId, &SysctlSchedId::default());
    // SAFETY: no address in the payload.
    unsafe { run(&mut op) }?;
    Ok(op.payload::<SysctlSchedId>().sched_id)
}

/// Domains from number `first` on; how many entries of `list` were filled.
pub fn list_domains(first: DomId, list: &mut [DomctlGetdomaininfo]) -> Result<usize> {
    let payload = SysctlGetdomaininfolist {
        first_domain: first.raw(),
        max_domains: u32::try_from(list.len()).unwrap_or(u32::MAX),
        buffer: address_of(&raw const *list),
        ..SysctlGetdomaininfolist::default()
    };
    let mut op = Sysctl::new(SysctlCmd::GetDomainInfoList, &payload);
    // SAFETY: the list is borrowed exclusively and has that many entries.
    unsafe { run(&mut op) }?;
    let found = op.payload::<SysctlGetdomaininfolist>().num_domains;
    Ok(usize::try_from(found).unwrap_or(0).min(list.len()))
}

/// Reads the hypervisor's log from position `index` on, which moves along; how many bytes were read.
pub fn read_console(index: &mut u32, buffer: &mut [u8]) -> Result<usize> {
    let payload = SysctlReadconsole {
        incremental: 1,
        index: *index,
        buffer: address_of(&raw const *buffer),
        count: u32::try_from(buffer.len()).unwrap_or(u32::MAX),
        ..SysctlReadconsole::default()
    };
    let mut op = Sysctl::new(SysctlCmd::ReadConsole, &payload);
    // SAFETY: the buffer is borrowed exclusively and has that many bytes.
    unsafe { run(&mut op) }?;
    let done: SysctlReadconsole = op.payload();
    *index = done.index;
    Ok(usize::try_from(done.count).unwrap_or(0).min(buffer.len()))
}

/// Presses debug keys of the hypervisor.
pub fn press_debug_keys(keys: &[u8]) -> Result {
    let payload = SysctlDebugKeys {
        keys: address_of(keys),
        nr_keys: u32::try_from(keys.len()).map_err(|_| Errno::Inval)?,
        ..SysctlDebugKeys::default()
    };
    // SAFETY: the keys are only read.
    unsafe { run(&mut Sysctl::new(SysctlCmd::DebugKeys, &payload)) }
}

/// Idle time of each pcpu in nanoseconds; how many entries of `list` were filled.
pub fn idle_times(list: &mut [SysctlCpuinfo]) -> Result<usize> {
    let payload = SysctlGetcpuinfo {
        max_cpus: u32::try_from(list.len()).unwrap_or(u32::MAX),
        info: address_of(&raw const *list),
        ..SysctlGetcpuinfo::default()
    };
    let mut op = Sysctl::new(SysctlCmd::GetCpuInfo, &payload);
    // SAFETY: the list is borrowed exclusively and has that many entries.
    unsafe { run(&mut op) }?;
    let found = op.payload::<SysctlGetcpuinfo>().nr_cpus;
    Ok(usize::try_from(found).unwrap_or(0).min(list.len()))
}

/// The machine's memory map.
pub fn machine_memory_map() -> Result<Vec<E820Entry>> {
    let mut entries = alloc::vec![E820Entry::new_zeroed(); 128];
    let mut argument =
        XenMemoryMap { nr_entries: 128, buffer: address_of(entries.as_mut_ptr()), ..Default::default() };
    // SAFETY: the buffer has room for that many entries and is ours.
    unsafe { memory_op(MemoryOp::MachineMemoryMap, &mut argument) }?;
    entries.truncate(usize::try_from(argument.nr_entries).unwrap_or(0));
    Ok(entries)
}
