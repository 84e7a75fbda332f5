//! The queues of a domain: what the hypervisor alone knows of them.
//!
//! Tails, priorities and the queue that a port was last put into are kept here and never read back from the guest's
//! pages. So whatever the guest writes there, an index is one that the hypervisor has made.

use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::evtchn::{FIFO_MAX_QUEUES, FIFO_NR_CHANNELS, FIFO_PRIORITY_DEFAULT};
use pv_abi::ids::{EvtchnPort, Mfn, VcpuId};

use super::word::{self, Appended, Half, WordIo};
use crate::port::Frames;

/// Event words in a page of the array.
pub(super) const WORDS_PER_PAGE: usize = 1024;
/// Pages of the largest array.
pub(super) const MAX_PAGES: usize = FIFO_NR_CHANNELS as usize / WORDS_PER_PAGE;
/// Offset of the first head in a control block, as an index of 32-bit words.
const FIRST_HEAD: usize = 2;

/// What is known of a port besides its event word.
#[derive(Clone, Copy, Debug, Hash)]
struct PortQueue {
    /// The vcpu whose queue it was last put into.
    last_vcpu: u32,
    /// The priority of that queue.
    last_priority: u8,
    /// The priority of the queue that it is put into next.
    priority: u8,
    /// An event came in while there was no event word.
    waiting: bool,
}

const DEFAULT_PRIORITY: u8 = 7;
const _: () = assert!(DEFAULT_PRIORITY as u32 == FIFO_PRIORITY_DEFAULT, "ABI's default");

impl PortQueue {
    const NEW: Self =
        Self { last_vcpu: 0, last_priority: DEFAULT_PRIORITY, priority: DEFAULT_PRIORITY, waiting: false };
}

/// Where a control block lies: a frame of the guest's that is held with a writable reference, and the 32-bit word in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Control {
    pub(super) mfn: Mfn,
    pub(super) first: usize,
}

impl Control {
    fn word<'m>(&self, m: &'m impl Frames, index: usize) -> Option<Half<'m>> {
        let at = self.first.checked_add(index)?;
        Some(Half::new(m.words(self.mfn).get(at / 2)?, at))
    }

    /// The word of which bit `n` says that queue `n` is not empty.
    fn ready<'m>(&self, m: &'m impl Frames) -> Option<Half<'m>> {
        self.word(m, 0)
    }

    /// The first port of a queue.
    fn head<'m>(&self, m: &'m impl Frames, priority: u8) -> Option<Half<'m>> {
        self.word(m, FIRST_HEAD + usize::from(priority))
    }
}

/// The queues of one vcpu.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct VcpuQueues {
    control: Option<Control>,
    /// The last port of each queue; 0 is none.
    tails: [u32; FIFO_MAX_QUEUES],
}

/// What setting a port pending led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The port was not pending before.
    pub(super) news: bool,
    /// A queue is ready that was not: the vcpu needs an upcall.
    pub(super) upcall: bool,
}

/// All queues of a domain; without any while the domain uses the two-level ABI.
#[derive(Debug, Default)]
pub(super) struct State {
    queues: Vec<VcpuQueues>,
    /// The frames of event words, each held with a writable reference.
    pages: Vec<Mfn>,
    /// 1024 ports each; they come before the page of their event words.
    ports: Vec<Vec<PortQueue>>,
}

fn place(port: EvtchnPort) -> (usize, usize) {
    let port = usize::try_from(port.raw()).unwrap_or(usize::MAX);
    (port / WORDS_PER_PAGE, port % WORDS_PER_PAGE)
}

/// Memory for what is known of 1024 ports, allocated outside the locks.
pub(super) struct Chunk(Vec<PortQueue>);

impl Chunk {
    pub(super) fn new() -> Result<Self, Errno> {
        let mut ports = Vec::new();
        if memory_is_short!() {
            return Err(Errno::NoMem);
        }
        ports.try_reserve_exact(WORDS_PER_PAGE).map_err(|_| Errno::NoMem)?;
        ports.resize(WORDS_PER_PAGE, PortQueue::NEW);
        Ok(Self(ports))
    }
}

