//! The FAT volume on the first disk: guest kernels, their configurations, and whatever the host puts there.
//!
//! The FAT code is written for disks that answer at once; ours answer later. So an operation runs against a
//! cache of what was read so far. Where it needs more it stops with [`Miss`], the missing part is read while
//! other tasks run, and the operation starts over; it has changed nothing on the disk, because what it writes
//! is collected beside the cache and goes out once the operation has succeeded. Each operation starts with an
//! empty cache, so that it sees what the host wrote.

mod cache;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::ControlFlow;

use embedded_sdmmc::{Error, LfnBuffer, Mode, RawDirectory, ShortFileName, TimeSource, Timestamp, VolumeIdx};
use pv_guest_kernel::task::Mutex;

use crate::virtio::blk::{Disk, DiskError};
use cache::{Cache, Miss};

/// Longest file name in bytes of UTF-8.
const MAX_NAME_BYTES: usize = 255 * 3;

/// How much of a file is asked for at a time.
const READ_BYTES: usize = 16 * 1024;

/// Why an operation failed.
#[derive(Debug)]
pub(crate) enum VolumeError {
    /// No such file or directory.
    NotFound(String),
    /// The file has so many bytes, and the caller takes at most so many.
    TooLarge(String, u64, u64),
    /// dom0 has no memory for the file's bytes.
    NoMemory(String, u64),
    /// A directory where a file is wanted.
    IsDirectory(String),
    /// The disk failed.
    Disk(DiskError),
    /// The file system is of an unknown kind, or damaged.
    Format(String),
}

impl core::fmt::Display for VolumeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotFound(path) => write!(f, "{path}: no such file on the volume"),
            Self::TooLarge(path, size, limit) => {
                write!(f, "{path}: too large ({size} bytes, where at most {limit} are allowed)")
            }
            Self::NoMemory(path, size) => {
                write!(f, "{path}: dom0 has no room for {size} bytes; give it more memory (dom0_mem)")
            }
            Self::IsDirectory(path) => write!(f, "{path}: is a directory"),
            Self::Disk(error) => write!(f, "disk: {error}"),
            Self::Format(text) => write!(f, "file system: {text}"),
        }
    }
}

/// A directory's entry.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The long name, or the short one in lower case.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u32,
    /// Whether it is a directory.
    pub(crate) is_directory: bool,
    short: ShortFileName,
}

struct NoClock;

impl TimeSource for NoClock {
    fn get_timestamp(&self) -> Timestamp {
        // FAT's own beginning; nothing here depends on file times.
        Timestamp {
            year_since_1970: 10,
            zero_indexed_month: 0,
            zero_indexed_day: 0,
            hours: 0,
            minutes: 0,
            seconds: 0,
        }
    }
}

type Manager<'a> = embedded_sdmmc::VolumeManager<&'a Cache, NoClock, 8, 2, 1>;

/// How an attempt can end: it needs more of the disk, or it is over.
enum Stop {
    Miss,
    Failed(VolumeError),
}

impl From<Error<Miss>> for Stop {
    fn from(error: Error<Miss>) -> Self {
        match error {
            Error::DeviceError(Miss) => Self::Miss,
            other => Self::Failed(VolumeError::Format(other.to_string())),
        }
    }
}

/// The volume.
pub(crate) struct Volume {
    disk: Rc<Disk>,
    lock: Mutex<()>,
}

impl Volume {
    /// A volume on all of `disk`. Nothing is read yet.
    pub(crate) fn new(disk: Rc<Disk>) -> Self {
        Self { disk, lock: Mutex::new(()) }
    }

