//! The figures of all sides, row by row, as text and as JSON.

use super::figures::{Clock, Figure};
use super::parts::Part;
use super::rows;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// A row with what each side needs for it.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Its name.
    pub(crate) name: String,
    /// Where it belongs.
    pub(crate) part: Part,
    /// Operations in a batch.
    pub(crate) operations: u64,
    /// Instructions: ours, Xen's.
    pub(crate) instructions: [Option<u64>; 2],
    /// Nanoseconds by the wall's clock: ours, Xen's.
    pub(crate) wall: [Option<u64>; 2],
    /// Our instructions in an earlier run.
    pub(crate) before: Option<u64>,
}

/// Ours to Xen's.
#[expect(clippy::cast_precision_loss, reason = "a ratio of two figures that a double holds")]
fn ratio(pair: [Option<u64>; 2]) -> Option<f64> {
    match pair {
        [Some(ours), Some(xen)] if xen > 0 => Some(ours as f64 / xen as f64),
        _ => None,
    }
}

impl Line {
    /// Ours to Xen's, in instructions.
    pub(crate) fn ratio(&self) -> Option<f64> {
        ratio(self.instructions)
    }

    /// Ours to Xen's, by the wall's clock.
    pub(crate) fn wall_ratio(&self) -> Option<f64> {
        ratio(self.wall)
    }

    /// The change since the earlier run.
    fn change(&self) -> Option<f64> {
        ratio([self.instructions[0], self.before])
    }

    /// Whether its aims are met: that for the ratio, and its own. Nothing if there is nothing to judge.
    pub(crate) fn hit(&self) -> Option<bool> {
        let own = rows::known(&self.name).map_or(0, |row| row.aim);
        let cheap = self.instructions[0].filter(|_| own > 0).map(|cost| cost <= own);
        let ratio = self.ratio().zip(rows::most_ratio(&self.name)).map(|(ratio, most)| ratio <= most);
        match (cheap, ratio) {
            (None, None) => None,
            (cheap, ratio) => Some(cheap.unwrap_or(true) && ratio.unwrap_or(true)),
        }
    }
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// In the order of the parts and of [`rows::KNOWN`], once sorted.
    pub(crate) lines: Vec<Line>,
}

impl Table {
    /// Adds a figure of a side: 0 is ours, 1 is Xen's.
    pub(crate) fn put(&mut self, part: Part, side: usize, clock: Clock, figure: Figure) {
        let at = self.lines.iter().position(|line| line.name == figure.name).unwrap_or_else(|| {
            self.lines.push(Line {
                name: figure.name,
                part,
                operations: figure.operations,
                instructions: [None; 2],
                wall: [None; 2],
                before: None,
            });
            self.lines.len() - 1
        });
        let Some(line) = self.lines.get_mut(at) else { return };
        let (slots, value) = match clock {
            Clock::Instructions => (&mut line.instructions, figure.instructions),
            Clock::Wall => (&mut line.wall, figure.nanoseconds),
        };
        if let Some(slot) = slots.get_mut(side) {
            *slot = Some(value);
        }
    }

    /// Puts the rows into their order.
    pub(crate) fn sort(&mut self) {
        self.lines.sort_by_key(|line| (line.part, rows::place(&line.name)));
    }

    /// Notes what our figures were in an earlier run, which is in JSON.
    pub(crate) fn compare(&mut self, earlier: &str) -> Result<(), String> {
        let rows = saved(earlier)?;
        for line in &mut self.lines {
            line.before = rows.get(&line.name).and_then(|row| row["instructions"].as_u64());
        }
        Ok(())
    }

    /// Takes the rows of an earlier run that are not there.
    pub(crate) fn merge(&mut self, earlier: &str) -> Result<(), String> {
        for (name, row) in saved(earlier)? {
            if self.lines.iter().any(|line| line.name == name) {
                continue;
            }
            let title = row["part"].as_str().unwrap_or_default();
            let part = Part::ALL.into_iter().find(|part| part.title() == title);
            let number = |key: &str| row[key].as_u64();
            self.lines.push(Line {
                name,
                part: part.ok_or_else(|| format!("there is no part '{title}'"))?,
                operations: number("operations").unwrap_or(0),
                instructions: [number("instructions"), number("xen_instructions")],
                wall: [number("nanoseconds"), number("xen_nanoseconds")],
                before: None,
            });
        }
        Ok(())
    }

