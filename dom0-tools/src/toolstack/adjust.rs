//! How many vcpus and how much memory a running domain is asked to use. It does when and if it likes: both are wishes
//! in xenstore that a guest's drivers follow; only the upper limit of memory is enforced.

use alloc::format;
use alloc::string::{String, ToString};

use pv_abi::ids::DomId;

use super::error::Doing;
use super::{Env, Error, hotplug, nodes};

/// Room above what is asked for, as at creation (KiB).
pub(super) const MAX_MEM_SLACK_KIB: u64 = 1024;
/// Less memory than this no guest can live with (MiB).
const MIN_MEMORY_MIB: u64 = 1;

/// Asks a domain to use its first `vcpus` vcpus.
///
/// # Errors
/// `IsDom0`, `NoSuchDomain`, `NotRunning`, `OutOfRange`, or the store's refusal.
pub fn set_vcpus(env: &mut Env<'_>, dom: DomId, vcpus: u32) -> Result<(), Error> {
    hotplug::running(env, dom)?;
    let dir = format!("{}/cpu", nodes::home(dom));
    let names = env.store.directory(&dir).doing("reading xenstore")?;
    let max = u32::try_from(names.len()).unwrap_or(u32::MAX);
    if vcpus == 0 || vcpus > max {
        return Err(Error::OutOfRange { what: "the number of vcpus", min: 1, max: max.into() });
    }
    for vcpu in 0..max {
        let path = format!("{dir}/{vcpu}/availability");
        let wish: &[u8] = if vcpu < vcpus { b"online" } else { b"offline" };
        // A node that does not change wakes nobody.
        if env.store.read(&path).doing("reading xenstore")? != wish {
            env.store.write(&path, wish).doing("writing xenstore")?;
        }
    }
    Ok(())
}

/// Asks a domain to use so much memory, and allows it no more.
///
/// # Errors
/// `IsDom0`, `NoSuchDomain`, `NotRunning`, `OutOfRange`, `NoMemory`, or a refusal of the store or the hypervisor.
pub fn set_memory(env: &mut Env<'_>, dom: DomId, mib: u64) -> Result<(), Error> {
    hotplug::running(env, dom)?;
    let home = nodes::home(dom);
    let most = env.store.read(&format!("{home}/memory/static-max")).doing("reading xenstore")?;
    let most = String::from_utf8(most).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) / 1024;
    if mib < MIN_MEMORY_MIB || mib > most {
        return Err(Error::OutOfRange { what: "the memory in MiB", min: MIN_MEMORY_MIB, max: most });
    }
    let kib = mib * 1024;
    let has_kib = env.hv.domain_info(dom).doing("asking for its memory")?.tot_pages.saturating_mul(4);
    let free_kib = env.hv.host_info().doing("asking for free memory")?.free_pages.saturating_mul(4);
    let need_kib = kib.saturating_sub(has_kib);
    if need_kib > free_kib {
        return Err(Error::NoMemory { need_kib, free_kib });
    }
    env.hv.set_max_mem(dom, kib + MAX_MEM_SLACK_KIB).doing("setting its memory limit")?;
    env.store.write(&format!("{home}/memory/target"), kib.to_string().as_bytes()).doing("writing xenstore")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolstack::fake::World;
    use crate::toolstack::tests::started;

    fn node(world: &mut World, path: &str) -> String {
        String::from_utf8(world.env().store.read(path).expect("a node")).expect("text")
    }

    #[test]
    fn vcpus_are_asked_for_by_their_availability() {
        let mut world = World::new();
        let dom = started(&mut world, "vcpus=2\nmaxvcpus=3");
        let wishes = |world: &mut World| {
            let path = |vcpu| format!("/local/domain/1/cpu/{vcpu}/availability");
            [0, 1, 2].map(|vcpu| node(world, &path(vcpu)) == "online")
        };
        for (vcpus, expected) in [(1, [true, false, false]), (3, [true; 3]), (2, [true, true, false])] {
            set_vcpus(&mut world.env(), dom, vcpus).expect("asked");
            assert_eq!(wishes(&mut world), expected);
        }
        for wrong in [0, 4] {
            let error = set_vcpus(&mut world.env(), dom, wrong).expect_err("refused");
            assert_eq!(error.to_string(), "the number of vcpus must be between 1 and 3");
        }
        assert_eq!(wishes(&mut world), [true, true, false]);
        assert_eq!(set_vcpus(&mut world.env(), DomId::DOM0, 1), Err(Error::IsDom0));
    }

    #[test]
    fn memory_is_asked_for_and_limited() {
        let mut world = World::new();
        let dom = started(&mut world, "maxmem=12");
        set_memory(&mut world.env(), dom, 6).expect("asked");
        assert_eq!(node(&mut world, "/local/domain/1/memory/target"), "6144");
        assert_eq!(world.hv.domains[&dom].info.max_pages, (6 + 1) * 256);
        set_memory(&mut world.env(), dom, 12).expect("asked");
        for wrong in [0, 13] {
            assert!(matches!(set_memory(&mut world.env(), dom, wrong), Err(Error::OutOfRange { .. })));
        }
        world.hv.free_pages = 10;
        assert!(matches!(set_memory(&mut world.env(), dom, 12), Err(Error::NoMemory { .. })));
        assert_eq!(world.hv.domains[&dom].info.max_pages, (12 + 1) * 256);
    }
}
