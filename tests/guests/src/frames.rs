//! Frames to make page tables of, and entries written without a look at what a sound kernel would write.

use crate::{Claim, Trouble, call, ensure_eq};
use pv_abi::ids::Mfn;
use pv_abi::memory::{MemoryOp, XenMemoryExchange, XenMemoryReservation};
use pv_abi::mmu::{MmuUpdate, MmuextCmd, MmuextOp, UvmFlags};
use pv_abi::pte::{Pte, PteFlags};
use pv_guest_kernel::memory::{Pages, Prot};

/// The flags of a good entry that leads to a table, or to writable data.
pub const RW: u64 = PteFlags::PRESENT
    .union(PteFlags::RW)
    .union(PteFlags::USER)
    .union(PteFlags::ACCESSED)
    .union(PteFlags::DIRTY)
    .bits();
/// The same without the right to write.
pub const RO: u64 = RW & !PteFlags::RW.bits();
const EVERYWHERE: u64 = UvmFlags::INVLPG | UvmFlags::ALL;

/// A page of one's own, whose mapping in the direct map is changed at will. It is mapped writable again when dropped,
/// which must be possible by then.
#[derive(Debug)]
pub struct Frame {
    page: Option<Pages>,
    va: u64,
    mfn: Mfn,
}

impl Frame {
    /// A zeroed page, mapped writable.
    pub fn new() -> Claim<Self> {
        let page = Pages::new(1).ok_or(Trouble::error("no memory"))?;
        let mfn = page.mfn(0).ok_or(Trouble::error("no frame"))?;
        Ok(Self { va: page.va(), page: Some(page), mfn })
    }

    /// A page that is mapped read-only, ready to be a table.
    pub fn read_only() -> Claim<Self> {
        let frame = Self::new()?;
        ensure_eq!(frame.map(Prot::Read), 0, "making a page read-only");
        Ok(frame)
    }

    /// Its frame.
    #[must_use]
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// Where it is mapped.
    #[must_use]
    pub const fn va(&self) -> u64 {
        self.va
    }

    /// An entry for it.
    #[must_use]
    pub const fn entry(&self, flags: u64) -> u64 {
        self.mfn.raw() << 12 | flags
    }

    /// Changes its mapping; the call's answer.
    #[must_use]
    pub fn map(&self, prot: Prot) -> i64 {
        call::update_va_mapping(self.va(), Pte::new(self.mfn, prot.flags()), EVERYWHERE)
    }

    /// Takes its mapping away; the call's answer.
    #[must_use]
    pub fn unmap(&self) -> i64 {
        call::update_va_mapping(self.va(), Pte::EMPTY, EVERYWHERE)
    }

    /// Word `n`.
    #[must_use]
    pub fn word(&self, n: u64) -> u64 {
        call::load(self.va() + n * 8)
    }

    /// Sets word `n` while it is mapped writable.
    pub fn set_word(&self, n: u64, value: u64) {
        call::store(self.va() + n * 8, value);
    }

    /// Sets entry `n` as of a table; the call's answer.
    #[must_use]
    pub fn set(&self, n: u64, value: u64) -> i64 {
        set_entry(self.mfn, n, value)
    }

    /// An operation on the frame; the call's answer.
    #[must_use]
    pub fn ext(&self, cmd: MmuextCmd) -> i64 {
        ext(cmd.raw(), self.mfn.raw(), 0)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if self.map(Prot::ReadWrite) != 0 {
            pv_guest_kernel::println!("a frame is not writable again: {}", self.mfn);
            // The allocator would hand out a page that cannot be written.
            core::mem::forget(self.page.take());
        }
    }
}

/// Sets entry `n` of a table with `mmu_update`; the call's answer.
#[must_use]
pub fn set_entry(table: Mfn, n: u64, value: u64) -> i64 {
    call::mmu_update(&[MmuUpdate { ptr: (table.raw() << 12) + n * 8, val: value }]).0
}

/// One extended operation; the call's answer.
#[must_use]
pub fn ext(cmd: u32, arg1: u64, arg2: u64) -> i64 {
    call::mmuext_op(&[MmuextOp { cmd, _pad: 0, arg1, arg2 }]).0
}

/// A tree of four empty tables, one of each level, the root pinned: entry 0 of each leads to the next.
#[derive(Debug)]
pub struct Tree {
    /// L4, L3, L2, L1.
    pub tables: [Frame; 4],
}

const PINS: [MmuextCmd; 4] =
    [MmuextCmd::PinL1Table, MmuextCmd::PinL2Table, MmuextCmd::PinL3Table, MmuextCmd::PinL4Table];

/// The operation that pins a table of a level.
#[must_use]
pub fn pin_of(level: usize) -> MmuextCmd {
    PINS[(level - 1) % PINS.len()]
}

impl Tree {
    /// Builds and pins it.
    pub fn new() -> Claim<Self> {
        let tables = [Frame::new()?, Frame::new()?, Frame::new()?, Frame::new()?];
        for pair in tables.windows(2) {
            pair[0].set_word(0, pair[1].entry(RW));
        }
        for table in &tables {
            ensure_eq!(table.map(Prot::Read), 0, "making a table read-only");
        }
        ensure_eq!(tables[0].ext(MmuextCmd::PinL4Table), 0, "pinning a tree");
        Ok(Self { tables })
    }

    /// The table of a level.
    #[must_use]
    pub fn level(&self, level: usize) -> &Frame {
        &self.tables[(4 - level) % 4]
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.tables[0].ext(MmuextCmd::UnpinTable) != 0 {
            pv_guest_kernel::println!("a tree cannot be unpinned");
        }
    }
}

/// A reservation of a list of frames, one page each.
#[must_use]
pub fn reservation(frames: &mut [u64]) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: call::address_mut(frames),
        nr_extents: frames.len() as u64,
        domid: pv_abi::ids::DomId::SELF.raw(),
        ..XenMemoryReservation::default()
    }
}

/// A memory operation; its answer.
#[must_use]
pub fn memory_op<T: ?Sized>(op: MemoryOp, argument: &mut T) -> i64 {
    let args = [u64::from(op.raw()), call::address_mut(argument)];
    call::call(pv_abi::hypercall::Hypercall::MemoryOp, args)
}

/// Exchanges frames for others; the answer and how many were exchanged.
#[must_use]
pub fn exchange(given: &mut [u64], taken: &mut [u64]) -> (i64, u64) {
    let mut argument =
        XenMemoryExchange { in_: reservation(given), out: reservation(taken), nr_exchanged: 0 };
    let answer = memory_op(MemoryOp::Exchange, &mut argument);
    (answer, argument.nr_exchanged)
}

/// The largest frame number of RAM: what lies behind it may be a device, which dom0 may map.
#[must_use]
pub fn end_of_ram() -> u64 {
    let args = [u64::from(MemoryOp::MaximumRamPage.raw()), 0];
    u64::try_from(call::call(pv_abi::hypercall::Hypercall::MemoryOp, args)).unwrap_or(u64::MAX)
}

/// How many frames the domain has.
pub fn current_reservation() -> Claim<u64> {
    let mut domain = pv_abi::ids::DomId::SELF.raw();
    call::granted("current_reservation", memory_op(MemoryOp::CurrentReservation, &mut domain))
}
