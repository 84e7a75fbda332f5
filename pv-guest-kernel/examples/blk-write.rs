//! For domUs with a disk that may be overwritten: fills it with a pattern, flushes, reads it back and compares. Several
//! requests of odd sizes are under way at a time.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use pv_guest_kernel::blkfront::Disk;
use pv_guest_kernel::hypercall::{Errno, Result};
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, println, task};

pv_guest_kernel::entry!(kernel);

/// Sectors of the requests, one after another: small, direct, and so large that they are split.
const SIZES: [u64; 5] = [1, 7, 88, 89, 1100];

fn kernel(context: &'static Context) {
    if let Err(error) = task::block_on(write(context)) {
        println!("blk-write failed: {error}");
    }
}

async fn write(context: &'static Context) -> Result {
    let store = Client::connect(context)?;
    let paths = Disk::list(&store).await?;
    let path = paths.first().ok_or(Errno::NoDev)?;
    let disk = Disk::open(&store, path).await?;
    let pieces = pieces(disk.sectors());
    let writes = pieces.iter().map(|piece| {
        let disk = &disk;
        async move { disk.write(piece.0, &pattern(piece.0, piece.1)).await }
    });
    task::join_all(writes).await.into_iter().collect::<Result>()?;
    disk.flush().await?;
    let reads = pieces.iter().map(|piece| {
        let disk = &disk;
        async move {
            let mut back = vec![0; pattern(piece.0, piece.1).len()];
            disk.read(piece.0, &mut back).await?;
            Ok(back == pattern(piece.0, piece.1))
        }
    });
    let equal: Vec<bool> = task::join_all(reads).await.into_iter().collect::<Result<_>>()?;
    let wrong = equal.iter().filter(|same| !**same).count();
    println!("{} requests over {} sectors, {wrong} wrong", pieces.len(), disk.sectors());
    println!("beyond the end: {:?}", disk.read(disk.sectors(), &mut [0; 512]).await);
    disk.close().await
}

/// First sector and length of each request, to the end of the disk.
fn pieces(sectors: u64) -> Vec<(u64, u64)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for size in SIZES.iter().cycle() {
        if at >= sectors {
            break;
        }
        pieces.push((at, (*size).min(sectors - at)));
        at += size;
    }
    pieces
}

/// Bytes that tell each sector, and each place in it, from the others.
fn pattern(first: u64, count: u64) -> Vec<u8> {
    let words = (first * 64..(first + count) * 64).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}
