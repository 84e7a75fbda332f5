//! Recounts grants from first principles. For tests and the debug key.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_abi::grant::GrantFlags;
use pv_abi::ids::{DomId, GrantRef, Mfn};

use super::active::{Access, Pins};
use crate::domain::Domain;
use crate::frame::PageType;
use crate::port::Frames;

/// What the mappers' handles say about one entry.
struct Expected {
    pins: Pins,
    mapper: DomId,
    frame: Mfn,
}

/// Checks the entries of `domains` against all handles of `domains`, which must stand still and be all there are;
/// returns what is wrong.
#[must_use]
pub fn audit(m: &impl Frames, domains: &[Arc<Domain>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let expected = recount(domains, &mut wrong);
    for dom in domains {
        dom.grants.granter.with(|table| {
            for (gref, active) in table.records() {
                let key = (dom.id, gref);
                let pins = expected.get(&key).map_or(Pins::default(), |e| e.pins);
                if active.pins != pins {
                    wrong.push(format!("{} {gref}: pinned {:?}, handles say {pins:?}", dom.id, active.pins));
                }
                if let Some(e) =
                    expected.get(&key).filter(|e| e.frame != active.frame || e.mapper != active.domid)
                {
                    wrong.push(format!(
                        "{} {gref}: serves {} with {}, not {} with {}",
                        dom.id, active.domid, active.frame, e.mapper, e.frame
                    ));
                }
                if pins.is_empty() && still_marked(table.shared_entry(m, gref)) {
                    wrong.push(format!("{} {gref}: marked as used, but is not", dom.id));
                }
            }
        });
    }
    wrong
}

fn recount(domains: &[Arc<Domain>], wrong: &mut Vec<String>) -> BTreeMap<(DomId, GrantRef), Expected> {
    let mut expected: BTreeMap<(DomId, GrantRef), Expected> = BTreeMap::new();
    for mapper in domains {
        for mapping in mapper.grants.maptrack.mappings() {
            let key = (mapping.granter.id, mapping.gref);
            let e = expected.entry(key).or_insert(Expected {
                pins: Pins::default(),
                mapper: mapper.id,
                frame: mapping.frame,
            });
            for purpose in mapping.purposes().iter() {
                e.pins.add(purpose, mapping.access);
            }
            if e.mapper != mapper.id || e.frame != mapping.frame {
                wrong.push(format!("{} {}: two handles disagree", key.0, key.1));
            }
            if mapping.purposes().is_empty() {
                wrong.push(format!("{}: a handle that maps nothing", mapper.id));
            }
        }
    }
    expected
}

/// Calls `f` for each reference to a frame that a handle of `mapper` owns, with the use that it is, if it is one.
pub fn held_frames(mapper: &Domain, mut f: impl FnMut(Mfn, Option<PageType>)) {
    for mapping in mapper.grants.maptrack.mappings() {
        f(mapping.frame, (mapping.access == Access::Write).then_some(PageType::Writable));
    }
}

/// A granter can write the use marks itself; tests that let it do so do not audit.
fn still_marked(entry: Option<pv_abi::grant::GrantEntryV1>) -> bool {
    let used = GrantFlags::READING | GrantFlags::WRITING;
    entry.is_some_and(|e| GrantFlags::from_bits_retain(e.flags).intersects(used))
}
