//! Verbs that try dom0 and the hypervisor.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use dom0_tools::toolstack::CreateOptions;
use dom0_tools::toolstack::ports::Store;
use pv_guest_kernel::time;

use super::Outcome;
use crate::session::Session;
use crate::toolstack::{Failure, Toolstack};

/// The hypervisor may free a domain's last pages a moment after it has answered.
const SETTLE_ROUNDS: usize = 50;
const SETTLE_TIME: Duration = Duration::from_millis(100);
/// How often progress is shown.
const REPORT_ROUNDS: u32 = 100;

/// What must be the same before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Balance {
    free_pages: u64,
    store_nodes: usize,
}

fn balance(stack: &Toolstack) -> Result<Balance, Failure> {
    let info = stack.with_env(|env| env.hv.host_info()).map_err(|error| Failure::new(error.name()))?;
    Ok(Balance { free_pages: info.free_pages, store_nodes: count_nodes(stack) })
}

fn count_nodes(stack: &Toolstack) -> usize {
    let mut store = stack.store.handle();
    let mut pending: Vec<String> = alloc::vec![String::from("/")];
    let mut count = 0;
    while let Some(path) = pending.pop() {
        count += 1;
        let prefix = path.trim_end_matches('/');
        let names = store.directory(&path).unwrap_or_default();
        pending.extend(names.into_iter().map(|name| format!("{prefix}/{name}")));
    }
    count
}

/// `selftest create-destroy`: the first round warms up what is allocated once; after that nothing may be lost.
pub(super) async fn create_destroy(stack: &Toolstack, session: &Session, rounds: u32, file: &str) -> Outcome {
    let config = stack.configuration(file, &[], |_| {}).await?;
    let images = stack.images(&config).await?;
    let options = CreateOptions { paused: true };
    stack.destroy(stack.create(&config, &images, options, 0).await?)?;
    let before = settled(stack, None).await?;
    for round in 1..=rounds {
        let dom = stack.create(&config, &images, options, 0).await?;
        stack.destroy(dom)?;
        if round % REPORT_ROUNDS == 0 {
            session.out(&format!("selftest: {round} rounds\n"));
        }
    }
    let after = settled(stack, Some(before)).await?;
    session.out(&format!(
        "selftest: create-destroy {rounds}: free pages {} before, {} after; xenstore nodes {} before, {} after\n",
        before.free_pages, after.free_pages, before.store_nodes, after.store_nodes
    ));
    if before == after { Ok(()) } else { Err(Failure::new("something was lost")) }
}

/// The balance once it is as expected, or (without an expectation) no longer changes.
async fn settled(stack: &Toolstack, wanted: Option<Balance>) -> Result<Balance, Failure> {
    let mut last = balance(stack)?;
    for _ in 0..SETTLE_ROUNDS {
        if wanted == Some(last) {
            break;
        }
        time::sleep(SETTLE_TIME).await;
        let now = balance(stack)?;
        if wanted.is_none() && now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}
