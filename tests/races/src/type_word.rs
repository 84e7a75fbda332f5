//! The type word (I1, I4) and the stamp (I12).

use core::sync::atomic::Ordering::SeqCst;
use loom::sync::Arc;
use loom::thread;

use pv_abi::pte::Level;

use crate::atomic::AtomicU32;
use crate::explore;
use crate::frame::flush;
use crate::frame::page_info::{PageInfo, PageType};
use crate::frame::types::{self, TypeGot, TypePut};
use crate::machine::Machine;
use crate::port::{Cpu as _, FlushScope, Tlb as _};

const L1: PageType = PageType::Table(Level::L1);
const L2: PageType = PageType::Table(Level::L2);

/// Gives up a reference, as the code that devalidates does.
fn put(page: &PageInfo) {
    if types::put(page) == TypePut::Last {
        types::retire(page);
    }
}

/// Takes a reference if it is to be had, uses the frame, and gives it up.
fn use_as(page: &PageInfo, m: &Machine, ty: PageType, mine: &AtomicU32, others: &AtomicU32) {
    match types::get(page, ty) {
        Ok(TypeGot::Claimed) => types::publish(page, flush::before_reuse(m, page.stamp())),
        Ok(TypeGot::Held) => {}
        Err(_) => return,
    }
    mine.fetch_add(1, SeqCst);
    assert_eq!(others.load(SeqCst), 0, "two types at once");
    mine.fetch_sub(1, SeqCst);
    put(page);
}

fn fought_over(name: &str, a: PageType, b: PageType) {
    explore(name, move || {
        let all = Arc::new((PageInfo::new(), Machine::default(), AtomicU32::new(0), AtomicU32::new(0)));
        let other = all.clone();
        let t = thread::spawn(move || use_as(&other.0, &other.1, a, &other.2, &other.3));
        use_as(&all.0, &all.1, b, &all.3, &all.2);
        t.join().unwrap();
        assert_eq!(all.0.type_info().count(), 0);
    });
}

#[test]
fn a_frame_has_one_type_at_a_time() {
    fought_over("table or writable", L1, PageType::Writable);
    fought_over("two levels", L1, L2);
}

/// Of those who ask for an unused frame at once, one claims it; nobody holds it before that one has published.
#[test]
fn xsa_401_one_pcpu_makes_the_first_step() {
    explore("first use", || {
        let all = Arc::new((PageInfo::new(), AtomicU32::new(0)));
        let ask = |(page, valid): &(PageInfo, AtomicU32)| match types::get(page, L1) {
            Ok(TypeGot::Claimed) => {
                valid.store(1, SeqCst);
                types::publish(page, flush::before_reuse(&Machine::default(), 0));
                (1, 1)
            }
            Ok(TypeGot::Held) => {
                assert_eq!(valid.load(SeqCst), 1, "held before it was valid");
                (0, 1)
            }
            Err(_) => (0, 0),
        };
        let other = all.clone();
        let t = thread::spawn(move || ask(&other));
        let (a, b) = (ask(&all), t.join().unwrap());
        assert_eq!(a.0 + b.0, 1, "one claims");
        assert_eq!(all.0.type_info().count(), a.1 + b.1);
    });
}

/// A lock holds a reference of its own; a put waits for it rather than devalidate under it.
#[test]
fn xsa_242_a_put_waits_for_the_lock() {
    explore("lock and put", || {
        let all = Arc::new((PageInfo::new(), AtomicU32::new(0)));
        assert_eq!(types::get(&all.0, L1), Ok(TypeGot::Claimed));
        types::publish(&all.0, flush::before_reuse(&Machine::default(), 0));
        let other = all.clone();
        let t = thread::spawn(move || {
            if types::lock(&other.0).is_some() {
                other.1.store(1, SeqCst);
                assert!(other.0.type_info().validated(), "devalidated under the lock");
                other.1.store(0, SeqCst);
                types::unlock(&other.0);
            }
        });
        if types::put(&all.0) == TypePut::Last {
            assert_eq!(all.1.load(SeqCst), 0, "devalidates under the lock");
            types::retire(&all.0);
        }
        t.join().unwrap();
        assert_eq!(all.0.type_info().count(), 0);
    });
}

/// One pcpu ends the last writable mapping; the other wants the frame as a table. When the table's content is looked
/// at, nobody can write it any more.
#[test]
fn xsa_241_and_408_a_stamp_is_not_older_than_the_last_use() {
    explore("stamp and flush", || {
        let all = Arc::new((PageInfo::new(), Machine::default()));
        assert_eq!(types::get(&all.0, PageType::Writable), Ok(TypeGot::Claimed));
        types::publish(&all.0, flush::before_reuse(&all.1, 0));
        all.1.entry.store(1, SeqCst);
        all.1.cached.store(1, SeqCst);
        let other = all.clone();
        let t = thread::spawn(move || {
            let (page, m) = &*other;
            m.entry.swap(0, SeqCst);
            page.note_unmapped(m.flush_clock());
            put(page);
        });
        let (page, m) = &*all;
        // Somebody flushes for a reason of his own meanwhile.
        m.flush(m.online(), FlushScope::All);
        if types::get(page, L1) == Ok(TypeGot::Claimed) {
            let flushed = flush::before_reuse(m, page.stamp());
            assert_eq!(m.cached.load(SeqCst), 0, "a page table that can be written");
            types::publish(page, flushed);
        }
        t.join().unwrap();
    });
}

/// A pin is set by one of those who try.
#[test]
fn a_pin_is_set_once() {
    explore("pin", || {
        let page = Arc::new(PageInfo::new());
        let other = page.clone();
        let t = thread::spawn(move || types::set_pinned(&other, types::Pin::Pin));
        let (a, b) = (types::set_pinned(&page, types::Pin::Pin), t.join().unwrap());
        assert!(a != b);
    });
}
