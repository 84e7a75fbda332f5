//! Guests that try many claims in one boot: each is a small function with a verdict of its own, and bears the numbers of
//! the published advisories whose fault it tries here.

use crate::verdict::{Claim, Trouble, report};
use alloc::string::String;
use pv_guest_kernel::{Context, println, time};

/// A row of a guest's table.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// The function's name, which is the claim.
    pub name: &'static str,
    /// Advisories (`XSA-N`) that are about this.
    pub advisories: &'static [u16],
    /// Tries it.
    pub attempt: fn(&'static Context) -> Claim,
}

/// Makes a table of claims the kernel: `claims! { guest: claim [148, 182], other [32], }`. The table is also what
/// `docs/advisories.md` is made from, so it stays one claim to a line.
#[macro_export]
macro_rules! claims {
    ($guest:ident: $($claim:ident [$($number:literal),* $(,)?],)+) => {
        fn entry(context: &'static pv_guest_kernel::Context) {
            let table = [$($crate::claims::Listed {
                name: stringify!($claim),
                advisories: &[$($number),*],
                attempt: $claim,
            }),+];
            $crate::claims::run(stringify!($guest), context, &table);
        }
        pv_guest_kernel::entry!(entry);
    };
}

/// Tries every claim, tells of each, and ends with the worst verdict.
pub fn run(guest: &str, context: &'static Context, table: &[Listed]) {
    let mut worst: Claim = Ok(());
    // `only=NAME` on the command line, for a person who looks into one.
    let only = context.option("only");
    for row in table.iter().filter(|row| only.is_none_or(|name| name == row.name)) {
        println!("CLAIM tried {} {:?}", row.name, row.advisories);
        let start = time::now_ns();
        let outcome = (row.attempt)(context);
        println!("CLAIM took {} {} ms", row.name, (time::now_ns() - start) / 1_000_000);
        tell(row.name, &outcome);
        if badness(&outcome) > badness(&worst) {
            worst = outcome.map_err(|trouble| named(row.name, trouble));
        }
    }
    // A claim that cannot be tried here says so itself; the guest has done its part all the same.
    report(guest, if badness(&worst) > 1 { worst } else { Ok(()) });
}

fn tell(name: &str, outcome: &Claim) {
    match outcome {
        Ok(()) => println!("CLAIM held {name}"),
        Err(Trouble::Skip(text)) => println!("CLAIM skipped {name}: {text}"),
        Err(Trouble::Error(text)) => println!("CLAIM broken {name}: {text}"),
        Err(Trouble::Failure(text)) => println!("CLAIM failed {name}: {text}"),
    }
}

fn badness(outcome: &Claim) -> u8 {
    match outcome {
        Ok(()) => 0,
        Err(Trouble::Skip(_)) => 1,
        Err(Trouble::Error(_)) => 2,
        Err(Trouble::Failure(_)) => 3,
    }
}

fn named(name: &str, trouble: Trouble) -> Trouble {
    let with = |text: String| alloc::format!("{name}: {text}");
    match trouble {
        Trouble::Failure(text) => Trouble::Failure(with(text)),
        Trouble::Error(text) => Trouble::Error(with(text)),
        Trouble::Skip(text) => Trouble::Skip(with(text)),
    }
}
