//! For domUs: counts seconds until the toolstack asks the domain to power off or to reboot.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::time::Duration;

use pv_guest_kernel::hypercall::Result;
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, control, println, task, time};

pv_guest_kernel::entry!(kernel);

fn kernel(context: &'static Context) {
    if let Err(error) = task::block_on(live(context)) {
        println!("obey failed: {error}");
    }
}

async fn live(context: &'static Context) -> Result {
    let store = Client::connect(context)?;
    task::spawn(async {
        for second in 1_u64.. {
            time::sleep(Duration::from_secs(1)).await;
            println!("{second} s");
        }
    })
    .detach();
    control::obey(&store).await
}
