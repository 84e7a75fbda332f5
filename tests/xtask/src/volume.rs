//! The FAT volume that dom0 and the host share: guest kernels, their configurations, whatever else is put there.

use crate::failure::{Failure, Result};
use crate::setup;
use crate::tools;
use std::fs;
use std::path::{Path, PathBuf};

/// Sectors of the smallest volume, 64 MiB.
const MIN_SECTORS: u64 = 64 * 2048;
/// Sectors of one cluster per so many sectors of volume keep it FAT16, which is quick to walk.
const SECTORS_PER_CLUSTER_SECTOR: u64 = 32 * 1024;

/// Files for a volume.
#[derive(Debug, Default)]
pub(crate) struct Volume {
    files: Vec<(PathBuf, String)>,
    texts: Vec<(String, String)>,
}

impl Volume {
    /// Adds a file of the host under a name.
    pub(crate) fn add(&mut self, file: &Path, name: &str) {
        self.files.push((file.to_path_buf(), name.to_owned()));
    }

    /// Adds a text file.
    pub(crate) fn add_text(&mut self, name: &str, text: &str) {
        self.texts.push((name.to_owned(), text.to_owned()));
    }

    /// Makes the image.
    pub(crate) fn make(&self, image: &Path) -> Result<()> {
        setup::need(&[setup::MTOOLS])?;
        let mut bytes = 0;
        for (file, _) in &self.files {
            bytes += fs::metadata(file).map_err(|error| Failure::at(file, &error))?.len();
        }
        // Half as much again for what dom0 writes.
        let sectors = (bytes * 3 / 2 / 512).max(MIN_SECTORS).next_multiple_of(2048);
        let cluster = sectors.div_ceil(SECTORS_PER_CLUSTER_SECTOR).next_power_of_two().max(4);
        crate::paths::write(image, "")?;
        fs::OpenOptions::new().write(true).open(image)?.set_len(sectors * 512)?;
        let mut format = tools::command("mformat");
        format.arg("-i").arg(image).args(["-T", &sectors.to_string(), "-c", &cluster.to_string()]);
        tools::quietly("mformat", format.args(["-h", "64", "-s", "32", "-v", "PV", "::"]))?;
        for (file, name) in &self.files {
            copy_in(image, file, name)?;
        }
        for (name, text) in &self.texts {
            let file = image.with_extension("text");
            crate::paths::write(&file, text)?;
            copy_in(image, &file, name)?;
            fs::remove_file(&file)?;
        }
        Ok(())
    }
}

/// Puts a file on a volume.
fn copy_in(image: &Path, file: &Path, name: &str) -> Result<()> {
    let mut copy = tools::command("mcopy");
    // Without the check of the host's geometry rules; nothing here boots from the volume.
    copy.env("MTOOLS_SKIP_CHECK", "1").arg("-o").arg("-i").arg(image).arg(file).arg(format!("::{name}"));
    tools::quietly(&format!("putting {name} on the volume"), &mut copy).map(|_| ())
}
