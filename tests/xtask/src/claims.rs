//! Guests that try many claims in one boot: a case for each claim, and one for the machine's end.
//!
//! What a guest claims is read from the table in its source (`claims! { … }`), so a claim that a guest does not come to
//! is missed. One machine serves all cases of a guest in a run.

use crate::failure::Result;
use crate::paths;
use crate::suite::{Case, Context, Needs, Outcome};
use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

/// What precedes a claim's outcome on a console.
const MARK: &str = "CLAIM ";

/// A row of a guest's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Its name.
    pub(crate) name: String,
    /// The advisories that it is about.
    pub(crate) advisories: Vec<u16>,
}

/// What a boot gave: the guest's console, and what the machine's end says.
#[derive(Debug, Clone)]
pub(crate) struct Booted {
    /// Where the claims' outcomes are.
    pub(crate) log: String,
    /// Of the whole.
    pub(crate) outcome: Outcome,
}

/// Boots a guest.
pub(crate) type Boot = fn(&str, &Context) -> Result<Booted>;

/// The table of a test guest; empty for one without.
pub(crate) fn of_guest(guest: &str) -> Vec<Claim> {
    let bins = paths::root().join("tests/guests/src/bin");
    let file = [bins.join(format!("{guest}.rs")), bins.join(guest).join("main.rs")];
    let text = file.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    parse(&text)
}

fn parse(text: &str) -> Vec<Claim> {
    let Some((_, table)) = text.split_once("claims! {") else { return Vec::new() };
    let (table, _) = table.split_once("\n}").unwrap_or((table, ""));
    table.lines().filter_map(row).collect()
}

/// `    name [1, 2],`
fn row(line: &str) -> Option<Claim> {
    let (name, numbers) = line.trim().strip_suffix("],")?.split_once('[')?;
    let advisories = numbers
        .split(',')
        .map(str::trim)
        .filter(|n| !n.is_empty())
        .map(str::parse)
        .collect::<std::result::Result<_, _>>();
    Some(Claim { name: name.trim().to_owned(), advisories: advisories.ok()? })
}

/// The cases of a guest that has a table: `stage-claim`, and `stage` for the whole.
pub(crate) fn cases(stage: &str, guest: &str, claims: Vec<Claim>, boot: Boot) -> Vec<Case> {
    let booted: Rc<RefCell<Option<Booted>>> = Rc::default();
    let at_most_once = move |guest: &str, context: &Context| -> Result<Booted> {
        if let Some(done) = booted.borrow().as_ref() {
            return Ok(done.clone());
        }
        let done = boot(guest, context)?;
        *booted.borrow_mut() = Some(done.clone());
        Ok(done)
    };
    let at_most_once = Rc::new(at_most_once);
    let mut cases = Vec::new();
    for claim in claims {
        let (at_most_once, guest) = (at_most_once.clone(), guest.to_owned());
        cases.push(Case::new(format!("{stage}-{}", claim.name), Needs::Images, move |context| {
            Ok(outcome(&claim.name, &at_most_once(&guest, context)?))
        }));
    }
    let guest = guest.to_owned();
    cases.push(Case::new(stage, Needs::Images, move |context| Ok(at_most_once(&guest, context)?.outcome)));
    cases
}

/// What the console says of a claim. The console itself comes with the case for the whole.
fn outcome(claim: &str, booted: &Booted) -> Outcome {
    let said = booted.log.lines().rev().find_map(|line| {
        let (word, rest) = line.split_once(MARK)?.1.split_once(' ')?;
        let (name, text) = rest.split_once(": ").unwrap_or((rest, ""));
        (name.trim() == claim && word != "tried").then(|| (word.to_owned(), text.trim().to_owned()))
    });
    match said {
        Some((word, _)) if word == "held" => Outcome::Passed(String::new()),
        Some((word, text)) if word == "skipped" => Outcome::Skipped(text),
        Some((word, text)) => Outcome::failed(format!("{word}: {text}")),
        None => Outcome::failed("CRASH: the guest did not come to its end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "x\ntest_guests::claims! {\n    guest:\n    first [148, 182],\n    second [],\n}\nfn first() {}";

    #[test]
    fn the_table_is_read_from_the_source() {
        let claims = parse(TEXT);
        assert_eq!(claims.len(), 2);
        assert_eq!(claims[0], Claim { name: "first".into(), advisories: vec![148, 182] });
        assert!(claims[1].advisories.is_empty());
    }

    #[test]
    fn a_claim_that_was_not_reached_has_failed() {
        let log = "CLAIM tried a [1]\nCLAIM held a\nCLAIM tried b []\n(d1) CLAIM failed c: no: really\n";
        let booted = Booted { log: log.into(), outcome: Outcome::Passed(String::new()) };
        assert!(matches!(outcome("a", &booted), Outcome::Passed(_)));
        assert!(matches!(outcome("b", &booted), Outcome::Failed { .. }));
        let Outcome::Failed { why, .. } = outcome("c", &booted) else { panic!() };
        assert_eq!(why, "failed: no: really");
    }
}
