//! A domain's ports: their states, and which are free.
//!
//! All of it is under the lock of rank [`rank::EVTCHN`] of its domain. Both ends of an interdomain channel change
//! together, under both locks, taken in ascending order of domain ids.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hv_sync::{Guard, SpinLock, lock_pair, rank};
use pv_abi::errno::Errno;
use pv_abi::evtchn::FIFO_NR_CHANNELS;
use pv_abi::ids::{DomId, EvtchnPort, Mfn, VcpuId, Virq};
use pv_abi::shared_info::EVTCHN_2L_NR_CHANNELS;

use super::eoi_map::EoiMap;
use super::fifo::Fifo;
use crate::domain::Domain;
use crate::port::Frames;
use crate::vcpu::Vcpu;

/// Ports become valid in groups of this many, as the guest needs them.
pub(super) const GROUP: u32 = 64;
/// The same, as an index.
const PER_GROUP: usize = GROUP as usize;
/// Groups of the largest table.
const MAX_GROUPS: usize = FIFO_NR_CHANNELS as usize / PER_GROUP;
/// Free ports that are looked at before the next group is taken, where the guest keeps them in its queues.
const MOST_BUSY: usize = 256;

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

/// Ports that become valid together. A table grows by them, so that nothing ever moves but a list of these.
struct Group {
    /// One bit per port: it is free.
    free: u64,
    ports: Box<[Port; PER_GROUP]>,
}

impl Group {
    fn new() -> Result<Self, Errno> {
        let mut ports = Vec::new();
        if memory_is_short!() {
            return Err(Errno::NoMem);
        }
        ports.try_reserve_exact(PER_GROUP).map_err(|_| Errno::NoMem)?;
        ports.resize_with(PER_GROUP, Port::default);
        // The room is exact: this moves nothing.
        Ok(Self { free: u64::MAX, ports: ports.try_into().map_err(|_| Errno::NoMem)? })
    }
}

/// A domain's ports.
#[derive(Default)]
pub(super) struct Table {
    groups: Vec<Group>,
    /// One bit per group: it has a free port. So the lowest free port is found without a look at all groups.
    open: [u64; MAX_GROUPS / 64],
    /// The next group, allocated while the lock was not held.
    spare: Option<Group>,
    /// Nothing new is bound any more.
    pub(super) dying: bool,
    /// Where closing all ports goes on.
    pub(super) next_to_close: u32,
}

/// The numbers of the bits that are set, ascending.
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = usize::try_from(word.trailing_zeros()).ok().filter(|&bit| bit < 64)?;
        word &= word - 1;
        Some(bit)
    })
}

/// A port's group, its place in it, and its bit there.
fn position(port: EvtchnPort) -> (usize, usize, u64) {
    let port = usize::try_from(port.raw()).unwrap_or(usize::MAX);
    (port / PER_GROUP, port % PER_GROUP, 1 << (port % PER_GROUP))
}

impl Table {
    /// Takes the last ports out, of a domain that makes no more. The caller drops them without the lock.
    pub(super) fn take_last_group(&mut self) -> Option<impl Sized + use<>> {
        self.groups.pop()
    }

    /// The first group is there from the start, memory permitting: port 0 is reserved, and a guest may name the others.
    fn with_first_group() -> Self {
        let mut table = Self::default();
        if let Ok(mut room) = Room::after(0) {
            room.install(&mut table);
            table.extend();
        }
        table
    }

    /// Ports that a guest may name without being told that they do not exist.
    pub(super) fn valid(&self) -> u32 {
        u32::try_from(self.groups.len() * PER_GROUP).unwrap_or(u32::MAX)
    }

    /// The port of that number.
    #[inline]
    pub(super) fn port(&self, port: EvtchnPort) -> Result<&Port, Errno> {
        let (group, index, _) = position(port);
        self.groups.get(group).and_then(|g| g.ports.get(index)).ok_or(Errno::Inval)
    }

