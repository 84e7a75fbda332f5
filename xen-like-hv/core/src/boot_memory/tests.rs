use super::*;
use alloc::vec::Vec;
use proptest::prelude::*;

const NO_LIMIT: u64 = u64::MAX;

fn map(entries: &[(u64, u64, Kind)]) -> MemoryMap {
    let mut map = MemoryMap::new();
    for &(start, end, kind) in entries {
        map.push(start, end - start, kind);
    }
    map
}

fn listed(map: &MemoryMap) -> Vec<(u64, u64, Kind)> {
    map.entries().iter().map(|e| (e.range.start, e.range.end, e.kind)).collect()
}

#[test]
fn a_pc_map_stays_as_it_is_but_for_frame_boundaries() {
    let raw = map(&[
        (0, 0x9fc00, Kind::Ram),
        (0x9fc00, 0xa0000, Kind::Reserved),
        (0xf0000, 0x10_0000, Kind::Reserved),
        (0x10_0000, 0xbffd_f000, Kind::Ram),
        (0xbffd_f000, 0xc000_0000, Kind::Reserved),
        (0x1_0000_0000, 0x2_4000_0000, Kind::Ram),
    ]);
    let clean = raw.sanitise(NO_LIMIT);
    assert_eq!(listed(&clean)[0], (0, 0x9f000, Kind::Ram));
    assert_eq!(listed(&clean)[1], (0x9f000, 0xa0000, Kind::Reserved));
    assert_eq!(clean.ram_end(), 0x2_4000_0000);
    assert_eq!(clean.ram_bytes(), 0x9f000 + 0xbfed_f000 + 0x1_4000_0000);
}

#[test]
fn the_more_restrictive_word_wins_where_entries_overlap() {
    let raw = map(&[
        (0x5000, 0x9000, Kind::Reserved),
        (0, 0x10000, Kind::Ram),
        (0x8000, 0xa000, Kind::Unusable),
        (0x20000, 0x30000, Kind::Ram),
    ]);
    assert_eq!(
        listed(&raw.sanitise(NO_LIMIT)),
        [
            (0, 0x5000, Kind::Ram),
            (0x5000, 0x8000, Kind::Reserved),
            (0x8000, 0xa000, Kind::Unusable),
            (0xa000, 0x10000, Kind::Ram),
            (0x20000, 0x30000, Kind::Ram)
        ]
    );
}

#[test]
fn neighbours_are_merged_and_ram_beyond_the_limit_dropped() {
    let raw = map(&[(0x3000, 0x6000, Kind::Ram), (0x1000, 0x3000, Kind::Ram), (0x10000, 0x20000, Kind::Ram)]);
    assert_eq!(listed(&raw.sanitise(0x11000)), [(0x1000, 0x6000, Kind::Ram), (0x10000, 0x11000, Kind::Ram)]);
}

#[test]
fn an_entry_that_wraps_around_is_cut() {
    let mut raw = MemoryMap::new();
    raw.push(u64::MAX - 0x2800, u64::MAX, Kind::Ram);
    let last = Range::new(u64::MAX - 0x1fff, u64::MAX - 0xfff);
    assert_eq!(raw.sanitise(NO_LIMIT).ram().next(), Some(last));
}

#[test]
fn too_many_entries_are_counted() {
    let mut raw = MemoryMap::new();
    for i in 0..(MAX_ENTRIES as u64 + 3) {
        raw.push(i * 0x4000, 0x1000, Kind::Ram);
    }
    assert_eq!(raw.dropped(), 3);
}

#[test]
fn memory_is_taken_from_the_top_below_a_limit() {
    let mut list = RangeList::new();
    list.insert(Range::new(0x1000, 0x9000));
    list.insert(Range::new(0x20000, 0x40000));
    assert_eq!(list.take_top(0x2000, 0x1000, NO_LIMIT), Some(Range::new(0x3e000, 0x40000)));
    assert_eq!(list.take_top(0x10000, 0x10000, NO_LIMIT), Some(Range::new(0x20000, 0x30000)));
    assert_eq!(list.take_top(0x1000, 0x1000, 0x10000), Some(Range::new(0x8000, 0x9000)));
    assert_eq!(list.take_top(0x100_0000, 0x1000, NO_LIMIT), None);
    assert_eq!(list.take_bottom(0x2000, 0x2000, 0), Some(Range::new(0x2000, 0x4000)));
    assert_eq!(list.take_bottom(0x1000, 0x1000, 0x10000), Some(Range::new(0x30000, 0x31000)));
}

#[test]
fn removing_splits_and_inserting_joins() {
    let mut list = RangeList::new();
    list.insert(Range::new(0, 0x10000));
    list.remove(Range::new(0x4000, 0x6000));
    list.remove(Range::new(0xf000, 0x20000));
    assert_eq!(list.ranges(), [Range::new(0, 0x4000), Range::new(0x6000, 0xf000)]);
    list.insert(Range::new(0x4000, 0x6000));
    assert_eq!(list.ranges(), [Range::new(0, 0xf000)]);
}

/// What a frame of a raw map is, told the slow way.
fn kind_of_frame(raw: &[(u64, u64, Kind)], frame: u64) -> Option<Kind> {
    let page = Range::new(frame * FRAME, (frame + 1) * FRAME);
    raw.iter()
        .filter(|&&(start, bytes, kind)| {
            let r = Range::new(start, start + bytes);
            // An entry without bytes is none, wherever it lies.
            !r.is_empty()
                && if kind == Kind::Ram {
                    r.start <= page.start && page.end <= r.end
                } else {
                    r.overlaps(&page)
                }
        })
        .map(|e| e.2)
        .max()
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Ram), Just(Kind::Reserved), Just(Kind::AcpiNvs), Just(Kind::Unusable)]
}

proptest! {
    #[test]
    fn sanitising_agrees_with_a_frame_by_frame_answer(
        raw in prop::collection::vec((0u64..0x40000, 0u64..0x20000, any_kind()), 0..20)
    ) {
        let mut map = MemoryMap::new();
        for &(start, bytes, kind) in &raw {
            map.push(start, bytes, kind);
        }
        let clean = map.sanitise(NO_LIMIT);
        for pair in clean.entries().windows(2) {
            prop_assert!(pair[0].range.end <= pair[1].range.start);
        }
        for frame in 0..0x70u64 {
            let page = Range::new(frame * FRAME, (frame + 1) * FRAME);
            let found = clean.entries().iter().find(|e| e.range.overlaps(&page)).map(|e| e.kind);
            prop_assert_eq!(found, kind_of_frame(&raw, frame));
        }
    }

    #[test]
    fn a_range_list_never_gives_the_same_byte_twice(
        sizes in prop::collection::vec((1u64..8, 0u32..4, 1u64..100), 1..40)
    ) {
        let mut list = RangeList::new();
        list.insert(Range::new(0, 0x40000));
        list.insert(Range::new(0x50000, 0x90000));
        let mut taken: Vec<Range> = Vec::new();
        let total = list.bytes();
        for (frames, order, limit) in sizes {
            if let Some(r) = list.take_top(frames * FRAME, FRAME << order, limit * 0x2000) {
                prop_assert!(r.end <= limit * 0x2000 && r.start % (FRAME << order) == 0);
                prop_assert!(taken.iter().all(|t| !t.overlaps(&r)));
                taken.push(r);
            }
        }
        prop_assert_eq!(list.bytes() + taken.iter().map(Range::len).sum::<u64>(), total);
    }
}
