//! Writes and reads a disk at random places, again and again, and compares every byte: the guest beside which others
//! misbehave. `rounds=N` on the command line.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;
use pv_guest_kernel::blkfront::Disk;
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, println, task};
use test_guests::random::Random;
use test_guests::{Claim, Trouble, ensure};

test_guests::claim!(a_disk_is_right_beside_a_guest_that_misbehaves);

const SECTOR: usize = 512;
/// Sectors of one request.
const SECTORS: u64 = 32;

fn a_disk_is_right_beside_a_guest_that_misbehaves(context: &'static Context) -> Claim {
    task::block_on(work(context))
}

/// What block `block` holds after its `turn`-th write.
fn fill(buffer: &mut [u8], block: u64, turn: u64) {
    let mut random = Random::new(block << 32 | (turn + 1));
    for word in buffer.chunks_exact_mut(8) {
        word.copy_from_slice(&random.next().to_le_bytes());
    }
}

async fn work(context: &'static Context) -> Claim {
    let rounds = context.option("rounds").and_then(|text| text.parse().ok()).unwrap_or(200_u64);
    let store = Client::connect(context)?;
    let disks = Disk::list(&store).await?;
    let disk = Disk::open(&store, disks.first().ok_or(Trouble::error("there is no disk"))?).await?;
    let blocks = disk.sectors() / SECTORS;
    ensure!(blocks > 0, "a disk of {} sectors", disk.sectors());
    let mut turns = vec![0_u64; usize::try_from(blocks).unwrap_or(0)];
    let bytes = usize::try_from(SECTORS).unwrap_or(0) * SECTOR;
    let (mut wanted, mut found) = (vec![0; bytes], vec![0; bytes]);
    let mut random = Random::new(rounds + 1);
    for round in 0..rounds {
        let block = random.below(blocks);
        let turn = &mut turns[usize::try_from(block).unwrap_or(0)];
        *turn += 1;
        fill(&mut wanted, block, *turn);
        disk.write(block * SECTORS, &wanted).await?;
        let other = random.below(blocks);
        let turn = turns[usize::try_from(other).unwrap_or(0)];
        disk.read(other * SECTORS, &mut found).await?;
        if turn == 0 {
            wanted.fill(0);
        } else {
            fill(&mut wanted, other, turn);
        }
        ensure!(found == wanted, "block {other} differs in round {round}");
    }
    println!("CHECKED {rounds} blocks");
    disk.close().await?;
    Ok(())
}