    /// The entries of a directory.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Entry>, VolumeError> {
        self.run(|manager, root| {
            let dir = open_directory(manager, root, path)?;
            entries(manager, dir)
        })
        .await
    }

    /// A whole file of at most `limit` bytes.
    pub(crate) async fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, VolumeError> {
        let mut content = Content::default();
        let read = self.run(|manager, root| read_file(manager, root, path, limit, &mut content)).await;
        match read {
            // Beside the file's own bytes, for which there was room.
            Err(VolumeError::Disk(DiskError::NoMemory)) if !content.bytes.is_empty() => {
                Err(VolumeError::NoMemory(path.to_string(), content.bytes.len() as u64))
            }
            other => other.map(|()| content.bytes),
        }
    }

    /// Creates or replaces a file. A new name must be of the short kind (8.3).
    pub(crate) async fn write(&self, path: &str, content: &[u8]) -> Result<(), VolumeError> {
        self.run(|manager, root| write_file(manager, root, path, content)).await
    }

    async fn run<T>(
        &self,
        mut operation: impl FnMut(&Manager<'_>, RawDirectory) -> Result<T, Stop>,
    ) -> Result<T, VolumeError> {
        let _guard = self.lock.lock().await;
        let cache = Cache::new(self.disk.clone());
        loop {
            match attempt(&cache, &mut operation) {
                Ok(value) => {
                    cache.write_back().await.map_err(VolumeError::Disk)?;
                    return Ok(value);
                }
                Err(Stop::Miss) => cache.fill().await.map_err(VolumeError::Disk)?,
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
    }
}

fn attempt<T>(
    cache: &Cache,
    operation: &mut impl FnMut(&Manager<'_>, RawDirectory) -> Result<T, Stop>,
) -> Result<T, Stop> {
    cache.forget_writes();
    let manager: Box<Manager<'_>> = Box::new(Manager::new_with_limits(cache, NoClock, 0));
    let volume = manager.open_raw_volume(VolumeIdx(0))?;
    let root = manager.open_root_dir(volume)?;
    operation(&manager, root)
}

fn entries(manager: &Manager<'_>, dir: RawDirectory) -> Result<Vec<Entry>, Stop> {
    let mut storage = [0; MAX_NAME_BYTES];
    let mut buffer = LfnBuffer::new(&mut storage);
    let mut found = Vec::new();
    manager.iterate_dir_lfn(dir, &mut buffer, |entry, long| {
        let attributes = entry.attributes;
        if !attributes.is_volume() && !attributes.is_lfn() {
            let name = long.map_or_else(|| entry.name.to_string().to_lowercase(), ToString::to_string);
            let (size, is_directory) = (entry.size, attributes.is_directory());
            found.push(Entry { name, size, is_directory, short: entry.name });
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn find(manager: &Manager<'_>, dir: RawDirectory, name: &str) -> Result<Option<Entry>, Stop> {
    let all = entries(manager, dir)?;
    Ok(all.into_iter().find(|entry| {
        entry.name.eq_ignore_ascii_case(name) || entry.short.to_string().eq_ignore_ascii_case(name)
    }))
}

fn components(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
}

fn not_found(path: &str) -> Stop {
    Stop::Failed(VolumeError::NotFound(path.to_string()))
}

fn open_directory(manager: &Manager<'_>, root: RawDirectory, path: &str) -> Result<RawDirectory, Stop> {
    let mut dir = root;
    for name in components(path) {
        let entry = find(manager, dir, name)?.filter(|entry| entry.is_directory);
        let entry = entry.ok_or_else(|| not_found(path))?;
        let next = manager.open_dir(dir, entry.short)?;
        manager.close_dir(dir)?;
        dir = next;
    }
    Ok(dir)
}

/// The directory a path's last component is in, and that component.
fn parent<'p>(
    manager: &Manager<'_>,
    root: RawDirectory,
    path: &'p str,
) -> Result<(RawDirectory, &'p str), Stop> {
    let (dir, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
    if name.is_empty() {
        return Err(Stop::Failed(VolumeError::IsDirectory(path.to_string())));
    }
    let dir = open_directory(manager, root, dir).map_err(|stop| match stop {
        Stop::Failed(VolumeError::NotFound(_)) => not_found(path),
        other => other,
    })?;
    Ok((dir, name))
}

/// What has been read of a file: an attempt goes on where the last one needed more of the disk.
#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    filled: usize,
}

impl Content {
    /// Makes room for the file once its size is known.
    fn reserve(&mut self, path: &str, size: usize) -> Result<(), Stop> {
        if self.bytes.len() != size {
            self.filled = 0;
            let full = |_| Stop::Failed(VolumeError::NoMemory(path.to_string(), size as u64));
            self.bytes.try_reserve_exact(size).map_err(full)?;
            self.bytes.resize(size, 0);
        }
        Ok(())
    }
}

fn read_file(
    manager: &Manager<'_>,
    root: RawDirectory,
    path: &str,
    limit: u64,
    content: &mut Content,
) -> Result<(), Stop> {
    let (dir, name) = parent(manager, root, path)?;
    let entry = find(manager, dir, name)?.ok_or_else(|| not_found(path))?;
    if entry.is_directory {
        return Err(Stop::Failed(VolumeError::IsDirectory(path.to_string())));
    }
    if u64::from(entry.size) > limit {
        return Err(Stop::Failed(VolumeError::TooLarge(path.to_string(), u64::from(entry.size), limit)));
    }
    content.reserve(path, usize::try_from(entry.size).unwrap_or(usize::MAX))?;
    let file = manager.open_file_in_dir(dir, entry.short, Mode::ReadOnly)?;
    manager.file_seek_from_start(file, u32::try_from(content.filled).unwrap_or(u32::MAX))?;
    while let Some(rest) = content.bytes.get_mut(content.filled..).filter(|rest| !rest.is_empty()) {
        // What is read before a miss is lost with it, so each piece is small.
        let piece = rest.len().min(READ_BYTES);
        match manager.read(file, rest.get_mut(..piece).unwrap_or_default())? {
            0 => return Err(Stop::Failed(VolumeError::Format(format!("{path} ends early")))),
            count => content.filled += count,
        }
    }
    manager.close_file(file)?;
    Ok(())
}

fn write_file(manager: &Manager<'_>, root: RawDirectory, path: &str, content: &[u8]) -> Result<(), Stop> {
    let (dir, name) = parent(manager, root, path)?;
    let file = match find(manager, dir, name)? {
        Some(entry) => manager.open_file_in_dir(dir, entry.short, Mode::ReadWriteTruncate)?,
        None => manager.open_file_in_dir(dir, name, Mode::ReadWriteCreate)?,
    };
    manager.write(file, content)?;
    manager.close_file(file)?;
    Ok(())
}
