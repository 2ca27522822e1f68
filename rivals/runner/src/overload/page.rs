//! Writes the tables into docs/overload.md, and its pictures.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::cases::{CASES, Case, System};
use super::cost::Costs;
use super::plot::PLOTS;
use super::results::{Cell, Results, Spread};
use crate::Result;

/// What is between these lines of the page is written by the program.
const BEGIN: &str = "<!-- written by cargo xtask overload -->";
const END: &str = "<!-- until here -->";

/// Replaces the tables of the page, and the pictures.
pub(crate) fn write(root: &Path, results: &Results, rounds: usize) -> Result<()> {
    let docs = root.join("docs");
    for plot in &PLOTS {
        fs::write(docs.join("pictures").join(plot.file), plot.svg(results))?;
    }
    let page = docs.join("overload.md");
    let text = fs::read_to_string(&page)?;
    let parts = text
        .split_once(BEGIN)
        .and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) = parts.ok_or("docs/overload.md has lost the marks around its tables")?;
    let tables = tables(results, rounds);
    fs::write(page, format!("{head}{BEGIN}\n\n{tables}{END}{tail}"))?;
    Ok(())
}

fn tables(results: &Results, rounds: usize) -> String {
    let mut out =
        format!("Medians of {rounds} rounds; in brackets the least and the greatest.\n\n");
    for case in &CASES {
        table(&mut out, case, results);
    }
    costs(&mut out, results);
    out
}

fn costs(out: &mut String, results: &Results) {
    out.push_str("### What a refusal costs\n\nProcessor time of the server:\n\n");
    for (name, value) in Costs::TOLD {
        if let Some(spread) = Spread::of(results.costs.iter().map(value)) {
            // Writing to a text cannot fail.
            let _ = writeln!(out, "- {name}: {}", show(spread, 2));
        }
    }
    out.push('\n');
}

fn table(out: &mut String, case: &Case, results: &Results) {
    // Writing to a text cannot fail.
    let _ = writeln!(out, "### {}\n", case.name);
    for system in System::ALL {
        let first = Cell::at(case.name, system, 0.5);
        if let Some(capacity) = results.spread(first, |sample| sample.capacity) {
            let capacity = show(capacity, 0);
            let _ = writeln!(out, "- Capacity of {}: {capacity} calls/s.", system.name());
        }
    }
    out.push_str(
        "\n| offered | server | goodput, % | important: answered, % | refused, % | p99, ms \
         | to unloaded | least: of answers, % | generator late, ms |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for load in case.loads() {
        for system in System::ALL {
            let cell = Cell::at(case.name, system, load);
            let of = |what: fn(&super::Sample) -> f64, digits| {
                let spread = results.spread(cell, what);
                spread.map_or_else(|| "-".to_owned(), |spread| show(spread, digits))
            };
            let _ = writeln!(
                out,
                "| {load} | {} | {} | {} | {} | {} | {} | {} | {} |",
                system.name(),
                of(|sample| 100.0 * sample.goodput, 0),
                of(|sample| 100.0 * sample.important_answered, 1),
                of(|sample| 100.0 * sample.important_refused, 1),
                of(|sample| sample.important_p99_ms, 1),
                of(|sample| sample.important_ratio, 2),
                of(|sample| 100.0 * sample.least, 0),
                of(|sample| sample.late_ms, 1),
            );
        }
    }
    out.push_str("\nNormal again after the last of these loads: ");
    let told = System::ALL.map(|system| {
        let all = results.recoveries(case.name, system);
        let never = all.iter().filter(|after| after.is_none()).count();
        let after = Spread::of(all.iter().flatten().copied());
        let after = after.map_or_else(|| "never".to_owned(), |after| show(after, 1) + " s");
        let never = match never {
            0 => String::new(),
            never => format!(", not within 3 s in {never} rounds"),
        };
        format!("{} {after}{never}", system.name())
    });
    let _ = writeln!(out, "{}.\n", told.join("; "));
}

/// The median, and the least and the greatest.
fn show(spread: Spread, digits: usize) -> String {
    let Spread {
        median,
        least,
        greatest,
    } = spread;
    format!("{median:.digits$} ({least:.digits$}-{greatest:.digits$})")
}
