//! Verbs about the network.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dom0_tools::ctl::command::Format;
use dom0_tools::ctl::render;
use dom0_tools::toolstack;

use super::Outcome;
use super::domains::resolve;
use crate::session::Session;
use crate::toolstack::Toolstack;

/// `network-list`
pub(super) fn list(stack: &Toolstack, session: &Session, who: &str, format: Format) -> Outcome {
    let dom = resolve(stack, who)?;
    let rows = stack.with_env(|env| toolstack::list_vifs(env, dom))?;
    session.out(&render::vifs_of(&rows, format));
    Ok(())
}

/// `switch`
pub(super) fn switches(stack: &Toolstack, session: &Session, format: Format) {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for bridge in stack.nets.bridges() {
        for port in bridge.view() {
            let mac = port.mac.map_or_else(|| "-".to_string(), |mac| mac.to_string());
            let seen = port.counters;
            let counts = [
                seen.in_frames,
                seen.in_bytes,
                seen.in_dropped,
                seen.out_frames,
                seen.out_bytes,
                seen.out_dropped,
            ];
            let names = [bridge.name().to_string(), port.name, mac];
            rows.push(names.into_iter().chain(counts.map(|count| count.to_string())).collect());
        }
    }
    let heads =
        ["Switch", "Port", "MAC", "InFrames", "InBytes", "InDropped", "OutFrames", "OutBytes", "OutDropped"];
    session.out(&render::table(&heads, &rows, format));
}
