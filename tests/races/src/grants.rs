//! The shared entry of a grant: its use by the hypervisor against a granter that ends it.

use core::sync::atomic::Ordering::SeqCst;
use loom::sync::Arc;
use loom::thread;

use pv_abi::grant::{GrantEntryV1, GrantFlags};
use pv_abi::ids::DomId;

use crate::atomic::{AtomicU32, AtomicU64};
use crate::explore;
use crate::grant::word::{Access, clear_flags, mark_used};

const GRANTEE: DomId = DomId::new(2);

fn entry(frame: u32) -> u64 {
    GrantEntryV1 { flags: GrantFlags::PERMIT_ACCESS.bits(), domid: GRANTEE.raw(), frame }.to_word()
}

/// The granter's way to end access: only while nobody uses it.
fn end_access(word: &AtomicU64) -> bool {
    let used = (GrantFlags::READING | GrantFlags::WRITING).bits();
    let mut now = word.load(SeqCst);
    while GrantEntryV1::from_word(now).flags & used == 0 {
        match word.compare_exchange(now, 0, SeqCst, SeqCst) {
            Ok(_) => return true,
            Err(seen) => now = seen,
        }
    }
    false
}

#[test]
fn xsa_228_an_entry_is_ended_or_used() {
    explore("grant: use and end", || {
        let all = Arc::new((AtomicU64::new(entry(7)), AtomicU32::new(0)));
        let other = all.clone();
        let t = thread::spawn(move || {
            let (word, in_use) = &*other;
            if let Ok(frame) = mark_used(word, GRANTEE, Access::Write) {
                in_use.store(1, SeqCst);
                assert_eq!(frame, 7);
                in_use.store(0, SeqCst);
                clear_flags(word, GrantFlags::READING | GrantFlags::WRITING);
            }
        });
        if end_access(&all.0) {
            assert_eq!(all.1.load(SeqCst), 0, "ended while in use");
            assert_eq!(all.0.load(SeqCst), 0, "marked after its end");
        }
        t.join().unwrap();
    });
}

/// The frame that comes of a claim is the one whose flags were checked, whatever the granter writes meanwhile.
#[test]
fn xsa_218_and_236_flags_and_frame_are_of_one_moment() {
    explore("grant: use and rewrite", || {
        let word = Arc::new(AtomicU64::new(entry(7)));
        let other = word.clone();
        let readonly = GrantFlags::PERMIT_ACCESS | GrantFlags::READONLY;
        let t = thread::spawn(move || {
            let next = GrantEntryV1 { flags: readonly.bits(), domid: GRANTEE.raw(), frame: 9 };
            other.store(next.to_word(), SeqCst);
        });
        let claimed = mark_used(&word, GRANTEE, Access::Write);
        t.join().unwrap();
        assert!(claimed != Ok(9), "the frame that was offered for reading only");
    });
}
