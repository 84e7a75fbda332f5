//! A domain's ports: their states, and which are free.
//!
//! All of it is under the lock of rank [`rank::EVTCHN`] of its domain. Both ends of an interdomain channel change
//! together, under both locks, taken in ascending order of domain ids.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hv_sync::{Guard, SpinLock, lock_pair, rank};
use pv_abi::errno::Errno;
use pv_abi::evtchn::FIFO_NR_CHANNELS;
use pv_abi::ids::{DomId, EvtchnPort, Mfn, VcpuId, Virq};
use pv_abi::shared_info::EVTCHN_2L_NR_CHANNELS;

use super::fifo::Fifo;
use crate::domain::Domain;
use crate::port::Frames;
use crate::vcpu::Vcpu;

/// Ports become valid in groups of this many, as the guest needs them.
pub(super) const GROUP: u32 = 64;

/// The other end of an interdomain channel.
#[derive(Clone)]
pub(super) struct Peer {
    /// Whose.
    pub(super) domain: Arc<Domain>,
    /// Its port.
    pub(super) port: EvtchnPort,
    /// The vcpu it notifies: a copy, so that a sender needs its own lock alone.
    pub(super) vcpu: Option<Arc<Vcpu>>,
}

/// What a port is. The table of states is in the [module's documentation](super).
#[derive(Clone, Default)]
pub(super) enum PortState {
    /// Nobody's.
    #[default]
    Free,
    /// Never given out: port 0.
    Reserved,
    /// A domain may connect to it.
    Unbound(DomId),
    /// Connected.
    Interdomain(Peer),
    /// A virtual interrupt line.
    Virq(Virq),
    /// A port to oneself.
    Ipi,
    /// A physical interrupt line.
    Pirq(u32),
}

/// A port.
#[derive(Default)]
pub(super) struct Port {
    /// What it is.
    pub(super) state: PortState,
    /// The vcpu that is notified.
    pub(super) vcpu: VcpuId,
    /// The same; none if the domain had no such vcpu yet when the port was made.
    pub(super) target: Option<Arc<Vcpu>>,
}

/// A domain's ports.
pub(super) struct Table {
    ports: Vec<Port>,
    /// One bit per port: it is free.
    free: Vec<u64>,
    /// Nothing new is bound any more.
    pub(super) dying: bool,
    /// Where closing all ports goes on.
    pub(super) next_to_close: u32,
}

impl Default for Table {
    /// The first group is there from the start: port 0 is reserved, and a guest may name the others.
    fn default() -> Self {
        let group = usize::try_from(GROUP).unwrap_or(0);
        let mut table = Self {
            ports: Vec::with_capacity(group),
            free: Vec::with_capacity(1),
            dying: false,
            next_to_close: 0,
        };
        table.extend();
        table
    }
}

fn position(port: EvtchnPort) -> (usize, u64) {
    let word = usize::try_from(port.raw() / 64).unwrap_or(usize::MAX);
    (word, 1 << (port.raw() % 64))
}

impl Table {
    /// Ports that a guest may name without being told that they do not exist.
    pub(super) fn valid(&self) -> u32 {
        u32::try_from(self.ports.len()).unwrap_or(u32::MAX)
    }

    /// The port of that number.
    pub(super) fn port(&self, port: EvtchnPort) -> Result<&Port, Errno> {
        usize::try_from(port.raw()).ok().and_then(|index| self.ports.get(index)).ok_or(Errno::Inval)
    }

    /// The port of that number, to change it.
    pub(super) fn port_mut(&mut self, port: EvtchnPort) -> Result<&mut Port, Errno> {
        usize::try_from(port.raw()).ok().and_then(|index| self.ports.get_mut(index)).ok_or(Errno::Inval)
    }

    /// Whether the free list says that a port is free.
    pub(super) fn is_marked_free(&self, port: EvtchnPort) -> bool {
        let (word, bit) = position(port);
        self.free.get(word).is_some_and(|w| w & bit != 0)
    }

    /// The lowest free port that is not `busy`.
    fn lowest_free(&self, busy: impl Fn(EvtchnPort) -> bool) -> Option<EvtchnPort> {
        let marked = (0_u32..).step_by(64).zip(&self.free).filter(|(_, word)| **word != 0);
        let mut ports = marked
            .flat_map(|(base, &word)| (0..64).filter(move |n| word >> n & 1 != 0).map(move |n| base + n));
        ports.find(|&port| !busy(EvtchnPort::new(port))).map(EvtchnPort::new)
    }

