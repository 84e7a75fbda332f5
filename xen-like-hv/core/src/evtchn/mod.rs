//! Event channels.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use pv_abi::ids::Mfn;

use crate::port::Frames;

/// Event channels of a domain.
#[derive(Debug, Default)]
pub struct DomainEvents {}

/// Where a vcpu's `vcpu_info` lies, and what it waits for.
///
/// The page is shared with the guest, which changes its bytes with its own instructions; the hypervisor works on whole
/// words with locked operations, so that neither loses the other's change.
#[derive(Debug, Default)]
pub struct VcpuEvents {
    /// Machine address of `vcpu_info`; 0 is none.
    info: AtomicU64,
}

/// Word 0 of `vcpu_info`: byte 0 is `evtchn_upcall_pending`, byte 1 `evtchn_upcall_mask`.
const PENDING: u64 = 0xff;
const MASK: u64 = 0xff << 8;
/// Word of `vcpu_info.arch.cr2`.
const CR2_WORD: usize = 2;
/// First word of `vcpu_info.time`.
const TIME_WORD: usize = 4;

impl VcpuEvents {
    /// Places `vcpu_info` at an 8-byte-aligned machine address inside one frame.
    pub fn set_info(&self, mfn: Mfn, offset: u64) {
        self.info.store(mfn.to_maddr().raw() | offset, Relaxed);
    }

    /// Where `vcpu_info` lies: frame and offset.
    #[must_use]
    pub fn info_location(&self) -> Option<(Mfn, u32)> {
        let info = self.info.load(Relaxed);
        let offset = u32::try_from(info & 0xfff).unwrap_or(0);
        (info != 0).then(|| (Mfn::new(info >> 12), offset))
    }

    /// Forgets where `vcpu_info` lies.
    pub fn clear_info(&self) {
        self.info.store(0, Relaxed);
    }

    /// Word `n` of `vcpu_info`.
    fn word<'m>(&self, m: &'m impl Frames, n: usize) -> Option<&'m AtomicU64> {
        let info = self.info.load(Relaxed);
        let index = usize::try_from(info >> 3 & 511).ok()? + n;
        if info == 0 { None } else { m.words(Mfn::new(info >> 12)).get(index) }
    }

    /// Whether upcalls are masked; a vcpu without `vcpu_info` gets none.
    pub fn upcall_masked(&self, m: &impl Frames) -> bool {
        self.word(m, 0).is_none_or(|w| w.load(Relaxed) & MASK != 0)
    }

    /// Whether an upcall is pending and not masked.
    pub fn upcall_wanted(&self, m: &impl Frames) -> bool {
        self.word(m, 0).is_some_and(|w| {
            let v = w.load(Relaxed);
            v & PENDING != 0 && v & MASK == 0
        })
    }

    /// Masks upcalls.
    pub fn set_upcall_mask(&self, m: &impl Frames) {
        self.store_upcall_mask(m, true);
    }

    /// Masks or unmasks upcalls, as an iret frame says.
    pub fn store_upcall_mask(&self, m: &impl Frames, masked: bool) {
        if let Some(w) = self.word(m, 0) {
            if masked {
                w.fetch_or(1 << 8, SeqCst);
            } else {
                w.fetch_and(!MASK, SeqCst);
            }
        }
    }

    /// Publishes the vcpu's clock: the four words of `vcpu_time_info`, whose first holds the new, even version. The
    /// version is odd while the others change.
    pub fn store_time(&self, m: &impl Frames, words: [u64; 4]) {
        let Some(version) = self.word(m, TIME_WORD) else { return };
        version.store(words[0].wrapping_sub(1), SeqCst);
        for (n, value) in (TIME_WORD..).zip(words).skip(1) {
            if let Some(w) = self.word(m, n) {
                w.store(value, SeqCst);
            }
        }
        version.store(words[0], SeqCst);
    }

    /// Tells the guest the address of a page fault.
    pub fn store_cr2(&self, m: &impl Frames, cr2: u64) {
        if let Some(w) = self.word(m, CR2_WORD) {
            w.store(cr2, Relaxed);
        }
    }
}
