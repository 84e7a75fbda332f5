//! Charts as SVG files: plain shapes and text, light enough for a repository.

use super::parts::Part;
use super::rows::{self, MEAN_RATIO, MOST_RATIO};
use super::table::{Line, Table};
use std::fmt::Write as _;

const FONT: &str = "font-family=\"sans-serif\" font-size=\"12\"";
/// Where bars begin, how long the longest is, and how high each row is.
const LEFT: f64 = 380.0;
const LENGTH: f64 = 420.0;
const STEP: f64 = 18.0;
const TOP: f64 = 46.0;
/// Ratios beyond this are cut off, and their number tells.
const MOST_SHOWN: f64 = 1.5;

const GOOD: &str = "#2a7";
const FAIR: &str = "#d93";
const BAD: &str = "#c33";

/// A bar for each row of operations and of Linux: the ratio to Xen, or the instructions where there is no Xen.
pub(crate) fn bars(table: &Table) -> String {
    let lines: Vec<&Line> = table.lines.iter().filter(|line| line.part != Part::Growth).collect();
    let with_xen = lines.iter().any(|line| line.ratio().is_some());
    if with_xen { ratios(&lines) } else { costs(&lines) }
}

fn open(width: f64, height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" {FONT}>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"15\">{title}</text>\n"
    )
}

#[expect(clippy::cast_precision_loss, reason = "a number of rows")]
fn ratios(lines: &[&Line]) -> String {
    let shown: Vec<(&str, f64)> =
        lines.iter().filter_map(|line| Some((line.name.as_str(), line.ratio()?))).collect();
    let height = TOP + STEP * shown.len() as f64 + 20.0;
    let scale = LENGTH / MOST_SHOWN;
    let mut out = open(LEFT + LENGTH + 70.0, height, "Cost to that on Xen 4.17 (shorter is better)");
    for (at, words) in [(MEAN_RATIO, "0.33"), (MOST_RATIO, "0.8"), (1.0, "Xen")] {
        let x = LEFT + at * scale;
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#888\" stroke-dasharray=\"3 3\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{words}</text>",
            height - 16.0,
            TOP - 6.0
        );
    }
    for (number, (name, ratio)) in shown.iter().enumerate() {
        let color = match *ratio {
            ratio if ratio <= MEAN_RATIO => GOOD,
            ratio if ratio <= MOST_RATIO => FAIR,
            _ => BAD,
        };
        let color = if rows::counts(name) { color } else { "#aaa" };
        out.push_str(&bar(number, name, ratio.min(MOST_SHOWN) * scale, color, &format!("{ratio:.2}")));
    }
    out + "</svg>\n"
}

#[expect(clippy::cast_precision_loss, reason = "lengths in a picture")]
fn costs(lines: &[&Line]) -> String {
    let shown: Vec<(&str, u64)> =
        lines.iter().filter_map(|line| Some((line.name.as_str(), line.instructions[0]?))).collect();
    let height = TOP + STEP * shown.len() as f64 + 20.0;
    // By the logarithm: rows reach from tens to hundreds of thousands.
    let most = shown.iter().map(|(_, cost)| *cost).max().unwrap_or(1).max(2) as f64;
    let mut out = open(LEFT + LENGTH + 90.0, height, "Instructions (logarithmic)");
    for (number, (name, cost)) in shown.iter().enumerate() {
        let length = (*cost as f64).max(1.0).ln() / most.ln() * LENGTH;
        out.push_str(&bar(number, name, length, "#47a", &cost.to_string()));
    }
    out + "</svg>\n"
}

#[expect(clippy::cast_precision_loss, reason = "a number of rows")]
fn bar(number: usize, name: &str, length: f64, color: &str, words: &str) -> String {
    let y = TOP + STEP * number as f64;
    let text = y + 12.0;
    format!(
        "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{name}</text>\
         <rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"12\" fill=\"{color}\"/>\
         <text x=\"{:.1}\" y=\"{text:.1}\">{words}</text>\n",
        LEFT - 8.0,
        y + 2.0,
        LEFT + length + 6.0
    )
}

/// A line for each operation: its cost along an axis, on a logarithmic scale both ways.
pub(crate) struct Curves<'a> {
    /// Above the chart.
    pub(crate) title: &'a str,
    /// Below the axis.
    pub(crate) axis: &'a str,
    /// Name, and points of axis and cost.
    pub(crate) curves: Vec<(String, Vec<(u64, u64)>)>,
}

const COLORS: [&str; 8] =
    ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#e377c2"];
const WIDE: f64 = 420.0;
const HIGH: f64 = 300.0;

impl Curves<'_> {
    /// The chart.
    #[expect(clippy::cast_precision_loss, reason = "places in a picture")]
    pub(crate) fn svg(&self) -> String {
        let points = || self.curves.iter().flat_map(|(_, points)| points);
        let log = |value: u64| (value.max(1) as f64).ln();
        let bounds = |values: &mut dyn Iterator<Item = u64>| {
            let (low, high) =
                values.fold((u64::MAX, 1), |(low, high), value| (low.min(value), high.max(value)));
            (log(low.min(high)), log(high).max(log(low.min(high)) + 0.1))
        };
        let (x_low, x_high) = bounds(&mut points().map(|(at, _)| *at));
        let (y_low, y_high) = bounds(&mut points().map(|(_, cost)| *cost));
        let x = |at: u64| 60.0 + (log(at) - x_low) / (x_high - x_low) * WIDE;
        let y = |cost: u64| TOP + HIGH - (log(cost) - y_low) / (y_high - y_low) * (HIGH - 10.0);
        let mut out = open(WIDE + 420.0, TOP + HIGH + 50.0, self.title);
        let _ = writeln!(
            out,
            "<path d=\"M60 {TOP} V{:.1} H{:.1}\" fill=\"none\" stroke=\"#444\"/>\
             <text x=\"60\" y=\"{:.1}\">{}</text>",
            TOP + HIGH,
            60.0 + WIDE,
            TOP + HIGH + 38.0,
            self.axis
        );
        let mut marks: Vec<u64> = points().map(|(at, _)| *at).collect();
        marks.sort_unstable();
        marks.dedup();
        for at in marks {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at}</text>",
                x(at),
                TOP + HIGH + 18.0
            );
        }
        for (number, (name, points)) in self.curves.iter().enumerate() {
            let color = COLORS.get(number % COLORS.len()).copied().unwrap_or("black");
            let path: Vec<String> =
                points.iter().map(|(at, cost)| format!("{:.1},{:.1}", x(*at), y(*cost))).collect();
            let last = points.last().map_or(0, |(_, cost)| *cost);
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{color}\">{name}: {last}</text>",
                path.join(" "),
                WIDE + 74.0,
                TOP + 14.0 * (number as f64 + 1.0)
            );
        }
        out + "</svg>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_of_curves_has_a_line_for_each() {
        let curves =
            vec![("a".to_owned(), vec![(1, 100), (1000, 100)]), ("b".to_owned(), vec![(1, 5), (1000, 50)])];
        let svg = Curves { title: "t", axis: "domains", curves }.svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn an_empty_chart_is_a_chart() {
        assert!(bars(&Table::default()).ends_with("</svg>\n"));
        assert!(!Curves { title: "t", axis: "a", curves: Vec::new() }.svg().contains("NaN"));
    }
}
