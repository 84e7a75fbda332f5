//! A binary heap whose items know where they are, so that any of them can be taken out.
//!
//! Runqueues and timer queues are such heaps. They never allocate while their lock is held: room for every vcpu is
//! reserved when the vcpu is made (see [`Heap::adopt`]).

use alloc::vec::Vec;

/// An item of a heap: ordered by its key, smallest first. While it lies in a heap its key changes in [`Heap::rekey`] alone.
pub(super) trait Item {
    /// What orders it.
    fn key(&self) -> u64;
    /// Tells it its place; [`NOWHERE`] when it has left the heap.
    fn set_slot(&self, slot: usize);
}

/// The slot of an item that is in no heap.
pub(super) const NOWHERE: usize = usize::MAX;

/// The heap.
#[derive(Debug)]
pub(super) struct Heap<T> {
    items: Vec<T>,
}

impl<T> Default for Heap<T> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

impl<T: Item> Heap<T> {
    /// How many items it holds.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// How many it can hold without allocating.
    pub(super) fn capacity(&self) -> usize {
        self.items.capacity()
    }

    /// Moves everything into `bigger`, an empty vector with more room, and returns the old one for its release
    /// outside the lock.
    pub(super) fn adopt(&mut self, mut bigger: Vec<T>) -> Vec<T> {
        if bigger.capacity() > self.items.capacity() && bigger.is_empty() {
            bigger.append(&mut self.items);
            core::mem::swap(&mut self.items, &mut bigger);
        }
        bigger
    }

    /// The smallest item.
    pub(super) fn peek(&self) -> Option<&T> {
        self.items.first()
    }

    /// All items, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    /// Adds an item.
    pub(super) fn push(&mut self, item: T) {
        let slot = self.items.len();
        self.items.push(item);
        self.rise(slot);
    }

    /// Takes the smallest item out.
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.items.is_empty() { None } else { Some(self.take(0)) }
    }

    /// Takes the item at `slot` out, where there is one.
    pub(super) fn remove(&mut self, slot: usize) -> Option<T> {
        if slot < self.items.len() { Some(self.take(slot)) } else { None }
    }

    /// Gives the item at `slot`, where there is one, another place after `change` has changed its key; whether there is one.
    #[inline]
    pub(super) fn rekey(&mut self, slot: usize, change: impl FnOnce(&T)) -> bool {
        let Some(item) = self.items.get(slot) else { return false };
        change(item);
        let slot = self.rise(slot);
        self.sink(slot);
        true
    }

    fn take(&mut self, slot: usize) -> T {
        let item = self.items.swap_remove(slot);
        item.set_slot(NOWHERE);
        if slot < self.items.len() {
            let slot = self.rise(slot);
            self.sink(slot);
        }
        item
    }

    fn rise(&mut self, mut slot: usize) -> usize {
        while slot > 0 {
            let parent = (slot - 1) / 2;
            if self.items[parent].key() <= self.items[slot].key() {
                break;
            }
            self.items.swap(parent, slot);
            self.items[slot].set_slot(slot);
            slot = parent;
        }
        self.items[slot].set_slot(slot);
        slot
    }

    fn sink(&mut self, mut slot: usize) {
        loop {
            let left = 2 * slot + 1;
            let Some(left_item) = self.items.get(left) else { break };
            let right = left + 1;
            let child = match self.items.get(right) {
                Some(r) if r.key() < left_item.key() => right,
                _ => left,
            };
            if self.items[slot].key() <= self.items[child].key() {
                break;
            }
            self.items.swap(slot, child);
            self.items[slot].set_slot(slot);
            slot = child;
        }
        self.items[slot].set_slot(slot);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use core::cell::Cell;

    #[derive(Debug)]
    struct Numbered {
        key: u64,
        slot: Cell<usize>,
    }

    impl Item for Rc<Numbered> {
        fn key(&self) -> u64 {
            self.key
        }
        fn set_slot(&self, slot: usize) {
            self.slot.set(slot);
        }
    }

    fn audit(heap: &Heap<Rc<Numbered>>) {
        for (i, item) in heap.iter().enumerate() {
            assert_eq!(item.slot.get(), i);
            assert!(i == 0 || heap.items[(i - 1) / 2].key <= item.key);
        }
    }

    proptest::proptest! {
        #[test]
        fn items_come_out_in_order_whatever_was_removed(keys in proptest::collection::vec(0_u64..50, 1..60), out in 0_usize..60) {
            let mut heap = Heap::default();
            let all: alloc::vec::Vec<_> =
                keys.iter().map(|&key| Rc::new(Numbered { key, slot: Cell::new(NOWHERE) })).collect();
            for n in &all {
                heap.push(n.clone());
                audit(&heap);
            }
            let gone = &all[out % all.len()];
            let taken = heap.remove(gone.slot.get()).map(|n| n.key);
            assert_eq!(taken, Some(gone.key));
            assert_eq!(gone.slot.get(), NOWHERE);
            audit(&heap);
            let mut last = 0;
            while let Some(n) = heap.pop() {
                assert!(n.key >= last);
                last = n.key;
                audit(&heap);
            }
        }
    }
}
