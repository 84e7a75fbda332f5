//! `cargo xtask check`: rules that no compiler knows.
//!
//! Each row of the hypercall table has a handler, a page of the ABI documentation and a test; no file grows past its
//! limit; nothing is left half done; what is unsafe stays in the files that may be.

use crate::advisories;
use crate::failure::Result;
use crate::paths;
use crate::unsafety;
use std::fs;
use std::path::{Path, PathBuf};

/// The number of lines at which a source file is too long.
const FILE_LIMIT: usize = 800;
/// The number of lines that files aim at.
const FILE_AIM: usize = 400;
/// The number of lines at which a function is too long.
const FUNCTION_LIMIT: usize = 80;

/// The directories with sources.
const SOURCES: [&str; 5] = ["pv-abi", "xen-like-hv", "pv-guest-kernel", "dom0-tools", "tests"];

/// A source file with its path below the root.
struct Source {
    name: String,
    text: String,
}

/// Runs every rule, prints what is broken and what is near its limit; the exit status.
pub(crate) fn run(write: bool) -> Result<u8> {
    let sources = sources();
    if write && let Some(page) = unsafe_page(&sources) {
        paths::write(&paths::root().join(unsafety::PAGE), page)?;
        advisories::write()?;
    }
    report_sizes(&sources);
    let faults = faults();
    for fault in &faults {
        println!("{fault}");
    }
    println!("{} source files, {} rules broken", sources.len(), faults.len());
    Ok(u8::from(!faults.is_empty()))
}

/// Every broken rule, a line each.
pub(crate) fn faults() -> Vec<String> {
    let sources = sources();
    let mut faults: Vec<String> = sources.iter().flat_map(file_faults).collect();
    faults.extend(hypercall_faults(&sources));
    if unsafe_page(&sources) != fs::read_to_string(paths::root().join(unsafety::PAGE)).ok() {
        faults.push(format!(
            "{}: the counts of unsafe are not those of the sources (`check --write`)",
            unsafety::PAGE
        ));
    }
    faults.extend(advisories::faults());
    faults
}

/// The page about verification with the counts as they are.
fn unsafe_page(sources: &[Source]) -> Option<String> {
    let table = unsafety::table(sources.iter().map(|s| (s.name.as_str(), s.text.as_str())));
    unsafety::put(&fs::read_to_string(paths::root().join(unsafety::PAGE)).ok()?, &table)
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for dir in SOURCES {
        collect(&paths::root().join(dir), &mut files);
    }
    let root = paths::root();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&root).unwrap_or(path).display().to_string();
        fs::read_to_string(path).ok().map(|text| Source { name, text })
    };
    files.iter().filter_map(read).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for path in paths::list(dir, |_| true) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
}

fn report_sizes(sources: &[Source]) {
    let mut sizes: Vec<(usize, &str)> =
        sources.iter().map(|source| (source.text.lines().count(), source.name.as_str())).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    println!("files over {FILE_AIM} lines:");
    for (lines, name) in sizes.iter().filter(|(lines, _)| *lines > FILE_AIM) {
        println!("  {lines:5} {name}");
    }
}

/// What one file does wrong.
fn file_faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE_LIMIT {
        faults.push(format!("{}: {lines} lines, the limit is {FILE_LIMIT}", source.name));
    }
    for (name, length) in functions(&source.text) {
        if length > FUNCTION_LIMIT && !source.name.contains("tests") {
            faults.push(format!(
                "{}: fn {name} has {length} lines, the limit is {FUNCTION_LIMIT}",
                source.name
            ));
        }
    }
    // Spelled apart so that this file does not accuse itself.
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("unimpl", "emented!(")];
    for (number, line) in source.text.lines().enumerate() {
        if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
            faults.push(format!("{}:{}: {mark}", source.name, number + 1));
        }
    }
    faults
}

/// The functions of a formatted file with their lengths: from `fn` to the closing brace at the same indentation.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = function_name(code) else { continue };
        let indent = line.get(..line.len() - code.len()).unwrap_or_default();
        let close = format!("{indent}}}");
        let rest = lines.get(start + 1..).unwrap_or_default();
        if !line.ends_with(['}', ';'])
            && let Some(length) = rest.iter().position(|later| *later == close)
        {
            found.push((name.to_owned(), length + 2));
        }
    }
    found
}

fn function_name(code: &str) -> Option<&str> {
    let mut rest = code;
    for word in ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe ", "extern \"C\" "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// The rows of the hypercall table that lack a handler, a page or a test.
fn hypercall_faults(sources: &[Source]) -> Vec<String> {
    let Some(table) = sources.iter().find(|source| source.name == "pv-abi/src/hypercall.rs") else {
        return vec!["pv-abi/src/hypercall.rs: there is no hypercall table".into()];
    };
    let pages: String = paths::list(&paths::root().join("docs/abi"), |_| true)
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    let mentions = |dir: &str, words: &[String]| {
        sources
            .iter()
            .any(|source| source.name.starts_with(dir) && words.iter().any(|word| source.text.contains(word)))
    };
    let rows = rows(&table.text);
    if rows.is_empty() {
        return vec!["pv-abi/src/hypercall.rs: no row of the hypercall table can be read".into()];
    }
    let mut faults = Vec::new();
    for (rust, abi) in rows {
        let variant = [format!("Hypercall::{rust}"), format!("H::{rust}")];
        if !mentions("xen-like-hv/", &variant) {
            faults.push(format!("hypercall {abi}: no handler names Hypercall::{rust}"));
        }
        if !pages.contains(&format!("`{abi}`")) {
            faults.push(format!("hypercall {abi}: no page of docs/abi has `{abi}`"));
        }
        if !is_tested(sources, &variant, &abi) {
            faults.push(format!("hypercall {abi}: no test names it"));
        }
    }
    faults
}

/// Whether a test guest or a test of the core names the call.
fn is_tested(sources: &[Source], variant: &[String], abi: &str) -> bool {
    let is_test = |name: &str| name.starts_with("tests/guests/") || name.contains("/tests");
    sources.iter().filter(|source| is_test(&source.name) || source.text.contains("#[cfg(test)]")).any(
        |source| {
            let text = match source.text.split_once("#[cfg(test)]") {
                Some((_, tests)) if !is_test(&source.name) => tests,
                _ => &source.text,
            };
            text.contains(abi) || variant.iter().any(|word| text.contains(word))
        },
    )
}

/// The table's rows as (Rust name, ABI name): `number, RustName, abi_name, …;` on a line each.
fn rows(text: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let mut words = line.trim().strip_suffix(';')?.split(", ");
        words.next()?.parse::<u32>().ok()?;
        let (rust, abi) = (words.next()?, words.next()?);
        let named = abi.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        (named && rust.starts_with(|c: char| c.is_ascii_uppercase()))
            .then(|| (rust.to_owned(), abi.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_functions_are_found() {
        let body = "        x();\n".repeat(90);
        let text =
            format!("impl A {{\n    pub(crate) fn long(&self) {{\n{body}    }}\n    fn short() {{}}\n}}\n");
        assert_eq!(functions(&text), vec![("long".to_owned(), 92)]);
    }

    #[test]
    fn rows_are_read_from_the_table() {
        let text = "    0, SetTrapTable, set_trap_table, 1, Any, Restartable;\n// 1, No, no, 1;\n";
        assert_eq!(rows(text), vec![("SetTrapTable".to_owned(), "set_trap_table".to_owned())]);
    }
}
