//! For domUs: prints what the store has about this domain.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec;

use pv_guest_kernel::hypercall::Result;
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, println, task};

pv_guest_kernel::entry!(kernel);

fn kernel(context: &'static Context) {
    if let Err(error) = task::block_on(list(context)) {
        println!("xenstore: {error}");
    }
}

async fn list(context: &'static Context) -> Result {
    let store = Client::connect(context)?;
    let id: u16 = store.read_number("domid").await?;
    let mut paths = vec![format!("/local/domain/{id}")];
    while let Some(path) = paths.pop() {
        let value = store.read(&path).await.unwrap_or_default();
        println!("{path} = {:?}", String::from_utf8_lossy(&value));
        // The last name is the next to be popped.
        for name in store.directory(&path).await?.into_iter().rev() {
            paths.push(format!("{path}/{name}"));
        }
    }
    Ok(())
}
