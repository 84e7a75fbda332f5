//! Which of dom0's control channels to use.
//!
//! Each channel serves one client at a time. A system offers several: `PATH`, `PATH.1` and so on. QEMU accepts
//! connections on a busy one and lets them wait, so clients agree among themselves by a lock on a file beside each.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Most channels that are looked for.
const MAX_CHANNELS: usize = 16;
/// Pause between two looks when all are busy.
const PAUSE: Duration = Duration::from_millis(30);

/// A channel that nobody else uses as long as this lives.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// Held for its lock; `None` where no lock file can be made.
    _lock: Option<File>,
}

/// Claims the first free channel, waiting for one until `end`; `None` if all are busy till then.
pub(crate) fn claim(path: &Path, end: Option<Instant>) -> Option<Claim> {
    loop {
        for socket in channels(path) {
            let Ok(lock) = OpenOptions::new().create(true).append(true).open(beside(&socket, "lock")) else {
                return Some(Claim { socket, _lock: None });
            };
            if lock.try_lock().is_ok() {
                return Some(Claim { socket, _lock: Some(lock) });
            }
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// The channels that there are: the first always, so that its absence can be reported.
fn channels(path: &Path) -> Vec<PathBuf> {
    let more = (1..MAX_CHANNELS).map(|number| beside(path, &number.to_string()));
    std::iter::once(path.to_path_buf()).chain(more.take_while(|path| path.exists())).collect()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_channel_is_passed_over_and_comes_back() {
        let dir = std::env::temp_dir().join(format!("pvctl-sockets-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("ctl.sock");
        std::fs::write(dir.join("ctl.sock.1"), "").expect("a file");
        let now = Some(Instant::now());
        let first = claim(&path, now).expect("free");
        let second = claim(&path, now).expect("the other is free");
        assert_eq!((&first.socket, &second.socket), (&path, &dir.join("ctl.sock.1")));
        assert!(claim(&path, now).is_none());
        drop(first);
        assert_eq!(claim(&path, now).expect("free again").socket, path);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
