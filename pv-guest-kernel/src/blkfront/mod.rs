//! Block device front end.
//!
//! Data goes through pages that are granted to the back end once, when they are first needed, and then used again and again,
//! so that no request waits for a grant and a back end may keep them mapped. Several requests may be under way; requests
//! larger than one slot can describe are split, or described indirectly where the back end knows that.

mod disk;
mod pool;
mod setup;

pub use disk::{Disk, Info};
