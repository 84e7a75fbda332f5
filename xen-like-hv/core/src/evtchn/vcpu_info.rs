//! Where a vcpu's `vcpu_info` lies, and what the hypervisor does to it.
//!
//! The page is shared with the guest, which changes its bytes with its own instructions; the hypervisor works on whole
//! words with locked operations, so that neither loses the other's change.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicU64};

use pv_abi::evtchn::NR_VIRQS;
use pv_abi::ids::{EvtchnPort, Mfn, Virq};
use pv_abi::shared_info::{VCPU_INFO_CR2, VCPU_INFO_PENDING_SEL, VCPU_INFO_TIME};

use super::words;
use crate::port::Frames;

/// `evtchn_upcall_pending`, as part of word 0.
const PENDING: u64 = 0xff;
/// `evtchn_upcall_mask`, as part of word 0.
const MASK: u64 = 0xff << 8;
/// Value of `evtchn_upcall_mask` in a vcpu_info that nobody has written yet.
const MASKED: u64 = 1 << 8;
/// Word of `evtchn_pending_sel`.
const SELECTOR_WORD: usize = VCPU_INFO_PENDING_SEL / 8;
/// Word of `arch.cr2`.
const CR2_WORD: usize = VCPU_INFO_CR2 / 8;
/// First word of `time`.
const TIME_WORD: usize = VCPU_INFO_TIME / 8;
/// Number of lines.
const LINES: usize = NR_VIRQS as usize;

/// Where a vcpu's `vcpu_info` lies, and which of its virtual interrupt lines are bound.
#[derive(Debug, Default)]
pub struct VcpuEvents {
    /// Machine address of `vcpu_info`; 0 is none.
    info: AtomicU64,
    /// Port of each line, 0 for none; written under the domain's event lock.
    virqs: [AtomicU32; LINES],
}

impl VcpuEvents {
    /// Places `vcpu_info` at an 8-byte-aligned machine address inside one frame.
    pub fn set_info(&self, mfn: Mfn, offset: u64) {
        self.info.store(mfn.to_maddr().raw() | offset, SeqCst);
    }

    /// Where `vcpu_info` lies: frame and offset.
    #[must_use]
    pub fn info_location(&self) -> Option<(Mfn, u32)> {
        let info = self.info.load(SeqCst);
        let offset = u32::try_from(info & 0xfff).unwrap_or(0);
        (info != 0).then(|| (Mfn::new(info >> 12), offset))
    }

    /// Forgets `vcpu_info`: from now on nothing is written there.
    pub fn clear_info(&self) {
        self.info.store(0, SeqCst);
    }

    /// Word `n` of `vcpu_info`.
    fn word<'m>(&self, m: &'m impl Frames, n: usize) -> Option<&'m AtomicU64> {
        let info = self.info.load(Relaxed);
        let index = usize::try_from(info >> 3 & 511).ok()? + n;
        if info == 0 { None } else { m.words(Mfn::new(info >> 12)).get(index) }
    }

    /// The first word of `vcpu_info`: bytes pending and mask.
    pub fn upcall_word<'m>(&self, m: &'m impl Frames) -> Option<&'m AtomicU64> {
        self.word(m, 0)
    }

    /// Sets a bit of `evtchn_pending_sel` and, if it was clear, `evtchn_upcall_pending`; whether that was clear too.
    pub(super) fn raise(&self, m: &impl Frames, selector: u64) -> bool {
        let info = self.info.load(Relaxed);
        if info == 0 {
            return false;
        }
        let frame = m.words(Mfn::new(info >> 12));
        let Ok(index) = usize::try_from(info >> 3 & 511) else { return false };
        let (Some(upcall), Some(select)) = (frame.get(index), frame.get(index + SELECTOR_WORD)) else {
            return false;
        };
        words::raise(select, upcall, selector)
    }

    /// Sets `evtchn_upcall_pending`; whether it was clear.
    pub(super) fn raise_upcall(&self, m: &impl Frames) -> bool {
        self.word(m, 0).is_some_and(|upcall| upcall.fetch_or(1, SeqCst) & 1 == 0)
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

    /// Masks upcalls; whether they were masked. A vcpu without `vcpu_info` gets none.
    pub fn mask_upcalls(&self, m: &impl Frames) -> bool {
        // Only the vcpu itself changes its mask, and it does not run now; the guest's other vcpus may change the other bytes.
        let Some(w) = self.word(m, 0) else { return true };
        let masked = w.load(Relaxed) & MASK != 0;
        if !masked {
            w.fetch_or(MASKED, SeqCst);
        }
        masked
    }

    /// Masks upcalls.
    pub fn set_upcall_mask(&self, m: &impl Frames) {
        self.store_upcall_mask(m, true);
    }

    /// Masks or unmasks upcalls, as an iret frame says.
    pub fn store_upcall_mask(&self, m: &impl Frames, masked: bool) {
        if let Some(w) = self.word(m, 0) {
            if masked {
                w.fetch_or(MASKED, SeqCst);
            } else {
                w.fetch_and(!MASK, SeqCst);
            }
        }
    }

    /// Publishes the vcpu's clock: the four words of `vcpu_time_info`, whose first holds the new, even version. The
    /// version is odd while the others change.
    pub fn store_time(&self, m: &impl Frames, words: [u64; 4]) {
        let Some(version) = self.word(m, TIME_WORD) else { return };
        let [told, stamp, time, scale] = words;
        version.store(told.wrapping_sub(1), SeqCst);
        for (n, value) in [(TIME_WORD + 1, stamp), (TIME_WORD + 2, time), (TIME_WORD + 3, scale)] {
            if let Some(w) = self.word(m, n) {
                w.store(value, SeqCst);
            }
        }
        version.store(told, SeqCst);
    }

    /// The address of a page fault as the guest was told, or set it; 0 without `vcpu_info`.
    pub fn cr2(&self, m: &impl Frames) -> u64 {
        self.word(m, CR2_WORD).map_or(0, |w| w.load(Relaxed))
    }

    /// Tells the guest the address of a page fault.
    pub fn store_cr2(&self, m: &impl Frames, cr2: u64) {
        if let Some(w) = self.word(m, CR2_WORD) {
            w.store(cr2, Relaxed);
        }
    }

    fn line(&self, virq: Virq) -> Option<&AtomicU32> {
        self.virqs.get(usize::try_from(virq.raw()).ok()?)
    }

    /// The port bound to a line of this vcpu.
    #[must_use]
    pub fn virq_port(&self, virq: Virq) -> Option<EvtchnPort> {
        match self.line(virq)?.load(SeqCst) {
            0 => None,
            port => Some(EvtchnPort::new(port)),
        }
    }

    /// Binds or unbinds a line. The caller holds the domain's event lock.
    pub(super) fn set_virq_port(&self, virq: Virq, port: Option<EvtchnPort>) {
        if let Some(line) = self.line(virq) {
            line.store(port.map_or(0, EvtchnPort::raw), SeqCst);
        }
    }
}