    /// Gives a port a new state and takes it off the free list.
    pub(super) fn occupy(&mut self, port: EvtchnPort, new: Port) {
        let (word, bit) = position(port);
        if let Some(w) = self.free.get_mut(word) {
            *w &= !bit;
        }
        if let Ok(p) = self.port_mut(port) {
            *p = new;
        }
    }

    /// Frees a port; returns what it was.
    pub(super) fn release(&mut self, port: EvtchnPort) -> Port {
        let Ok(p) = self.port_mut(port) else { return Port::default() };
        let old = core::mem::take(p);
        let (word, bit) = position(port);
        if let Some(w) = self.free.get_mut(word) {
            *w |= bit;
        }
        old
    }

    /// Makes the next group valid, in the room that [`Room`] brought.
    fn extend(&mut self) {
        let first = self.valid();
        self.ports.extend((0..GROUP).map(|_| Port::default()));
        self.free.push(u64::MAX);
        if first == 0 {
            self.occupy(EvtchnPort::new(0), Port { state: PortState::Reserved, ..Port::default() });
        }
    }
}

/// Memory for more ports, allocated outside the lock.
struct Room {
    ports: Vec<Port>,
    free: Vec<u64>,
}

impl Room {
    fn for_ports(wanted: usize) -> Result<Self, Errno> {
        let mut room = Self { ports: Vec::new(), free: Vec::new() };
        if memory_is_short!() {
            return Err(Errno::NoMem);
        }
        room.ports.try_reserve_exact(wanted).map_err(|_| Errno::NoMem)?;
        room.free.try_reserve_exact(wanted.div_ceil(64)).map_err(|_| Errno::NoMem)?;
        Ok(room)
    }

    /// Moves the table into this room; the old one is freed by the caller, outside the lock.
    fn install(&mut self, table: &mut Table) {
        if self.ports.capacity() > table.ports.capacity() {
            self.ports.append(&mut table.ports);
            self.free.append(&mut table.free);
            core::mem::swap(&mut self.ports, &mut table.ports);
            core::mem::swap(&mut self.free, &mut table.free);
        }
    }
}

/// Event channels of a domain.
pub struct DomainEvents {
    table: SpinLock<Table>,
    /// The queues, where the domain uses the FIFO ABI.
    pub(super) fifo: Fifo,
    /// Largest port that the toolstack allows.
    limit: core::sync::atomic::AtomicU32,
}

impl Default for DomainEvents {
    fn default() -> Self {
        Self {
            table: SpinLock::new(rank::EVTCHN, Table::default()),
            fifo: Fifo::default(),
            limit: core::sync::atomic::AtomicU32::new(FIFO_NR_CHANNELS - 1),
        }
    }
}

impl core::fmt::Debug for DomainEvents {
    // Ports refer to other domains and those to this one: they are not followed.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DomainEvents").finish_non_exhaustive()
    }
}

impl DomainEvents {
    /// Sets the largest port that the domain may have (`max_evtchn_port` of its creation).
    pub fn set_limit(&self, largest: u32) {
        self.limit.store(largest, core::sync::atomic::Ordering::Relaxed);
    }

    /// The largest port that the toolstack and the ABI in use allow.
    fn limit(&self) -> u32 {
        let channels = if self.fifo.is_active() { FIFO_NR_CHANNELS } else { EVTCHN_2L_NR_CHANNELS };
        self.limit.load(core::sync::atomic::Ordering::Relaxed).min(channels - 1)
    }

    /// The guest's frames that its queues hold, once for each reference.
    pub(crate) fn queue_frames(&self) -> impl Iterator<Item = Mfn> {
        self.fifo.frames().into_iter()
    }

