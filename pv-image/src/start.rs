//! start_info and the first state of shared_info.

use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::{MachAddr, Pfn};
use pv_abi::start_info::{START_INFO_MAGIC, StartInfo, StartInfoFlags};
use zerocopy::{FromZeros, IntoBytes};

use crate::error::ImageError;
use crate::layout::PAGE;
use crate::plan::{ConsoleInfo, FrameMap, Plan, Role};

/// Writes start_info into a zeroed page.
pub(crate) fn write_start_info<F: FrameMap + ?Sized>(
    plan: &Plan<'_>,
    frames: &F,
    shared_info: MachAddr,
    page: &mut [u8; PAGE_SIZE],
) -> Result<(), ImageError> {
    let layout = &plan.layout;
    let mut info = StartInfo::new_zeroed();
    let mut flags = StartInfoFlags::empty();
    put(&mut info.magic, 0, START_INFO_MAGIC);
    info.nr_pages = layout.nr_pages;
    info.shared_info = shared_info.raw();
    info.pt_base = layout.va_of(layout.tables.first);
    info.nr_pt_frames = layout.tables.count;
    info.mfn_list = layout.p2m.va;
    put(&mut info.cmd_line, 0, plan.config.cmdline);
    match plan.config.role {
        Role::Dom0 { console } => {
            flags |= StartInfoFlags::PRIVILEGED | StartInfoFlags::INITDOMAIN;
            if plan.kernel.notes().pae {
                put(&mut info.magic, START_INFO_MAGIC.len(), b"p");
            }
            if let Some(console) = console {
                info.console_mfn = place_console_info(console, page);
            }
        }
        Role::DomU { store_port, console_port } => {
            info.store_mfn = frame(frames, layout.store)?;
            info.store_evtchn = store_port;
            info.console_mfn = frame(frames, layout.console)?;
            info.console_evtchn = console_port;
        }
    }
    flags |= write_ramdisk(plan, &mut info);
    info.flags = flags.bits();
    write_p2m_place(plan, &mut info);
    put(page, 0, info.as_bytes());
    Ok(())
}

/// Puts dom0's console description behind start_info; gives the field that points at it.
fn place_console_info(console: ConsoleInfo, page: &mut [u8; PAGE_SIZE]) -> u64 {
    const OFFSET: usize = size_of::<StartInfo>();
    put(page, OFFSET, &console.bytes);
    // Offset in the low half, size in the high half.
    OFFSET as u64 | ((console.bytes.len() as u64) << 32)
}

fn write_ramdisk(plan: &Plan<'_>, info: &mut StartInfo) -> StartInfoFlags {
    let Some(ramdisk) = plan.layout.ramdisk else { return StartInfoFlags::empty() };
    let first = ramdisk.pages.first;
    info.mod_len = ramdisk.bytes;
    if ramdisk.mapped {
        info.mod_start = plan.layout.va_of(first);
        StartInfoFlags::empty()
    } else {
        info.mod_start = first;
        StartInfoFlags::MOD_START_PFN
    }
}

/// `first_p2m_pfn` and `nr_p2m_frames`: the pages of a list that has its own address, tables included.
/// For dom0 without one, the first pfn behind the initial allocation.
fn write_p2m_place(plan: &Plan<'_>, info: &mut StartInfo) {
    let p2m = &plan.layout.p2m;
    if p2m.separate {
        info.first_p2m_pfn = p2m.list.first;
        info.nr_p2m_frames = p2m.list.count + p2m.tables.count;
    } else if matches!(plan.config.role, Role::Dom0 { .. }) {
        info.first_p2m_pfn = plan.layout.first_free;
    }
}

fn frame<F: FrameMap + ?Sized>(frames: &F, pfn: Option<u64>) -> Result<u64, ImageError> {
    let pfn = pfn.unwrap_or(u64::MAX);
    frames.mfn(Pfn::new(pfn)).map(|mfn| mfn.raw()).ok_or(ImageError::NoFrame(pfn))
}

fn put(target: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(target) = target.get_mut(at..at + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

/// First state of a shared_info page: zero, and every vcpu's upcalls masked. The wallclock is the
/// hypervisor's to set.
pub fn init_shared_info(page: &mut [u8; PAGE_SIZE]) {
    const LEGACY_VCPUS: usize = 32;
    const VCPU_INFO: usize = 64;
    const UPCALL_MASK: usize = 1;
    page.fill(0);
    for vcpu in 0..LEGACY_VCPUS {
        put(page, vcpu * VCPU_INFO + UPCALL_MASK, &[1]);
    }
}

/// The same number in two types.
const _: () = assert!(PAGE == PAGE_SIZE as u64);
