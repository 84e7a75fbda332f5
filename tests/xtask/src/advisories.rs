//! `docs/advisories.md`: which published advisory is tried by which test, made from the tests.
//!
//! `tests/advisories.txt` lists the advisories with what each was about and, where it cannot apply, why. A test that
//! tries one bears its number: a host test in its name (`xsa_148_and_182_…`), a claim of a guest in the guest's table. A
//! row without either, with both, or with a test that does not exist breaks a rule, and so does a page that differs.

use crate::claims;
use crate::failure::{Failure, Result};
use crate::images;
use crate::paths;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

const TABLE: &str = "tests/advisories.txt";
const PAGE: &str = "docs/advisories.md";
/// The directories whose host tests are looked at.
const SOURCES: [&str; 6] =
    ["pv-abi", "pv-image", "xen-like-hv", "pv-guest-kernel", "dom0-tools", "tests/guests/src/bin"];

/// What the table says of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// There must be tests; some are named here.
    Tried(Vec<String>),
    /// It cannot apply, and why.
    NotApplicable(String),
    /// It does apply and nothing is done about it, and why.
    Missing(String),
}

#[derive(Debug, Clone)]
struct Row {
    number: u16,
    class: String,
    subject: String,
    verdict: Verdict,
}

/// Titles of the classes.
const CLASSES: [(&str, &str); 14] = [
    ("D1", "Page types, references, validation, preemption"),
    ("D2", "Translations and caches"),
    ("D3", "Entries, exits, traps, segments, debug registers"),
    ("D4", "Emulated instructions, registers, extended state"),
    ("D5", "Memory operations and limits"),
    ("D6", "Event channels, timers, vcpus, batches"),
    ("D7", "Grant tables"),
    ("D8", "Interrupt lines and devices"),
    ("D9", "Information, resources and messages that leak"),
    ("D10", "Control calls and locks"),
    ("D11", "Speculation and hardware"),
    ("D12", "Builders and toolstacks"),
    ("D13", "Xenstore"),
    ("D14", "Drivers of both ends"),
];

/// Writes the page.
pub(crate) fn write() -> Result<()> {
    let (page, faults) = page()?;
    if let Some(fault) = faults.first() {
        return Err(Failure::new(format!("{fault} ({} faults)", faults.len())));
    }
    paths::write(&paths::root().join(PAGE), page)
}

/// What is wrong with the table, the tests or the page, a line each.
pub(crate) fn faults() -> Vec<String> {
    let (page, mut faults) = match page() {
        Ok(made) => made,
        Err(failure) => return vec![failure.to_string()],
    };
    if fs::read_to_string(paths::root().join(PAGE)).unwrap_or_default() != page {
        faults.push(format!("{PAGE}: not what the tests say; `cargo xtask check --write` makes it"));
    }
    faults
}

fn page() -> Result<(String, Vec<String>)> {
    let path = paths::root().join(TABLE);
    let text = fs::read_to_string(&path).map_err(|error| Failure::at(&path, &error))?;
    let rows = rows(&text)?;
    let mut tests = tests_by_number();
    let mut faults = Vec::new();
    let cases: BTreeSet<String> = crate::suite::names().into_iter().collect();
    for row in &rows {
        let Verdict::Tried(further) = &row.verdict else { continue };
        for name in further {
            match test_named(name, &cases) {
                Some(test) => tests.entry(row.number).or_default().push(test),
                None => faults.push(format!("{TABLE}: XSA-{}: there is no {name}", row.number)),
            }
        }
    }
    for row in &rows {
        // A test of something that is ruled out altogether is welcome: it says that it is.
        if matches!(row.verdict, Verdict::Tried(_)) && !tests.contains_key(&row.number) {
            faults.push(format!("{TABLE}: XSA-{}: no test bears it", row.number));
        }
    }
    for number in tests.keys().filter(|number| !rows.iter().any(|row| row.number == **number)) {
        faults.push(format!("{TABLE}: XSA-{number} is borne by a test and not listed"));
    }
    Ok((render(&rows, &tests), faults))
}

/// The host test `test FILE:NAME` or the case `case NAME`, as the page shows it, if there is one.
fn test_named(name: &str, cases: &BTreeSet<String>) -> Option<String> {
    if let Some(case) = name.strip_prefix("case ") {
        return cases.contains(case).then(|| format!("`{case}`"));
    }
    let (file, function) = name.strip_prefix("test ")?.split_once(':')?;
    let text = fs::read_to_string(paths::root().join(file)).ok()?;
    text.contains(&format!("fn {function}(")).then(|| format!("`{function}`"))
}

fn rows(text: &str) -> Result<Vec<Row>> {
    let mut reasons = BTreeMap::new();
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        if let Some((key, reason)) = line.strip_prefix("= ").and_then(|rest| rest.split_once(": ")) {
            reasons.insert(key.to_owned(), reason.to_owned());
            continue;
        }
        let row =
            row(line, &reasons).ok_or_else(|| Failure::new(format!("{TABLE}: cannot read '{line}'")))?;
        rows.push(row);
    }
    Ok(rows)
}

