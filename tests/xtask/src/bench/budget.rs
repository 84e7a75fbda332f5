//! The `budget` stage: what each operation may cost in instructions, guest side included.
//!
//! A figure is a property of the code and the same on every host, so `tests/budget.json` can say what it may be, with a
//! margin for another compiler. Whoever makes a path longer raises its budget in the same commit and says why.

use super::figures::{Clock, Figure, Side};
use super::parts;
use crate::failure::{Failure, Result};
use crate::paths;
use crate::suite::{Case, Context, Needs, Outcome};
use serde_json::{Map, Value};
use std::fs;
use std::sync::OnceLock;

/// What the figures may be.
pub(crate) struct Budget {
    margin_percent: u64,
    longest_stretch: u64,
    instructions: Map<String, Value>,
}

impl Budget {
    /// The budget of this tree.
    pub(crate) fn read() -> Result<Self> {
        let path = paths::root().join("tests/budget.json");
        let text = fs::read_to_string(&path).map_err(|error| Failure::at(&path, &error))?;
        let wrong = |what: &str| Failure::new(format!("{}: {what}", path.display()));
        let value: Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
        let margin_percent = value["margin_percent"].as_u64().ok_or_else(|| wrong("no margin_percent"))?;
        let instructions = value["instructions"].as_object().ok_or_else(|| wrong("no instructions"))?.clone();
        let longest_stretch = value["longest_stretch"].as_u64().ok_or_else(|| wrong("no longest_stretch"))?;
        Ok(Self { margin_percent, longest_stretch, instructions })
    }

    /// How many instructions the hypervisor may go without letting others have their turn.
    pub(crate) const fn longest_stretch(&self) -> u64 {
        self.longest_stretch
    }

    /// What a row may cost.
    pub(crate) fn of(&self, name: &str) -> Option<u64> {
        self.instructions.get(name)?.as_u64()
    }
}

/// One case for each line of the budget.
pub(crate) fn cases() -> Vec<Case> {
    let names: Vec<String> = match Budget::read() {
        Ok(budget) => budget.instructions.keys().cloned().collect(),
        // A case that fails with the same reason: without it no row would be checked, and nobody be told.
        Err(_) => {
            return vec![Case::new("budget-can_be_read", Needs::Sources, |_| {
                Budget::read().map(|_| Outcome::Passed(String::new()))
            })];
        }
    };
    names
        .into_iter()
        .map(|name| Case::new(format!("budget-{name}"), Needs::Images, move |context| check(&name, context)))
        .collect()
}

fn check(name: &str, context: &Context) -> Result<Outcome> {
    // One machine measures for all cases of a run.
    static MEASURED: OnceLock<std::result::Result<Vec<Figure>, String>> = OnceLock::new();
    if context.other.is_some() {
        return Ok(Outcome::Skipped("the budget is for our hypervisor".into()));
    }
    let measured = MEASURED.get_or_init(|| {
        parts::alone(&Side::ours(None), Clock::Instructions, "").map_err(|failure| failure.to_string())
    });
    let figures = match measured {
        Ok(figures) => figures,
        Err(output) => {
            return Ok(Outcome::Failed { why: "the measurement failed".into(), output: output.clone() });
        }
    };
    let budget = Budget::read()?;
    let Some(allowed) = budget.of(name) else { return Ok(Outcome::failed("the budget has gone")) };
    let Some(cost) = figures.iter().find(|figure| figure.name == name).map(|figure| figure.instructions)
    else {
        return Ok(Outcome::failed("the guest did not measure this"));
    };
    let most = allowed + allowed * budget.margin_percent / 100;
    if cost <= most {
        return Ok(Outcome::Passed(format!("({cost} instructions, budget {allowed})")));
    }
    Ok(Outcome::failed(format!(
        "{cost} instructions, budget {allowed} and {}%; `cargo xtask bench --breakdown {name}` tells where they go",
        budget.margin_percent
    )))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_budget_can_be_read() {
        assert!(super::Budget::read().is_ok_and(|budget| budget.of("null_hypercall").is_some()));
    }

    #[test]
    fn every_line_of_the_budget_is_a_row() {
        let unknown = |name: &&String| super::super::rows::known(name).is_none();
        assert_eq!(
            super::Budget::read().map(|budget| budget.instructions.keys().find(unknown).cloned()).ok(),
            Some(None)
        );
    }
}
