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

/// An item and a copy of its key: what is compared lies side by side, and no item is looked up for it.
#[derive(Debug)]
pub(super) struct Node<T> {
    key: u64,
    item: T,
}

/// The heap.
#[derive(Debug)]
pub(super) struct Heap<T> {
    nodes: Vec<Node<T>>,
}

impl<T> Default for Heap<T> {
    fn default() -> Self {
        Self { nodes: Vec::new() }
    }
}

impl<T: Item> Heap<T> {
    /// How many items it holds.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many it can hold without allocating.
    pub(super) fn capacity(&self) -> usize {
        self.nodes.capacity()
    }

    /// Moves everything into `bigger`, an empty vector with more room, and returns the old one for its release
    /// outside the lock.
    pub(super) fn adopt(&mut self, mut bigger: Vec<Node<T>>) -> Vec<Node<T>> {
        if bigger.capacity() > self.nodes.capacity() && bigger.is_empty() {
            bigger.append(&mut self.nodes);
            core::mem::swap(&mut self.nodes, &mut bigger);
        }
        bigger
    }

    /// The smallest key.
    #[inline]
    pub(super) fn first_key(&self) -> Option<u64> {
        self.nodes.first().map(|node| node.key)
    }

    /// All items, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.nodes.iter().map(|node| &node.item)
    }

    /// Adds an item.
    pub(super) fn push(&mut self, item: T) {
        let slot = self.nodes.len();
        item.set_slot(slot);
        self.nodes.push(Node { key: item.key(), item });
        self.rise(slot);
    }

    /// Takes the smallest item out.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.remove(0)
    }

    /// Takes the item at `slot` out, where there is one.
    pub(super) fn remove(&mut self, slot: usize) -> Option<T> {
        if slot >= self.nodes.len() {
            return None;
        }
        let Node { item, .. } = self.nodes.swap_remove(slot);
        item.set_slot(NOWHERE);
        if let Some(moved) = self.nodes.get(slot) {
            moved.item.set_slot(slot);
            self.settle(slot);
        }
        Some(item)
    }

    /// Gives the item at `slot`, where there is one, another place after `change` has changed its key to `key`; whether there
    /// is one.
    #[inline]
    pub(super) fn rekey(&mut self, slot: usize, key: u64, change: impl FnOnce(&T)) -> bool {
        let Some(node) = self.nodes.get_mut(slot) else { return false };
        change(&node.item);
        node.key = key;
        // Alone in the heap, as a timer mostly is, it has nowhere to go.
        if self.nodes.len() > 1 {
            self.settle(slot);
        }
        true
    }

    /// Moves a node whose key may be too small or too large for its place.
    #[inline(never)]
    fn settle(&mut self, slot: usize) {
        let slot = self.rise(slot);
        self.sink(slot);
    }

    /// Exchanges two nodes and tells their items.
    fn swap(&mut self, one: usize, other: usize) {
        self.nodes.swap(one, other);
        self.nodes[one].item.set_slot(one);
        self.nodes[other].item.set_slot(other);
    }

    fn rise(&mut self, mut slot: usize) -> usize {
        while slot > 0 {
            let parent = (slot - 1) / 2;
            if self.nodes[parent].key <= self.nodes[slot].key {
                break;
            }
            self.swap(parent, slot);
            slot = parent;
        }
        slot
    }

    fn sink(&mut self, mut slot: usize) {
        loop {
            let left = 2 * slot + 1;
            let Some(left_node) = self.nodes.get(left) else { break };
            let child = match self.nodes.get(left + 1) {
                Some(right) if right.key < left_node.key => left + 1,
                _ => left,
            };
            if self.nodes[slot].key <= self.nodes[child].key {
                break;
            }
            self.swap(slot, child);
            slot = child;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use core::cell::Cell;

    #[derive(Debug)]
    struct Numbered {
        key: Cell<u64>,
        slot: Cell<usize>,
    }

    impl Item for Rc<Numbered> {
        fn key(&self) -> u64 {
            self.key.get()
        }
        fn set_slot(&self, slot: usize) {
            self.slot.set(slot);
        }
    }

    fn audit(heap: &Heap<Rc<Numbered>>) {
        for (i, item) in heap.iter().enumerate() {
            assert_eq!(item.slot.get(), i);
            assert_eq!(heap.nodes[i].key, item.key.get());
            assert!(i == 0 || heap.nodes[(i - 1) / 2].key <= item.key.get());
        }
    }

    proptest::proptest! {
        #[test]
        fn items_come_out_in_order_whatever_was_removed_or_changed(
            keys in proptest::collection::vec(0_u64..50, 1..60),
            out in 0_usize..60,
            again in 0_usize..60,
            key in 0_u64..50,
        ) {
            let mut heap = Heap::default();
            let all: alloc::vec::Vec<_> =
                keys.iter().map(|&key| Rc::new(Numbered { key: Cell::new(key), slot: Cell::new(NOWHERE) })).collect();
            for n in &all {
                heap.push(n.clone());
                audit(&heap);
            }
            let gone = &all[out % all.len()];
            let taken = heap.remove(gone.slot.get()).map(|n| n.key.get());
            assert_eq!(taken, Some(gone.key.get()));
            assert_eq!(gone.slot.get(), NOWHERE);
            audit(&heap);
            let changed = &all[again % all.len()];
            let there = heap.rekey(changed.slot.get(), key, |n| n.key.set(key));
            assert_eq!(there, changed.slot.get() != NOWHERE);
            audit(&heap);
            let mut last = 0;
            while let Some(n) = heap.pop() {
                assert!(n.key.get() >= last);
                last = n.key.get();
                audit(&heap);
            }
        }
    }
}
