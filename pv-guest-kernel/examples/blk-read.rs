//! For domUs with a disk: reads its start, says how fast the rest can be read.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;

use pv_guest_kernel::blkfront::Disk;
use pv_guest_kernel::hypercall::Result;
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, println, task, time};

pv_guest_kernel::entry!(kernel);

fn kernel(context: &'static Context) {
    if let Err(error) = task::block_on(read(context)) {
        println!("blk-read failed: {error}");
    }
}

async fn read(context: &'static Context) -> Result {
    let store = Client::connect(context)?;
    for path in Disk::list(&store).await? {
        let disk = Disk::open(&store, &path).await?;
        println!("{path}: {:?}", disk.info());
        let mut start = [0; 512];
        disk.read(0, &mut start).await?;
        println!("first bytes {:02x?}", &start[..16]);
        let sectors = disk.sectors().min(8192);
        let mut buffer = vec![0; usize::try_from(sectors).unwrap_or(0) * 512];
        let begin = time::now_ns();
        disk.read(0, &mut buffer).await?;
        let elapsed = (time::now_ns() - begin).max(1);
        println!("{} KiB in {} us", buffer.len() / 1024, elapsed / 1000);
        disk.close().await?;
    }
    Ok(())
}
