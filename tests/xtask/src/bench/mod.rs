//! `cargo xtask bench`: what operations cost, on our hypervisor and on Xen, side by side.
//!
//! | module | for |
//! |---|---|
//! | `figures` | machines that measure, and reading what they found |
//! | `parts` | what there is to measure: one domain alone, a pair, Linux, growth |
//! | `load`, `io` | Linux as the load; its disks and networks |
//! | `rows` | names, words and aims |
//! | `table`, `chart`, `docs` | showing it: text and JSON, SVG, `docs/performance.md` |
//! | `breakdown` | where the instructions of a row go |
//! | `budget` | the test stage |
//! | `xen` | finding Debian's Xen |

mod breakdown;
pub(crate) mod budget;
mod chart;
mod docs;
pub(crate) mod figures;
mod growth;
mod io;
mod load;
mod parts;
mod rows;
mod table;
pub(crate) mod xen;

use crate::failure::{Failure, Result};
use crate::images;
use crate::paths;
use crate::setup;
use crate::tools::say;
use figures::{Clock, Side};
use parts::Part;
use std::path::{Path, PathBuf};
use table::Table;

/// Measures what operations cost, guest side included.
///
/// Figures are instructions, counted by QEMU (`-icount`), so they are the same on every host and from run to run for
/// one compiler; `--wall` adds nanoseconds by the clock on the wall, where only the ratio of the two sides means something.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[arg(
        short,
        long,
        value_enum,
        value_delimiter = ',',
        help = "What to measure [default: alone; everything for --write-docs]"
    )]
    part: Vec<Part>,
    /// Only rows whose name contains this; the io part leaves the other loads out
    #[arg(long, value_name = "TEXT", conflicts_with = "write_docs")]
    only: Option<String>,
    /// How the figures are shown
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same on Debian's Xen 4.17, and the ratio
    #[arg(long)]
    against_xen: bool,
    /// The Xen to compare with, as an ELF file that is not compressed
    #[arg(long, value_name = "FILE", requires = "against_xen")]
    xen: Option<PathBuf>,
    /// Also by the clock on the wall
    #[arg(long)]
    wall: bool,
    /// Draw the ratios (the figures, without Xen) into an SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Keep the figures in a file for `--compare`
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Show the change since the figures of a file
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Take what is not measured now from files that `--save` made
    #[arg(long, value_name = "FILE")]
    merge: Vec<PathBuf>,
    /// Tell where the instructions of one row go, by function of the hypervisor
    #[arg(long, value_name = "ROW", conflicts_with_all = ["against_xen", "wall", "svg", "save", "compare"])]
    breakdown: Option<String>,
    /// Write docs/performance.md with its charts; measures what `--merge` does not bring
    #[arg(long, requires = "against_xen")]
    write_docs: bool,
    /// Say which rows there are
    #[arg(long)]
    list: bool,
    /// Measure the images as they are, without building
    #[arg(long)]
    no_build: bool,
    /// The hypervisor to measure instead of target/images/xen-like-hv
    #[arg(long, value_name = "FILE")]
    hv: Option<PathBuf>,
}

/// How figures are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A table for people.
    Text,
    /// An object with a member for each row.
    Json,
}

impl BenchArgs {
    /// Measures and shows; the exit status.
    pub(crate) fn run(&self) -> Result<u8> {
        if self.list {
            rows::KNOWN.iter().for_each(|row| println!("{:<52} {}", row.name, row.what));
            return Ok(0);
        }
        setup::need(&[setup::QEMU])?;
        if !self.no_build {
            images::build_for(self.hv.as_deref())?;
        }
        if let Some(row) = &self.breakdown {
            return breakdown::run(&Side::ours(self.hv.as_deref()), row).map(|()| 0);
        }
        let mut table = Table::default();
        for file in &self.merge {
            table.merge(&text(file)?).map_err(|why| wrong(file, &why))?;
        }
        for part in self.parts(&table) {
            self.measure(part, &mut table)?;
        }
        self.show(&mut table)?;
        Ok(0)
    }

    /// What is to be measured, besides what the table has already.
    fn parts(&self, table: &Table) -> Vec<Part> {
        if !self.part.is_empty() {
            return self.part.clone();
        }
        let wanted = if self.write_docs { &Part::ALL[..] } else { &[Part::Alone] };
        wanted.iter().copied().filter(|part| table.of(*part).next().is_none()).collect()
    }

    /// The hypervisors to measure, ours first.
    fn sides(&self) -> Result<Vec<Side>> {
        let mut sides = vec![Side::ours(self.hv.as_deref())];
        if self.against_xen {
            let image = self.xen.clone().map_or_else(xen::image, Ok)?;
            sides.push(Side { name: "Xen", image });
        }
        Ok(sides)
    }

    fn measure(&self, part: Part, table: &mut Table) -> Result<()> {
        for (number, side) in self.sides()?.iter().enumerate() {
            // A wall clock says nothing about what is the load of a whole system on a shared host.
            let wall = self.wall && part == Part::Alone;
            for clock in [Some(Clock::Instructions), wall.then_some(Clock::Wall)].into_iter().flatten() {
                say(&format!("measuring {} on {} ({})", part.title(), side.name, clock.words()));
                let only = self.only.as_deref().unwrap_or("");
                for figure in part.measure(side, clock, only)? {
                    if !figure.name.contains(only) {
                        continue;
                    }
                    if part.has_both_clocks() && figure.nanoseconds > 0 {
                        table.put(part, number, Clock::Wall, figure.clone());
                    }
                    table.put(part, number, clock, figure);
                }
            }
        }
        Ok(())
    }

    fn show(&self, table: &mut Table) -> Result<()> {
        table.sort();
        if let Some(file) = &self.compare {
            table.compare(&text(file)?).map_err(|why| wrong(file, &why))?;
        }
        match self.format {
            Format::Text => print!("{}", table.text()),
            Format::Json => println!("{}", table.json()),
        }
        if let Some(file) = &self.save {
            paths::write(file, table.json().to_string())?;
        }
        if let Some(file) = &self.svg {
            paths::write(file, chart::bars(table))?;
        }
        if self.write_docs {
            docs::write(table)?;
        }
        Ok(())
    }
}

fn text(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| Failure::at(file, &error))
}

fn wrong(file: &Path, why: &str) -> Failure {
    Failure::new(format!("{}: {why}", file.display()))
}
