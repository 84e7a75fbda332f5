//! `xl.cfg`: how a domain is described.
//!
//! | file | holds |
//! |---|---|
//! | `error` | positions, errors, warnings |
//! | `lex` | text to tokens |
//! | `parse` | tokens to settings: `name = value`, values being strings, numbers and lists |
//! | `domain` | settings to a [`DomainConfig`], each key checked |
//! | `disk` | one entry of `disk` |
//! | `vif` | one entry of `vif` |
//!
//! Whatever is wrong is told with file, line and column. Keys that `xl` knows and we do not use are
//! warned about, never silently dropped.

mod disk;
mod domain;
mod error;
mod lex;
mod parse;
mod vif;

pub use disk::{DiskAccess, DiskConfig, Vdev, parse_disk, vdev_number};
pub use domain::{DomainConfig, RestartAction, parse_config};
pub use error::{CfgError, Position, Warning};
pub use vif::{DEFAULT_BRIDGE, VifConfig, ipv4};