    /// The port of that number, to change it.
    pub(super) fn port_mut(&mut self, port: EvtchnPort) -> Result<&mut Port, Errno> {
        let (group, index, _) = position(port);
        self.groups.get_mut(group).and_then(|g| g.ports.get_mut(index)).ok_or(Errno::Inval)
    }

    /// Whether the free list says that a port is free.
    pub(super) fn is_marked_free(&self, port: EvtchnPort) -> bool {
        let (group, _, bit) = position(port);
        self.groups.get(group).is_some_and(|g| g.free & bit != 0)
    }

    /// The lowest free port from group `first` on that is not `busy`, of the first [`MOST_BUSY`] that are free. A guest says
    /// itself which of its free ports are busy, and shall not have us look at all of them.
    #[inline]
    fn lowest_free(&self, first: usize, busy: impl Fn(EvtchnPort) -> bool) -> Option<EvtchnPort> {
        // Nearly always it is the first one.
        match self.first_marked_free(first) {
            Some(port) if !busy(port) => Some(port),
            _ => self.lowest_of_many(first, busy),
        }
    }

    /// The first port that is free in the groups from `first` on to the end of their word of `open`.
    #[inline]
    fn first_marked_free(&self, first: usize) -> Option<EvtchnPort> {
        let word = self.open.get(first / 64)? & u64::MAX << (first % 64);
        let number = first / 64 * 64 + ones(word).next()?;
        let bit = ones(self.groups.get(number)?.free).next()?;
        u32::try_from(number * PER_GROUP + bit).ok().map(EvtchnPort::new)
    }

    #[cold]
    fn lowest_of_many(&self, first: usize, busy: impl Fn(EvtchnPort) -> bool) -> Option<EvtchnPort> {
        let open =
            self.open.iter().enumerate().flat_map(|(n, &word)| ones(word).map(move |bit| n * 64 + bit));
        let groups = open.skip_while(|&n| n < first).filter_map(|n| Some((n, self.groups.get(n)?)));
        let free = groups.flat_map(|(n, g)| ones(g.free).map(move |bit| n * PER_GROUP + bit));
        let mut ports = free.take(MOST_BUSY).filter_map(|n| u32::try_from(n).ok()).map(EvtchnPort::new);
        ports.find(|&port| !busy(port))
    }

    /// Brings the bit of a group up to date.
    fn note_open(&mut self, group: usize) {
        let is_open = self.groups.get(group).is_some_and(|g| g.free != 0);
        if let Some(word) = self.open.get_mut(group / 64) {
            *word = *word & !(1 << (group % 64)) | u64::from(is_open) << (group % 64);
        }
    }

    /// Gives a port a new state and takes it off the free list.
    pub(super) fn occupy(&mut self, port: EvtchnPort, new: Port) {
        let (number, index, bit) = position(port);
        let Some(group) = self.groups.get_mut(number) else { return };
        group.free &= !bit;
        if let Some(p) = group.ports.get_mut(index) {
            *p = new;
        }
        self.note_open(number);
    }

    /// Frees a port; returns what it was.
    pub(super) fn release(&mut self, port: EvtchnPort) -> Port {
        let (number, index, bit) = position(port);
        let Some(group) = self.groups.get_mut(number) else { return Port::default() };
        group.free |= bit;
        let old = group.ports.get_mut(index).map(core::mem::take).unwrap_or_default();
        self.note_open(number);
        old
    }

    /// Whether the next group can be made valid without an allocation.
    fn has_room(&self) -> bool {
        self.spare.is_some() && self.groups.len() < self.groups.capacity()
    }

    /// Makes the next group valid, in the room that [`Room`] brought.
    fn extend(&mut self) {
        let Some(group) = self.spare.take() else { return };
        self.groups.push(group);
        self.note_open(self.groups.len() - 1);
        if self.groups.len() == 1 {
            self.occupy(EvtchnPort::new(0), Port { state: PortState::Reserved, ..Port::default() });
        }
    }
}

/// Memory for one more group, allocated outside the lock.
struct Room {
    group: Option<Group>,
    groups: Vec<Group>,
}