impl State {
    /// Queues for `vcpus` vcpus and no port.
    pub(super) fn new(vcpus: usize) -> Result<Self, Errno> {
        let mut state = Self::default();
        if memory_is_short!() {
            return Err(Errno::NoMem);
        }
        state.queues.try_reserve_exact(vcpus).map_err(|_| Errno::NoMem)?;
        state.queues.resize(vcpus, VcpuQueues::default());
        state.pages.try_reserve_exact(MAX_PAGES).map_err(|_| Errno::NoMem)?;
        state.ports.try_reserve_exact(MAX_PAGES).map_err(|_| Errno::NoMem)?;
        Ok(state)
    }

    /// Whether there are queues at all.
    pub(super) fn exists(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Ports of which something can be known.
    pub(super) fn covered(&self) -> u32 {
        u32::try_from(self.ports.len().saturating_mul(WORDS_PER_PAGE)).unwrap_or(u32::MAX)
    }

    /// Makes 1024 more ports known, in the room that [`Self::new`] has reserved.
    pub(super) fn cover_more(&mut self, chunk: Chunk) {
        if self.ports.len() < self.ports.capacity() {
            self.ports.push(chunk.0);
        }
    }

    /// Event words that the guest has given.
    pub(super) fn words(&self) -> u32 {
        u32::try_from(self.pages.len().saturating_mul(WORDS_PER_PAGE)).unwrap_or(u32::MAX)
    }

    /// Whether the array has its last page.
    pub(super) fn is_full(&self) -> bool {
        self.pages.len() >= MAX_PAGES
    }

    /// Adds a page of event words, held with a reference; the ports whose words are in it.
    pub(super) fn add_page(&mut self, mfn: Mfn) -> core::ops::Range<u32> {
        let first = self.words();
        self.pages.push(mfn);
        first..self.words()
    }

    /// The control block of a vcpu; a frame where there is one.
    pub(super) fn control(&self, vcpu: VcpuId) -> Option<Control> {
        self.queues.get(usize::try_from(vcpu.raw()).ok()?)?.control
    }

    /// Sets the control block of a vcpu; whether there are queues for such a vcpu and it had none.
    pub(super) fn set_control(&mut self, vcpu: VcpuId, control: Control) -> bool {
        let queues = usize::try_from(vcpu.raw()).ok().and_then(|n| self.queues.get_mut(n));
        match queues {
            Some(queues) if queues.control.is_none() => {
                queues.control = Some(control);
                true
            }
            _ => false,
        }
    }

    /// All frames that are held.
    pub(super) fn frames(&self) -> impl Iterator<Item = Mfn> {
        let controls = self.queues.iter().filter_map(|q| q.control).map(|c| c.mfn);
        self.pages.iter().copied().chain(controls)
    }

    fn known(&mut self, port: EvtchnPort) -> Option<&mut PortQueue> {
        let (chunk, index) = place(port);
        self.ports.get_mut(chunk)?.get_mut(index)
    }

    /// The event word of a port, if the guest has given one.
    pub(super) fn word<'m>(&self, m: &'m impl Frames, port: EvtchnPort) -> Option<Half<'m>> {
        let (page, index) = place(port);
        Some(Half::new(m.words(*self.pages.get(page)?).get(index / 2)?, index))
    }

    /// The queue that a port's next event goes into.
    pub(super) fn set_priority(&mut self, port: EvtchnPort, priority: u8) {
        if let Some(known) = self.known(port) {
            known.priority = priority;
        }
    }

    /// Notes an event for when there is an event word.
    pub(super) fn set_waiting(&mut self, port: EvtchnPort) {
        if let Some(known) = self.known(port) {
            known.waiting = true;
        }
    }

    /// Takes a noted event.
    pub(super) fn take_waiting(&mut self, port: EvtchnPort) -> bool {
        self.known(port).is_some_and(|known| core::mem::take(&mut known.waiting)) && !seeded!(WaitingIsLost)
    }

    /// A port is closed: its event is taken back and its next user starts with the default priority. It stays in the
    /// queue that it is in.
    pub(super) fn forget(&mut self, m: &impl Frames, port: EvtchnPort) {
        if let Some(known) = self.known(port) {
            *known = PortQueue { priority: DEFAULT_PRIORITY, waiting: false, ..*known };
        }
        if let Some(word) = self.word(m, port) {
            word.clear(word::PENDING);
        }
    }

    /// Whether a port is pending.
    pub(super) fn is_pending(&self, m: &impl Frames, port: EvtchnPort) -> bool {
        match self.word(m, port) {
            Some(word) => word.load() & word::PENDING != 0,
            None => {
                let (chunk, index) = place(port);
                self.ports.get(chunk).and_then(|c| c.get(index)).is_some_and(|known| known.waiting)
            }
        }
    }

    /// Sets a port pending that notifies `vcpu`, and puts it into a queue unless it is masked or in one.
    pub(super) fn deliver(&mut self, m: &impl Frames, vcpu: VcpuId, port: EvtchnPort) -> Delivery {
        let Some(word) = self.word(m, port) else {
            self.set_waiting(port);
            return Delivery::default();
        };
        // Without a control block nobody can be told. The guest may not unmask a port before it has given one.
        let Some(control) = self.control(vcpu) else {
            return Delivery { news: word.set(word::PENDING) & word::PENDING == 0, upcall: false };
        };
        let raised = word::raise(&word);
        let upcall = raised.to_link && self.link(m, vcpu, &control, port);
        Delivery { news: !raised.was_pending, upcall }
    }

    /// Puts a port that was just marked as linked at the end of its queue; whether the vcpu has to be told.
    fn link(&mut self, m: &impl Frames, vcpu: VcpuId, control: &Control, port: EvtchnPort) -> bool {
        let Some(known) = self.known(port) else { return false };
        let before = *known;
        let priority = before.priority;
        *known = PortQueue { last_vcpu: vcpu.raw(), last_priority: priority, ..before };
        // It was the tail of a queue, so that queue has been emptied since: nothing may be linked behind it any more.
        if let Some(old) = self.tail(before.last_vcpu, before.last_priority)
            && *old == port.raw()
            && !seeded!(TailOutlivesQueue)
        {
            *old = 0;
        }
        let Some(tail) = self.tail(vcpu.raw(), priority) else { return false };
        let last = core::mem::replace(tail, port.raw());
        if last != 0
            && let Some(last) = self.word(m, EvtchnPort::new(last))
            && word::append(&last, port.raw()) == Appended::Behind
        {
            return false;
        }
        let (Some(head), Some(ready)) = (control.head(m, priority), control.ready(m)) else { return false };
        head.store(port.raw());
        let bit = 1 << priority;
        ready.set(bit) & bit == 0
    }

    fn tail(&mut self, vcpu: u32, priority: u8) -> Option<&mut u32> {
        self.queues.get_mut(usize::try_from(vcpu).ok()?)?.tails.get_mut(usize::from(priority))
    }

    /// All that what happens next depends on, as far as the first ports go: for the models.
    #[cfg(test)]
    pub(super) fn hash(&self, ports: usize, into: &mut impl core::hash::Hasher) {
        use core::hash::Hash;
        (&self.queues, &self.pages).hash(into);
        self.ports.iter().flatten().take(ports).for_each(|known| known.hash(into));
    }

    /// What is wrong: for the audit.
    pub(super) fn faults(&self) -> impl Iterator<Item = &'static str> {
        let tails = self.queues.iter().flat_map(|q| q.tails).any(|t| t != 0 && t >= self.words());
        let uncovered = self.words() > self.covered();
        let blind = self.queues.iter().any(|q| q.control.is_none() && q.tails.iter().any(|&t| t != 0));
        let lost = self.ports.iter().flatten().any(|p| {
            usize::try_from(p.last_vcpu).map_or(true, |n| n >= self.queues.len())
                || usize::from(p.priority.max(p.last_priority)) >= FIFO_MAX_QUEUES
        });
        [
            (tails, "a queue ends with a port that has no event word"),
            (uncovered, "event words of ports of which nothing is known"),
            (blind, "a queue without a control block"),
            (lost && self.exists(), "a port in a queue that does not exist"),
        ]
        .into_iter()
        .filter_map(|(wrong, what)| wrong.then_some(what))
    }
}
