//! Recounts grants from first principles. For tests and the debug key.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_abi::grant::GrantFlags;
use pv_abi::ids::{DomId, GrantRef, Mfn};

use super::active::Pins;
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
            for (gref, active, said) in table.records(m) {
                let key = (Arc::as_ptr(dom), gref);
                let pins = expected.get(&key).map_or(Pins::default(), |e| e.pins);
                if active.pins != pins {
                    wrong.push(format!("{} {gref}: pinned {:?}, handles say {pins:?}", dom.id, active.pins));
                }
                if let Some(e) =
                    expected.get(&key).filter(|e| e.frame != active.frame() || e.mapper != active.domid)
                {
                    wrong.push(format!(
                        "{} {gref}: serves {} with {}, not {} with {}",
                        dom.id,
                        active.domid,
                        active.frame(),
                        e.mapper,
                        e.frame
                    ));
                }
                if pins.is_empty() && still_marked(said) {
                    wrong.push(format!("{} {gref}: marked as used, but is not", dom.id));
                }
            }
        });
    }
    wrong
}

/// An entry: a dead granter, of which a handle is left whose page-table entry was overwritten, may have the number of
/// another domain by now.
type Key = (*const Domain, GrantRef);

fn recount(domains: &[Arc<Domain>], wrong: &mut Vec<String>) -> BTreeMap<Key, Expected> {
    let mut expected: BTreeMap<Key, Expected> = BTreeMap::new();
    for mapper in domains {
        for mapping in mapper.grants.maptrack.mappings() {
            let key = (Arc::as_ptr(&mapping.granter), mapping.gref);
            let e = expected.entry(key).or_insert(Expected {
                pins: Pins::default(),
                mapper: mapper.id,
                frame: mapping.frame,
            });
            e.pins.add(mapping.uses);
            if e.mapper != mapper.id || e.frame != mapping.frame {
                wrong.push(format!("{} {}: two handles disagree", mapping.granter.id, mapping.gref));
            }
            if mapping.uses.is_empty() {
                wrong.push(format!("{}: a handle that maps nothing", mapper.id));
            }
        }
    }
    expected
}

/// Calls `f` for each reference to a frame that a handle of `mapper` owns, with the use that it is, if it is one: those
/// for devices. A CPU's mapping is its page-table entry, which owns its own.
pub fn held_frames(mapper: &Domain, mut f: impl FnMut(Mfn, Option<PageType>)) {
    for mapping in mapper.grants.maptrack.mappings() {
        if mapping.uses.by_device() {
            f(mapping.frame, mapping.uses.writes().then_some(PageType::Writable));
        }
    }
}

/// The frames that the handles of `mapper` stand for, and whether for writing.
#[cfg(test)]
pub(crate) fn mapped_frames(mapper: &Domain) -> Vec<(Mfn, bool)> {
    let mappings = mapper.grants.maptrack.mappings();
    mappings.iter().map(|mapping| (mapping.frame, mapping.uses.writes())).collect()
}

/// A granter can write the use marks itself; tests that let it do so do not audit.
fn still_marked(entry: Option<pv_abi::grant::GrantEntryV1>) -> bool {
    let used = GrantFlags::READING | GrantFlags::WRITING;
    entry.is_some_and(|e| GrantFlags::from_bits_retain(e.flags).intersects(used))
}