impl Room {
    /// For a table that had so many groups.
    fn after(had: usize) -> Result<Self, Errno> {
        let mut groups = Vec::new();
        // Only where the list of groups is full, which is where its size is a power of two.
        if had == 0 || had.is_power_of_two() {
            groups.try_reserve_exact(had.saturating_mul(2).max(1)).map_err(|_| Errno::NoMem)?;
        }
        Ok(Self { group: Some(Group::new()?), groups })
    }

    /// Gives the table what it lacks; the rest, and the old list, are freed by the caller, outside the lock.
    fn install(&mut self, table: &mut Table) {
        if table.spare.is_none() {
            table.spare = self.group.take();
        }
        if self.groups.capacity() > table.groups.capacity() {
            self.groups.append(&mut table.groups);
            core::mem::swap(&mut self.groups, &mut table.groups);
        }
    }
}

/// Event channels of a domain.
pub struct DomainEvents {
    table: SpinLock<Table>,
    /// The queues, where the domain uses the FIFO ABI.
    pub(super) fifo: Fifo,
    /// Which physical lines want an EOI, for the guest to read.
    pub(super) eoi_map: EoiMap,
    /// Largest port that the toolstack allows.
    limit: core::sync::atomic::AtomicU32,
}

impl Default for DomainEvents {
    fn default() -> Self {
        Self {
            table: SpinLock::new(rank::EVTCHN, Table::with_first_group()),
            fifo: Fifo::default(),
            eoi_map: EoiMap::default(),
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

    /// The guest's frames that its queues and its EOI map hold, once for each reference.
    pub(crate) fn held_frames(&self) -> impl Iterator<Item = Mfn> {
        self.fifo.frames().into_iter().chain(self.eoi_map.frame())
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
            let had = {
                let mut table = self.lock();
                if let Some(port) = self.find_free(m, dom, &mut table)? {
                    return Ok((table, port));
                }
                table.valid()
            };
            self.make_room(had)?;
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
        let port = match table.lowest_free(0, busy) {
            Some(port) => port,
            None if table.valid() > self.limit() => return Err(Errno::NoSpc),
            None if !self.has_room(table) => return Ok(None),
            None => {
                let new = table.groups.len();
                table.extend();
                table.lowest_free(new, busy).ok_or(Errno::NoSpc)?
            }
        };
        if port.raw() <= self.limit() { Ok(Some(port)) } else { Err(Errno::NoSpc) }
    }

    /// Whether the next group can be made valid without an allocation.
    fn has_room(&self, table: &Table) -> bool {
        table.has_room() && self.fifo.covers(table.valid().saturating_add(GROUP))
    }

    /// Allocates what a table with `had` valid ports lacks for its next group.
    pub(super) fn make_room(&self, had: u32) -> Result<(), Errno> {
        self.fifo.cover(had.saturating_add(GROUP).min(FIFO_NR_CHANNELS))?;
        let mut room = Room::after(usize::try_from(had / GROUP).map_err(|_| Errno::NoMem)?)?;
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
/// Which domain that is can only be seen under the lock, and both locks can only be taken in order: so another domain is
/// looked up first and checked again afterwards. Each repetition means that somebody else has changed the port.
pub(super) fn with_both_ends<R>(
    dom: &Arc<Domain>,
    port: EvtchnPort,
    f: impl FnOnce(&mut Ends<'_>) -> R,
) -> Result<R, Errno> {
    loop {
        let table = dom.events.lock();
        let peer = peer_of(&table, port)?.filter(|peer| !Arc::ptr_eq(peer, dom)).cloned();
        let Some(peer) = peer else { return Ok(f(&mut Ends::Same(table))) };
        drop(table);
        let mut ends = Ends::lock(dom, &peer);
        if peer_of(ends.local(), port)?.is_some_and(|now| Arc::ptr_eq(now, &peer)) {
            return Ok(f(&mut ends));
        }
        drop(ends);
    }
}

fn peer_of(table: &Table, port: EvtchnPort) -> Result<Option<&Arc<Domain>>, Errno> {
    Ok(match &table.port(port)?.state {
        PortState::Interdomain(peer) => Some(&peer.domain),
        _ => None,
    })
}
