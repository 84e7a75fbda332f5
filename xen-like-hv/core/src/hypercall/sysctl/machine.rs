//! Console ring, memory, and what the machine is.

use pv_abi::errno::Errno;
use pv_abi::frame::PAGE_SIZE_U64;
use pv_abi::sysctl::{
    PhysCaps, Sysctl, SysctlAvailheap, SysctlMeminfo, SysctlNumainfo, SysctlPhysinfo, SysctlReadconsole,
};

use crate::cx::Cx;
use crate::hypercall::GuestPtr;
use crate::port::{Machine, RingRead};

/// Bytes copied at a time.
const CHUNK: usize = 512;
/// Most bytes of one call: as much as any console ring has.
const MAX_BYTES: u32 = 1 << 20;
/// Distance of a node to itself, by convention.
const LOCAL_DISTANCE: u32 = 10;

/// Copies the console ring, from its start or from where an earlier call ended.
pub(super) fn read_console<M: Machine>(cx: &Cx<'_, M>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut request: SysctlReadconsole = op.payload();
    let room = request.count.min(MAX_BYTES);
    let buffer = GuestPtr::<u8>::array(request.buffer, u64::from(room))?;
    let clear = if request.clear == 0 { RingRead::Keep } else { RingRead::Clear };
    let mut from = if request.incremental == 0 { 0 } else { u64::from(request.index) };
    let mut chunk = [0; CHUNK];
    let mut done = 0_u32;
    while done < room {
        let want = usize::try_from(room - done).unwrap_or(CHUNK).min(CHUNK);
        let (got, next) = cx.m.read_ring(from, &mut chunk[..want], clear);
        from = next;
        if got == 0 {
            break;
        }
        buffer.write_slice(cx.m, u64::from(done), &chunk[..got])?;
        done = done.saturating_add(u32::try_from(got).unwrap_or(u32::MAX));
    }
    request.count = done;
    request.index = u32::try_from(from & 0xffff_ffff).unwrap_or(0);
    op.set_payload(&request);
    Ok(())
}

/// What the machine is and has. Threads and cores are not told apart.
pub(super) fn phys_info<M: Machine>(cx: &Cx<'_, M>, op: &mut Sysctl) -> Result<(), Errno> {
    let cpus = u32::try_from(cx.hv.sched.pcpus().iter().count()).unwrap_or(0);
    let info = SysctlPhysinfo {
        threads_per_core: 1,
        cores_per_socket: cpus,
        nr_cpus: cpus,
        max_cpu_id: cpus.saturating_sub(1),
        nr_nodes: 1,
        cpu_khz: cx.hv.platform.tsc_khz,
        capabilities: (PhysCaps::PV | PhysCaps::GNTTAB_V1).bits(),
        total_pages: cx.hv.platform.total_frames,
        free_pages: cx.hv.frames.free_frames(),
        max_mfn: cx.hv.frames.end().raw().saturating_sub(1),
        hw_cap: features(cx.m),
        ..SysctlPhysinfo::default()
    };
    op.set_payload(&info);
    Ok(())
}

/// The feature words in the order of the ABI: 1d 1c e1d e1c Da1 7b0 7c0 e7d.
fn features<M: Machine>(m: &M) -> [u32; 8] {
    let basic = m.cpuid(1, 0);
    let extended = m.cpuid(0x8000_0001, 0);
    let saving = m.cpuid(0xd, 1);
    let structured = m.cpuid(7, 0);
    let power = m.cpuid(0x8000_0007, 0);
    [basic[3], basic[2], extended[3], extended[2], saving[0], structured[1], structured[2], power[3]]
}

/// Free memory. Of a part of the addresses alone nothing is known.
pub(super) fn avail_heap<M: Machine>(cx: &Cx<'_, M>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut request: SysctlAvailheap = op.payload();
    if request.min_bitwidth != 0 || request.max_bitwidth != 0 {
        return Err(Errno::OpNotSupp);
    }
    let here = request.node == -1 || request.node == 0;
    request.avail_bytes = if here { cx.hv.frames.free_frames().saturating_mul(PAGE_SIZE_U64) } else { 0 };
    op.set_payload(&request);
    Ok(())
}

/// The one node. Null handles ask for the number only.
pub(super) fn numa_info<M: Machine>(cx: &Cx<'_, M>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut request: SysctlNumainfo = op.payload();
    if (request.meminfo != 0 || request.distance != 0) && request.num_nodes == 0 {
        return Err(Errno::NoBufs);
    }
    if request.meminfo != 0 {
        let info = SysctlMeminfo {
            memsize: cx.hv.platform.total_frames.saturating_mul(PAGE_SIZE_U64),
            memfree: cx.hv.frames.free_frames().saturating_mul(PAGE_SIZE_U64),
        };
        GuestPtr::new(request.meminfo)?.write(cx.m, &info)?;
    }
    if request.distance != 0 {
        GuestPtr::new(request.distance)?.write(cx.m, &LOCAL_DISTANCE)?;
    }
    request.num_nodes = 1;
    op.set_payload(&request);
    Ok(())
}
