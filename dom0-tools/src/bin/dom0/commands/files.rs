//! Verbs about disks, files and xenstore.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dom0_tools::ctl::command::Format;
use dom0_tools::ctl::render;
use dom0_tools::toolstack::ports::Store;

use super::{Dom0, Outcome};
use crate::session::Session;
use crate::toolstack::{Failure, Toolstack};
use crate::virtio::blk::Disk;
use crate::volume::{Entry, Volume};

/// Longest file that `cat` shows.
const MAX_CAT_BYTES: u64 = 1 << 20;
/// Longest value that `xenstore-ls` shows in full.
const SHOWN_BYTES: usize = 120;

fn volume(dom0: &Dom0) -> Result<&Volume, Failure> {
    dom0.volume.as_deref().ok_or_else(|| Failure::new("there is no disk with a volume"))
}

/// `disks`
pub(super) fn disks(dom0: &Dom0, session: &Session, format: Format) -> Outcome {
    let row = |disk: &Rc<Disk>| {
        let mode = if disk.is_read_only() { "r" } else { "rw" };
        alloc::vec![disk.name().to_string(), disk.sectors().to_string(), mode.to_string()]
    };
    let rows: Vec<Vec<String>> = dom0.machine.disks.iter().map(row).collect();
    session.out(&render::table(&["Disk", "Sectors", "Mode"], &rows, format));
    Ok(())
}

/// `ls`
pub(super) async fn list(dom0: &Dom0, session: &Session, path: &str, format: Format) -> Outcome {
    let entries = volume(dom0)?.list(path).await.map_err(Failure::new)?;
    let row = |entry: &Entry| {
        let kind = if entry.is_directory { "dir" } else { "file" };
        alloc::vec![entry.name.clone(), entry.size.to_string(), kind.to_string()]
    };
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    session.out(&render::table(&["Name", "Size", "Kind"], &rows, format));
    Ok(())
}

/// `cat`
pub(super) async fn cat(dom0: &Dom0, session: &Session, path: &str) -> Outcome {
    let content = volume(dom0)?.read(path, MAX_CAT_BYTES).await.map_err(Failure::new)?;
    session.out_bytes(&content);
    Ok(())
}

/// `write`
pub(super) async fn write(dom0: &Dom0, path: &str, text: &str) -> Outcome {
    let content = format!("{text}\n");
    volume(dom0)?.write(path, content.as_bytes()).await.map_err(Failure::new)
}

/// `xenstore-ls`
pub(super) fn xenstore_ls(stack: &Toolstack, session: &Session, path: &str) -> Outcome {
    let mut store = stack.store.handle();
    let root = format!("/{}", path.trim_matches('/'));
    // Depth first; a stack of nodes to show, each with its depth.
    let mut pending: Vec<(String, usize)> =
        children(&mut store, &root)?.rev().map(|path| (path, 0)).collect();
    while let Some((path, depth)) = pending.pop() {
        let value = store.read(&path).unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or("");
        session.out(&format!("{:depth$}{name} = \"{}\"\n", "", shown(&value)));
        if let Ok(below) = children(&mut store, &path) {
            pending.extend(below.rev().map(|path| (path, depth + 1)));
        }
    }
    Ok(())
}

fn children(store: &mut impl Store, path: &str) -> Result<impl DoubleEndedIterator<Item = String>, Failure> {
    let names = store.directory(path).map_err(|error| Failure::new(format!("{path}: {}", error.name())))?;
    let prefix = path.trim_end_matches('/').to_string();
    Ok(names.into_iter().map(move |name| format!("{prefix}/{name}")))
}

fn shown(value: &[u8]) -> String {
    let text: String = value.escape_ascii().map(char::from).collect();
    if text.len() <= SHOWN_BYTES { text } else { format!("{}...", text.get(..SHOWN_BYTES).unwrap_or("")) }
}
