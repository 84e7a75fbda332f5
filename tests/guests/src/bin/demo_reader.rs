//! For the demo: reads one file from the ext4 file system on its first disk and prints the file's SHA-256.
//!
//! The file's path comes from `file=` on the command line. The file system code is written for disks that answer at
//! once; each of its reads waits here for blkfront.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::error::Error;
use core::fmt::Write as _;
use ext4_view::{Ext4, Ext4Error, Ext4Read};
use pv_guest_kernel::blkfront::Disk;
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, println, task};
use sha2::{Digest as _, Sha256};
use test_guests::{Claim, Trouble, ensure};

test_guests::claim!(a_file_is_read_through_blkfront);

const SECTOR: u64 = 512;
const CHUNK: usize = 64 * 1024;

/// A disk as the file system code sees it.
struct Blocking {
    disk: Disk,
}

impl Ext4Read for Blocking {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let skip = usize::try_from(start % SECTOR)?;
        let length = (skip + into.len()).next_multiple_of(usize::try_from(SECTOR)?);
        let mut sectors = vec![0; length];
        task::block_on(self.disk.read(start / SECTOR, &mut sectors)).map_err(Errno::name)?;
        into.copy_from_slice(sectors.get(skip..skip + into.len()).ok_or("short read")?);
        Ok(())
    }
}

fn a_file_is_read_through_blkfront(context: &'static Context) -> Claim {
    let path = context.option("file").ok_or(Trouble::error("no file= on the command line"))?;
    let disk = task::block_on(open(context))?;
    println!("disk: {:?}", disk.info());
    let reader = Blocking { disk: disk.clone() };
    let (size, digest) =
        digest(Box::new(reader), path).map_err(|error| Trouble::Failure(format!("{path}: {error}")))?;
    ensure!(size > 0, "{path} is empty");
    println!("SHA256 {digest} {size} {path}");
    task::block_on(disk.close())?;
    Ok(())
}

async fn open(context: &'static Context) -> Claim<Disk> {
    let store = Client::connect(context)?;
    let disks = Disk::list(&store).await?;
    let first = disks.first().ok_or(Trouble::error("there is no disk"))?;
    Ok(Disk::open(&store, first).await?)
}

fn digest(reader: Box<dyn Ext4Read>, path: &str) -> Result<(u64, String), Ext4Error> {
    let mut file = Ext4::load(reader)?.open(path)?;
    let (mut hash, mut size, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let count = file.read_bytes(&mut chunk)?;
        let Some(bytes @ [_, ..]) = chunk.get(..count) else { break };
        hash.update(bytes);
        size += count as u64;
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok((size, text))
}