    /// The rows of a part.
    pub(crate) fn of(&self, part: Part) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.part == part)
    }

    /// The geometric mean of the ratios of some parts, and of how many rows.
    #[expect(clippy::cast_precision_loss, reason = "a number of rows")]
    pub(crate) fn mean(&self, parts: &[Part]) -> Option<(f64, usize)> {
        let lines = self.lines.iter().filter(|line| parts.contains(&line.part) && rows::counts(&line.name));
        let logs: Vec<f64> = lines.filter_map(Line::ratio).map(f64::ln).collect();
        (!logs.is_empty()).then(|| ((logs.iter().sum::<f64>() / logs.len() as f64).exp(), logs.len()))
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let columns = Columns::of(self);
        let width = self.lines.iter().map(|line| line.name.len()).max().unwrap_or(0).max(9);
        let mut out = columns.head(width);
        for line in &self.lines {
            out.push_str(&columns.row(line, width));
        }
        for (words, parts) in [("operations", &Part::OPERATIONS[..]), ("Linux", &[Part::Linux][..])] {
            if let Some((mean, count)) = self.mean(parts) {
                let _ = writeln!(out, "geometric mean of {count} ratios, {words}: {mean:.3}");
            }
        }
        out
    }

    /// For programs, and for `--compare`.
    pub(crate) fn json(&self) -> Value {
        let row = |line: &Line| {
            let value = json!({
                "part": line.part.title(),
                "operations": line.operations,
                "instructions": line.instructions[0],
                "xen_instructions": line.instructions[1],
                "ratio": line.ratio(),
                "nanoseconds": line.wall[0],
                "xen_nanoseconds": line.wall[1],
                "aims_met": line.hit(),
            });
            (line.name.clone(), value)
        };
        let rows: Map<String, Value> = self.lines.iter().map(row).collect();
        let mean = |parts: &[Part]| self.mean(parts).map(|(mean, _)| mean);
        json!({
            "rows": rows,
            "geometric_mean": mean(&Part::OPERATIONS),
            "geometric_mean_linux": mean(&[Part::Linux]),
        })
    }
}

/// The rows that `--save` wrote.
fn saved(text: &str) -> Result<Map<String, Value>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    value["rows"].as_object().cloned().ok_or_else(|| "no rows: was it made by --save?".into())
}

/// Which columns a table has.
struct Columns {
    xen: bool,
    wall: bool,
    before: bool,
}

impl Columns {
    fn of(table: &Table) -> Self {
        let any = |has: fn(&Line) -> bool| table.lines.iter().any(has);
        Self {
            xen: any(|line| line.instructions[1].is_some()),
            wall: any(|line| line.wall[0].is_some()),
            before: any(|line| line.before.is_some()),
        }
    }

    fn cells(&self, first: [String; 6], change: [String; 2]) -> String {
        let [ours, xen, ratio, wall, xen_wall, wall_ratio] = first;
        let mut out = format!(" {ours:>13}");
        if self.xen {
            let _ = write!(out, " {xen:>13} {ratio:>6}");
        }
        if self.wall {
            let _ = write!(out, " {wall:>10}");
        }
        if self.wall && self.xen {
            let _ = write!(out, " {xen_wall:>10} {wall_ratio:>6}");
        }
        if self.before {
            let [before, change] = change;
            let _ = write!(out, " {before:>13} {change:>7}");
        }
        out
    }

    fn head(&self, width: usize) -> String {
        let first = ["instructions", "Xen", "ratio", "ns", "Xen ns", "ratio"].map(str::to_owned);
        let cells = self.cells(first, ["before", "change"].map(str::to_owned));
        format!("{:<width$} {:>6}{cells} {:>8} aims\n", "operation", "each", "aim")
    }

    fn row(&self, line: &Line, width: usize) -> String {
        let number = |value: Option<u64>| value.map_or_else(|| "-".into(), |value| value.to_string());
        let ratio = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
        let first = [
            number(line.instructions[0]),
            number(line.instructions[1]),
            ratio(line.ratio()),
            number(line.wall[0]),
            number(line.wall[1]),
            ratio(line.wall_ratio()),
        ];
        let change = line.change().map_or_else(|| "-".into(), |by| format!("{:+.1}%", (by - 1.0) * 100.0));
        let cells = self.cells(first, [number(line.before), change]);
        let aim = rows::known(&line.name).filter(|row| row.aim > 0).map(|row| row.aim);
        let verdict = line.hit().map_or("-", |hit| if hit { "hit" } else { "MISS" });
        format!("{:<width$} {:>6}{cells} {:>8} {verdict}\n", line.name, line.operations, number(aim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::default();
        let figure = |name: &str, instructions| Figure {
            name: name.into(),
            operations: 1,
            instructions,
            nanoseconds: 0,
        };
        for (name, ours, xen) in [("rdmsr", 100, 400), ("clock_read", 50, 50), ("null_hypercall", 90, 90)] {
            table.put(Part::Alone, 0, Clock::Instructions, figure(name, ours));
            table.put(Part::Alone, 1, Clock::Instructions, figure(name, xen));
        }
        table.sort();
        table
    }

    #[test]
    fn the_mean_is_geometric_and_leaves_out_what_says_nothing() {
        let (mean, count) = table().mean(&Part::OPERATIONS).unwrap();
        assert_eq!(count, 2);
        assert!((mean - 0.5).abs() < 1e-9, "{mean}");
    }

    #[test]
    fn rows_are_judged_by_their_aims() {
        let hits: Vec<_> = table().lines.iter().map(|line| (line.name.clone(), line.hit())).collect();
        let expected = [("null_hypercall", Some(false)), ("clock_read", None), ("rdmsr", Some(true))];
        assert_eq!(hits, expected.map(|(name, hit)| (name.to_owned(), hit)));
    }

    #[test]
    fn what_was_saved_can_be_compared_with() {
        let mut now = table();
        now.compare(&table().json().to_string()).unwrap();
        assert!(now.lines.iter().all(|line| line.before == line.instructions[0]));
        assert!(now.text().contains("+0.0%"));
        assert!(now.compare("[]").is_err());
        let mut merged = Table::default();
        merged.merge(&table().json().to_string()).unwrap();
        merged.sort();
        assert_eq!(merged.text(), table().text());
    }
}
