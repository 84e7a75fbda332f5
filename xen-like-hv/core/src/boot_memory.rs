//! The machine's memory as the firmware describes it, made fit for use.
//!
//! A firmware map may be unsorted, may overlap itself and may disagree about a frame. [`MemoryMap::sanitise`] turns it
//! into sorted, disjoint ranges where the more restrictive word wins. [`RangeList`] keeps free memory during boot,
//! before the frame table exists: ranges go in, pieces are taken from the top. Neither allocates.

use crate::bounded::Bounded;

/// Most entries a firmware map may have; what exceeds this is dropped and reported.
pub const MAX_ENTRIES: usize = 128;

/// Bytes of a frame.
pub const FRAME: u64 = 4096;

/// What a range of machine memory is for. The order is the order of precedence where entries overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Ordinary memory.
    Ram,
    /// ACPI tables, usable once they were read.
    AcpiReclaimable,
    /// ACPI non-volatile storage.
    AcpiNvs,
    /// Reserved by the firmware.
    Reserved,
    /// Defective memory.
    Unusable,
}

impl Kind {
    /// From the number used by e820, multiboot and PVH alike; an unknown number is as good as reserved.
    pub fn from_e820(raw: u32) -> Kind {
        match raw {
            1 => Kind::Ram,
            3 => Kind::AcpiReclaimable,
            4 => Kind::AcpiNvs,
            5 => Kind::Unusable,
            _ => Kind::Reserved,
        }
    }

    /// The e820 number.
    pub fn to_e820(self) -> u32 {
        match self {
            Kind::Ram => 1,
            Kind::Reserved => 2,
            Kind::AcpiReclaimable => 3,
            Kind::AcpiNvs => 4,
            Kind::Unusable => 5,
        }
    }
}

/// A range of machine addresses, `start` inclusive, `end` exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Range {
    /// A range from its ends; empty when they are the wrong way round.
    pub const fn new(start: u64, end: u64) -> Range {
        Range { start, end: if end > start { end } else { start } }
    }

    /// Bytes.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it holds nothing.
    pub const fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Whether the two share a byte.
    pub const fn overlaps(&self, other: &Range) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The whole frames inside.
    pub const fn frames_inside(&self) -> Range {
        let start = self.start.saturating_add(FRAME - 1) & !(FRAME - 1);
        Range::new(start, self.end & !(FRAME - 1))
    }

    /// The whole frames touched.
    pub const fn frames_touched(&self) -> Range {
        Range::new(self.start & !(FRAME - 1), self.end.saturating_add(FRAME - 1) & !(FRAME - 1))
    }
}

/// One entry of a memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub range: Range,
    /// What.
    pub kind: Kind,
}

impl Default for Entry {
    fn default() -> Self {
        Entry { range: Range::default(), kind: Kind::Reserved }
    }
}

/// A memory map: raw while it is filled, sorted and disjoint once sanitised.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    entries: Bounded<Entry, MAX_ENTRIES>,
    dropped: usize,
}

impl MemoryMap {
    /// An empty map.
    pub const fn new() -> Self {
        MemoryMap {
            entries: Bounded::new(Entry { range: Range::new(0, 0), kind: Kind::Reserved }),
            dropped: 0,
        }
    }

    /// Adds a raw entry; one that wraps around the address space is cut there.
    pub fn push(&mut self, start: u64, bytes: u64, kind: Kind) {
        let range = Range::new(start, start.saturating_add(bytes));
        if !range.is_empty() && self.entries.push(Entry { range, kind }).is_err() {
            self.dropped += 1;
        }
    }

    /// How many entries did not fit.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// The entries.
    pub fn entries(&self) -> &[Entry] {
        self.entries.as_slice()
    }

    /// Sorts the map and resolves overlaps: where entries disagree the more restrictive kind wins, RAM is cut to
    /// whole frames and everything else grown to whole frames, neighbours of one kind are merged. RAM at or above
    /// `limit` is dropped.
    #[must_use]
    pub fn sanitise(&self, limit: u64) -> MemoryMap {
        let mut cuts: Bounded<u64, { 2 * MAX_ENTRIES }> = Bounded::new(0);
        for entry in self.framed(limit) {
            // Capacity is twice that of the entries.
            let _ = cuts.push(entry.range.start);
            let _ = cuts.push(entry.range.end);
        }
        cuts.as_mut_slice().sort_unstable();
        let mut clean = MemoryMap { dropped: self.dropped, ..MemoryMap::new() };
        for pair in cuts.as_slice().windows(2) {
            let piece = Range::new(pair[0], pair[1]);
            let kind = self.framed(limit).filter(|e| e.range.overlaps(&piece)).map(|e| e.kind).max();
            if let (Some(kind), false) = (kind, piece.is_empty()) {
                clean.append(piece, kind);
            }
        }
        clean
    }

