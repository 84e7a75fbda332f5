//! For the demo: fills its first disk with a pattern, flushes, reads everything back and compares.
//!
//! Word n of the disk is n times an odd number, so the host can check the same bytes without having seen them.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;
use pv_guest_kernel::blkfront::Disk;
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, println, task};
use test_guests::{Claim, Trouble, ensure};

test_guests::claim!(a_disk_keeps_what_is_written);

const SECTOR: usize = 512;
/// Sectors of one request, more than one slot of the ring describes.
const SECTORS: usize = 256;
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

fn a_disk_keeps_what_is_written(context: &'static Context) -> Claim {
    task::block_on(work(context))
}

/// The bytes of the disk from a sector on.
fn pattern(sector: u64, length: usize) -> Vec<u8> {
    let first = sector * (SECTOR as u64 / 8);
    (0..length as u64 / 8).flat_map(|word| (first + word).wrapping_mul(ODD).to_le_bytes()).collect()
}

async fn work(context: &'static Context) -> Claim {
    let store = Client::connect(context)?;
    let disks = Disk::list(&store).await?;
    let disk = Disk::open(&store, disks.first().ok_or(Trouble::error("there is no disk"))?).await?;
    let sectors = disk.sectors();
    ensure!(sectors > 0 && sectors % SECTORS as u64 == 0, "a disk of {sectors} sectors");
    for sector in (0..sectors).step_by(SECTORS) {
        disk.write(sector, &pattern(sector, SECTORS * SECTOR)).await?;
    }
    if disk.info().can_flush {
        disk.flush().await?;
    }
    let mut buffer = vec![0; SECTORS * SECTOR];
    for sector in (0..sectors).step_by(SECTORS) {
        disk.read(sector, &mut buffer).await?;
        ensure!(
            buffer == pattern(sector, buffer.len()),
            "sector {sector} and on differ from what was written"
        );
    }
    println!("WROTE {sectors} sectors");
    disk.close().await?;
    Ok(())
}
