//! The allocator against a model: a set of free pfns.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use super::{Allocator, CHUNK, ChunkMap};

/// An allocator over `chunks` chunks, all free.
fn allocator(chunks: usize) -> Allocator {
    let maps: &'static mut [ChunkMap] = Box::leak(vec![ChunkMap::FULL; chunks].into_boxed_slice());
    let mut allocator = Allocator { chunks: maps, mapped: chunks, hint: 0, free: 0, for_tables: 0..0 };
    give(&mut allocator, 0, chunks as u64 * CHUNK);
    allocator
}

fn give(allocator: &mut Allocator, first: u64, count: u64) {
    for pfn in first..first + count {
        let chunk = usize::try_from(pfn / CHUNK).unwrap();
        allocator.chunks[chunk].set_free(pfn % CHUNK);
        allocator.free += 1;
        allocator.hint = allocator.hint.min(chunk);
    }
}

#[test]
fn runs_may_cross_chunks() {
    let mut allocator = allocator(4);
    assert_eq!(allocator.take(1).unwrap().raw(), 0);
    // The free end of the first chunk and the two chunks after it, in one piece.
    assert_eq!(allocator.take(3 * CHUNK - 1).unwrap().raw(), 1);
    assert_eq!(allocator.take(CHUNK + 1), None);
    assert_eq!(allocator.take(CHUNK).unwrap().raw(), 3 * CHUNK);
    assert_eq!(allocator.take(1), None);
    assert_eq!(allocator.free, 0);
}

#[test]
fn nothing_is_handed_out_twice_and_nothing_is_lost() {
    const CHUNKS: usize = 5;
    let mut allocator = allocator(CHUNKS);
    let mut free: BTreeSet<u64> = (0..CHUNKS as u64 * CHUNK).collect();
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..4000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let dice = seed >> 33;
        if dice % 5 < 3 {
            let count = if dice.is_multiple_of(7) { 1 + dice % 1200 } else { 1 + dice % 9 };
            let longest = longest_run(&free);
            match allocator.take(count) {
                Some(first) => {
                    let range = first.raw()..first.raw() + count;
                    assert!(range.clone().all(|pfn| free.remove(&pfn)), "{range:?} was not free");
                    taken.push((first.raw(), count));
                }
                // One frame more than the longest run cannot be had; within a run everything can.
                None => assert!(count > longest, "{count} refused with a run of {longest} free"),
            }
        } else if !taken.is_empty() {
            let at = usize::try_from(dice).unwrap() % taken.len();
            let (first, count) = taken.swap_remove(at);
            give(&mut allocator, first, count);
            free.extend(first..first + count);
        }
        assert_eq!(allocator.free, free.len() as u64);
    }
    for (first, count) in taken {
        give(&mut allocator, first, count);
    }
    assert_eq!(allocator.take(CHUNKS as u64 * CHUNK).unwrap().raw(), 0);
}

/// The longest run that a request of its own length can use: requests of up to a chunk stay within one chunk.
fn longest_run(free: &BTreeSet<u64>) -> u64 {
    let (mut longest, mut run, mut last) = (0, 0, None);
    for pfn in free {
        let follows = last.is_some_and(|last| last + 1 == *pfn) && pfn % CHUNK != 0;
        run = if follows { run + 1 } else { 1 };
        longest = longest.max(run);
        last = Some(*pfn);
    }
    longest
}
