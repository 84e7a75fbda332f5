//! Lists of frames, linked through their [`PageInfo`]. Whoever calls holds the lock that protects the list.

use core::sync::atomic::Ordering::Relaxed;

use super::page_info::{NIL, PageInfo};

/// The frame at `index`; links never leave the table.
fn at(pages: &[PageInfo], index: u32) -> Option<&PageInfo> {
    pages.get(usize::try_from(index).ok()?)
}

/// Puts a frame in front of a list.
pub(super) fn push(pages: &[PageInfo], head: &mut u32, index: u32) {
    let Some(page) = at(pages, index) else { return };
    page.prev.store(NIL, Relaxed);
    page.next.store(*head, Relaxed);
    if let Some(next) = at(pages, *head) {
        next.prev.store(index, Relaxed);
    }
    *head = index;
}

/// Takes a frame off the list that it is on.
pub(super) fn unlink(pages: &[PageInfo], head: &mut u32, index: u32) {
    let Some(page) = at(pages, index) else { return };
    let (prev, next) = (page.prev.load(Relaxed), page.next.load(Relaxed));
    match at(pages, prev) {
        Some(p) => p.next.store(next, Relaxed),
        None => *head = next,
    }
    if let Some(n) = at(pages, next) {
        n.prev.store(prev, Relaxed);
    }
    page.prev.store(NIL, Relaxed);
    page.next.store(NIL, Relaxed);
}

/// The frames of a list, in order.
pub(super) fn iter(pages: &[PageInfo], head: u32) -> impl Iterator<Item = u32> + '_ {
    let mut next = head;
    core::iter::from_fn(move || {
        let index = next;
        next = at(pages, index)?.next.load(Relaxed);
        Some(index)
    })
}