    /// The entries with their ends moved to frame boundaries, cautiously for each kind.
    fn framed(&self, limit: u64) -> impl Iterator<Item = Entry> + '_ {
        self.entries.as_slice().iter().filter_map(move |e| {
            let range = match e.kind {
                Kind::Ram => Range::new(e.range.start, e.range.end.min(limit)).frames_inside(),
                _ => e.range.frames_touched(),
            };
            (!range.is_empty()).then_some(Entry { range, kind: e.kind })
        })
    }

    /// Adds a piece that lies behind all others, merging it with the last where possible.
    fn append(&mut self, piece: Range, kind: Kind) {
        if let Some(last) = self.entries.as_mut_slice().last_mut()
            && last.kind == kind
            && last.range.end == piece.start
        {
            last.range.end = piece.end;
        } else if self.entries.push(Entry { range: piece, kind }).is_err() {
            self.dropped += 1;
        }
    }

    /// The ranges of RAM.
    pub fn ram(&self) -> impl Iterator<Item = Range> + '_ {
        self.entries.as_slice().iter().filter(|e| e.kind == Kind::Ram).map(|e| e.range)
    }

    /// Bytes of RAM.
    pub fn ram_bytes(&self) -> u64 {
        self.ram().map(|r| r.len()).sum()
    }

    /// One past the last byte of RAM.
    pub fn ram_end(&self) -> u64 {
        self.ram().map(|r| r.end).max().unwrap_or(0)
    }
}

/// Most disjoint free ranges kept during boot.
pub const MAX_FREE: usize = 256;

/// Free memory during boot: sorted, disjoint ranges.
#[derive(Clone, Debug)]
pub struct RangeList {
    ranges: Bounded<Range, MAX_FREE>,
    lost: u64,
}

impl Default for RangeList {
    fn default() -> Self {
        RangeList::new()
    }
}

impl RangeList {
    /// Nothing free.
    pub const fn new() -> Self {
        RangeList { ranges: Bounded::new(Range::new(0, 0)), lost: 0 }
    }

    /// The ranges, in ascending order.
    pub fn ranges(&self) -> &[Range] {
        self.ranges.as_slice()
    }

    /// Bytes free.
    pub fn bytes(&self) -> u64 {
        self.ranges().iter().map(Range::len).sum()
    }

    /// Bytes given up because the list was too fragmented.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Adds free memory; it must not overlap what is already free.
    pub fn insert(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let at = self.ranges().partition_point(|r| r.start < range.start);
        let ranges = self.ranges.as_mut_slice();
        let joins_left = at > 0 && ranges[at - 1].end == range.start;
        let joins_right = at < ranges.len() && ranges[at].start == range.end;
        match (joins_left, joins_right) {
            (true, true) => {
                ranges[at - 1].end = ranges[at].end;
                self.ranges.remove(at);
            }
            (true, false) => ranges[at - 1].end = range.end,
            (false, true) => ranges[at].start = range.start,
            (false, false) => {
                if self.ranges.insert(at, range).is_err() {
                    self.lost += range.len();
                }
            }
        }
    }

    /// Takes a range out, whatever part of it is free.
    pub fn remove(&mut self, gone: Range) {
        let mut at = 0;
        while let Some(&range) = self.ranges().get(at) {
            if !range.overlaps(&gone) {
                at += 1;
                continue;
            }
            self.ranges.remove(at);
            self.insert(Range::new(range.start, gone.start.min(range.end)));
            self.insert(Range::new(gone.end.max(range.start), range.end));
            // What was put back does not overlap any more; look at the same place again.
            at = at.saturating_sub(1);
        }
    }

    /// Takes `bytes` aligned to `align` (a power of two) from the highest place that ends at or below `limit`.
    pub fn take_top(&mut self, bytes: u64, align: u64, limit: u64) -> Option<Range> {
        if bytes == 0 || !align.is_power_of_two() {
            return None;
        }
        let found = self.ranges().iter().rev().find_map(|r| {
            let start = r.end.min(limit).checked_sub(bytes)? & !(align - 1);
            (start >= r.start).then_some(Range::new(start, start + bytes))
        })?;
        self.remove(found);
        Some(found)
    }

    /// Takes `bytes` aligned to `align` from the lowest place at or above `floor`.
    pub fn take_bottom(&mut self, bytes: u64, align: u64, floor: u64) -> Option<Range> {
        if bytes == 0 || !align.is_power_of_two() {
            return None;
        }
        let found = self.ranges().iter().find_map(|r| {
            let start = r.start.max(floor).checked_add(align - 1)? & !(align - 1);
            let end = start.checked_add(bytes)?;
            (end <= r.end).then_some(Range::new(start, end))
        })?;
        self.remove(found);
        Some(found)
    }
}

#[cfg(test)]
mod tests;