fn row(line: &str, reasons: &BTreeMap<String, String>) -> Option<Row> {
    let mut parts = line.split(" | ");
    let mut words = parts.next()?.splitn(3, ' ');
    let (number, class, subject) =
        (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?.to_owned());
    let parts: Vec<&str> = parts.collect();
    let reason = |key: &str| reasons.get(key).cloned();
    let verdict = match parts.as_slice() {
        [one] if one.starts_with("no ") => Verdict::NotApplicable(reason(one.strip_prefix("no ")?)?),
        [one] if one.starts_with("missing ") => Verdict::Missing(reason(one.strip_prefix("missing ")?)?),
        tests => Verdict::Tried(tests.iter().map(ToString::to_string).collect()),
    };
    Some(Row { number, class, subject, verdict })
}

/// Every test that bears numbers, as the page shows it.
fn tests_by_number() -> BTreeMap<u16, Vec<String>> {
    let mut found: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for guest in images::test_guests() {
        for claim in claims::of_guest(&guest) {
            for number in claim.advisories {
                found.entry(number).or_default().push(format!("`{guest}`: `{}`", claim.name));
            }
        }
    }
    for dir in SOURCES {
        host_tests(&paths::root().join(dir), &mut found);
    }
    found
}

fn host_tests(dir: &Path, found: &mut BTreeMap<u16, Vec<String>>) {
    for path in paths::list(dir, |_| true) {
        if path.is_dir() && paths::file_name(&path) != "target" {
            host_tests(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            for line in text.lines() {
                let Some(name) =
                    line.trim_start().strip_prefix("fn ").and_then(|rest| rest.split('(').next())
                else {
                    continue;
                };
                for number in numbers(name) {
                    found.entry(number).or_default().push(format!("`{name}`"));
                }
            }
        }
    }
}

/// The advisories in a test's name: `xsa_1_and_2_what_is_tried_and_xsa_3_too` has three.
fn numbers(name: &str) -> Vec<u16> {
    let mut found = Vec::new();
    let mut words = name.split('_').peekable();
    while let Some(word) = words.next() {
        if word != "xsa" {
            continue;
        }
        while let Some(number) = words.peek().and_then(|next| next.parse().ok()) {
            found.push(number);
            words.next();
            words.next_if_eq(&"and");
        }
    }
    found
}

fn render(rows: &[Row], tests: &BTreeMap<u16, Vec<String>>) -> String {
    let tried = |row: &&Row| tests.contains_key(&row.number);
    let held = rows.iter().filter(tried).count();
    let is = |row: &Row, what: fn(&Verdict) -> bool| !tests.contains_key(&row.number) && what(&row.verdict);
    let not_applicable =
        rows.iter().filter(|row| is(row, |v| matches!(v, Verdict::NotApplicable(_)))).count();
    let missing = rows.iter().filter(|row| is(row, |v| matches!(v, Verdict::Missing(_)))).count();
    let mut page = String::from(
        "# Advisories\n\nEvery published advisory about Xen's PV guests and what serves them, and the test that tries here what \
         broke there.\n\nThis page is made by `cargo xtask check --write` from the tests and from `tests/advisories.txt`; \
         `cargo xtask check` fails\nwhere it differs. \"Tried\" means that the tests named pass in `cargo xtask test`.\n\n",
    );
    let _ = write!(
        page,
        "| tried by tests | not applicable | missing |\n|---|---|---|\n| {held} | {not_applicable} | {missing} |\n"
    );
    for (class, title) in CLASSES {
        let _ = write!(page, "\n## {class} {title}\n\n| XSA | what broke | here |\n|---|---|---|\n");
        for row in rows.iter().filter(|row| row.class == class) {
            let here = match (tests.get(&row.number), &row.verdict) {
                (Some(names), _) => format!("tried: {}", names.join(", ")),
                (None, Verdict::NotApplicable(why)) => format!("not applicable: {why}"),
                (None, Verdict::Missing(why)) => format!("**missing**: {why}"),
                (None, Verdict::Tried(_)) => "**no test**".to_owned(),
            };
            let _ = writeln!(page, "| {} | {} | {here} |", row.number, row.subject);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_names() {
        assert_eq!(numbers("xsa_148_large_pages"), [148]);
        assert_eq!(numbers("xsa_31_large_orders_and_xsa_231_other_nodes"), [31, 231]);
        assert_eq!(numbers("xsa_330_and_512_watches"), [330, 512]);
        assert!(numbers("a_year_2024_without").is_empty());
    }

    #[test]
    fn rows_have_a_verdict() {
        let text = "= pv32: No 32-bit guests.\n1 D1 a thing\n2 D2 other | no pv32\n3 D3 third | test a.rs:b | case c\n";
        let rows = rows(text).unwrap();
        assert_eq!(rows[0].verdict, Verdict::Tried(vec![]));
        assert_eq!(rows[1].verdict, Verdict::NotApplicable("No 32-bit guests.".into()));
        assert_eq!(rows[2].verdict, Verdict::Tried(vec!["test a.rs:b".into(), "case c".into()]));
        assert!(super::rows("4 D4 no such key | no nothing").is_err());
    }
}
