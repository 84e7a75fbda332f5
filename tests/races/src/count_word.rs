//! The count word: references, the allocator's own one, stealing (I7).

use loom::sync::Arc;
use loom::thread;

use pv_abi::ids::DomId;

use crate::explore;
use crate::frame::counts;
use crate::frame::page_info::{CountInfo, FrameState, PageInfo};

const OWNER: DomId = DomId::new(1);

fn owned() -> Arc<PageInfo> {
    let page = Arc::new(PageInfo::new());
    page.set_count_info(CountInfo::allocated_to(OWNER));
    page
}

/// Gives up a reference; whoever gives up the last one frees the frame.
fn put(page: &PageInfo) -> bool {
    let last = page.take_one_off().count() == 1;
    if last {
        page.set_count_info(CountInfo::of(FrameState::Free));
    }
    last
}

/// Nobody gets a reference to a frame that is being freed, and it is freed once.
#[test]
fn a_frame_without_references_is_not_found() {
    explore("get and last put", || {
        let page = owned();
        let other = page.clone();
        let t = thread::spawn(move || {
            let got = counts::get(&other, OWNER, CountInfo::MAX_COUNT).is_ok();
            got && put(&other)
        });
        let released = counts::clear_allocated(&page).is_some();
        assert!(released);
        let (a, b) = (put(&page), t.join().unwrap());
        assert!(a != b, "freed once: {a} {b}");
        assert_eq!(page.count_info(), CountInfo::of(FrameState::Free));
    });
}

/// The allocator's reference is given up by one of those who try.
#[test]
fn xsa_214_the_allocators_reference_goes_once() {
    explore("release twice", || {
        let page = owned();
        let other = page.clone();
        let t = thread::spawn(move || counts::clear_allocated(&other).is_some());
        let (a, b) = (counts::clear_allocated(&page).is_some(), t.join().unwrap());
        assert!(a != b);
    });
}

/// A frame is stolen or referenced, never both.
#[test]
fn xsa_287_a_frame_in_use_is_not_stolen() {
    explore("steal and get", || {
        let page = owned();
        let other = page.clone();
        let t = thread::spawn(move || counts::get(&other, OWNER, CountInfo::MAX_COUNT).is_ok());
        let stolen = counts::steal(&page, OWNER);
        let got = t.join().unwrap();
        assert!(!(stolen && got));
        let expected = if stolen { CountInfo::hypervisor() } else { CountInfo::allocated_to(OWNER) };
        assert_eq!(page.count_info().owner(), expected.owner());
    });
}

/// Two pcpus take the last references that the count has room for.
#[test]
fn a_full_count_refuses() {
    explore("overflow", || {
        let page = owned();
        let other = page.clone();
        let t = thread::spawn(move || counts::get(&other, OWNER, 2).is_ok());
        let (a, b) = (counts::get(&page, OWNER, 2).is_ok(), t.join().unwrap());
        assert!(a != b, "room for one more");
        assert_eq!(page.count_info().count(), 2);
    });
}