    /// Takes the lock.
    pub(super) fn lock(&self) -> Guard<'_, Table> {
        self.table.lock()
    }

    /// Takes the lock in a state in which the lowest free port is known, and tells which it is.
    ///
    /// # Errors
    /// `EINVAL` for a dying domain, `ENOSPC` past its limit, `ENOMEM`.
    pub(super) fn lock_with_free_port<'a>(
        &'a self,
        m: &impl Frames,
        dom: &Domain,
    ) -> Result<(Guard<'a, Table>, EvtchnPort), Errno> {
        loop {
            let wanted = {
                let mut table = self.lock();
                if let Some(port) = self.find_free(m, dom, &mut table)? {
                    return Ok((table, port));
                }
                table.ports.len()
            };
            self.make_room(wanted)?;
        }
    }

    /// The lowest free port, or `None` if there is room to be made first.
    pub(super) fn find_free(
        &self,
        m: &impl Frames,
        dom: &Domain,
        table: &mut Table,
    ) -> Result<Option<EvtchnPort>, Errno> {
        let busy = |port| self.fifo.is_busy(m, port);
        if dom.is_dying() || table.dying {
            return Err(Errno::Inval);
        }
        let port = match table.lowest_free(busy) {
            Some(port) => port,
            None if table.valid() > self.limit() => return Err(Errno::NoSpc),
            None if !self.has_room(table) => return Ok(None),
            None => {
                table.extend();
                table.lowest_free(busy).ok_or(Errno::NoSpc)?
            }
        };
        if port.raw() <= self.limit() { Ok(Some(port)) } else { Err(Errno::NoSpc) }
    }

    /// Whether the next group can be made valid without an allocation.
    fn has_room(&self, table: &Table) -> bool {
        let group = usize::try_from(GROUP).unwrap_or(usize::MAX);
        table.ports.capacity() - table.ports.len() >= group
            && table.free.capacity() > table.free.len()
            && self.fifo.covers(table.valid().saturating_add(GROUP))
    }

    /// Allocates room for twice the ports there were.
    pub(super) fn make_room(&self, had: usize) -> Result<(), Errno> {
        let wanted = u32::try_from(had).unwrap_or(u32::MAX).saturating_add(GROUP);
        self.fifo.cover(wanted.min(FIFO_NR_CHANNELS))?;
        let group = usize::try_from(GROUP).unwrap_or(usize::MAX);
        let mut room = Room::for_ports(had.saturating_mul(2).max(group))?;
        room.install(&mut self.lock());
        Ok(())
    }
}

/// The locks of the two ends of a channel; both ends may be of one domain.
pub(super) enum Ends<'a> {
    /// One domain.
    Same(Guard<'a, Table>),
    /// Two.
    Two {
        /// Ours.
        local: Guard<'a, Table>,
        /// Theirs.
        remote: Guard<'a, Table>,
    },
}

impl<'a> Ends<'a> {
    /// Takes both locks, in ascending order of domain ids.
    pub(super) fn lock(local: &'a Domain, remote: &'a Domain) -> Self {
        let (l, r) = (&local.events.table, &remote.events.table);
        match local.id.cmp(&remote.id) {
            core::cmp::Ordering::Equal => Self::Same(l.lock()),
            core::cmp::Ordering::Less => {
                let (local, remote) = lock_pair(l, r);
                Self::Two { local, remote }
            }
            core::cmp::Ordering::Greater => {
                let (remote, local) = lock_pair(r, l);
                Self::Two { local, remote }
            }
        }
    }

    /// Our ports.
    pub(super) fn local(&mut self) -> &mut Table {
        match self {
            Self::Same(table) | Self::Two { local: table, .. } => table,
        }
    }

    /// Their ports.
    pub(super) fn remote(&mut self) -> &mut Table {
        match self {
            Self::Same(table) | Self::Two { remote: table, .. } => table,
        }
    }
}

/// Locks a port of `dom` together with the domain at its other end, and runs `f` on both tables.
///
/// Which domain that is can only be seen under the lock, and both locks can only be taken in order: so it is looked up
/// first and checked again afterwards. Each repetition means that somebody else has changed the port.
pub(super) fn with_both_ends<R>(
    dom: &Arc<Domain>,
    port: EvtchnPort,
    f: impl FnOnce(&mut Ends<'_>) -> R,
) -> Result<R, Errno> {
    loop {
        let peer = peer_of(&dom.events.lock(), port)?.unwrap_or_else(|| dom.clone());
        let mut ends = Ends::lock(dom, &peer);
        let now = peer_of(ends.local(), port)?;
        if Arc::ptr_eq(now.as_ref().unwrap_or(dom), &peer) {
            return Ok(f(&mut ends));
        }
        drop(ends);
    }
}

fn peer_of(table: &Table, port: EvtchnPort) -> Result<Option<Arc<Domain>>, Errno> {
    Ok(match &table.port(port)?.state {
        PortState::Interdomain(peer) => Some(peer.domain.clone()),
        _ => None,
    })
}
