//! What Postroad wants to reach, as ratios of numbers of the same round.

use crate::results::Results;
use crate::rows::{Kind, Metric, ROWS};
use crate::table::{aligned, show};

#[derive(Clone, Copy, Debug)]
enum Asked {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Clone, Copy, Debug)]
enum Reference {
    /// The best of these rows.
    Rows(&'static [&'static str]),
    /// The best row that is not Postroad's.
    Everybody,
    /// Nobody: the number itself is asked for.
    Nothing,
}

use Asked::{AtLeast, AtMost};
use Reference::{Everybody, Nothing, Rows};

type Goal = (&'static str, &'static str, Metric, Reference, Asked);

const CT: &str = "postroad ct";
const MT: &str = "postroad mt";
/// One task with all calls of a connection.
const PIPELINE: &str = "postroad pipeline ct";
/// The preset for those who send much: what it costs stands in docs/performance.md.
const THROUGHPUT: &str = "postroad throughput";
/// The same with messages that are sent 32 together.
const BATCHES: &str = "postroad batches";
const ECHO: Reference = Rows(&["tokio echo mt"]);
const CODEC: Reference = Rows(&["LengthDelimitedCodec"]);

const GOALS: &[Goal] = &[
    ("S", CT, Metric::P50, Rows(&["raw blocking"]), AtMost(1.35)),
    ("S", "postroad unix", Metric::P50, Rows(&[CT]), AtMost(0.75)),
    ("S", CT, Metric::Rate, Rows(&["go plain"]), AtLeast(3.0)),
    (
        "A",
        "postroad low-latency",
        Metric::P50,
        Rows(&["raw spin"]),
        AtMost(1.25),
    ),
    ("T 1x64", CT, Metric::Cpu, Nothing, AtMost(350.0)),
    // The same on any machine: where 350 ns were asked for, Redis took 1,360.
    (
        "T 1x64",
        CT,
        Metric::Cpu,
        Rows(&["redis ping"]),
        AtMost(0.257),
    ),
    (
        "T 1x64",
        PIPELINE,
        Metric::Cpu,
        Rows(&["redis pipe"]),
        AtMost(0.257),
    ),
    ("T 1x64", MT, Metric::Cpu, Rows(&[CT]), AtMost(1.3)),
    (
        "T 1x64",
        "postroad pipeline mt",
        Metric::Cpu,
        Rows(&[PIPELINE]),
        AtMost(1.3),
    ),
    (
        "T 1x64",
        CT,
        Metric::Rate,
        Rows(&["go plain"]),
        AtLeast(20.0),
    ),
    (
        "T 1x1024",
        CT,
        Metric::Rate,
        Rows(&["tarpc ct"]),
        AtLeast(8.0),
    ),
    (
        "T 1x1024",
        PIPELINE,
        Metric::Rate,
        Rows(&["tarpc ct"]),
        AtLeast(8.0),
    ),
    (
        "T 1x1024",
        CT,
        Metric::Rate,
        Rows(&["tonic ct"]),
        AtLeast(50.0),
    ),
    (
        "B 8x128",
        CT,
        Metric::Rate,
        Rows(&["redis ping"]),
        AtLeast(5.0),
    ),
    (
        "B 8x128",
        CT,
        Metric::Rate,
        Rows(&["tonic ct", "tonic mt"]),
        AtLeast(30.0),
    ),
    (
        "C 64 B",
        THROUGHPUT,
        Metric::Rate,
        Rows(&["tokio feed"]),
        AtLeast(0.8),
    ),
    (
        "C 64 B",
        THROUGHPUT,
        Metric::Rate,
        Rows(&["zenoh"]),
        AtLeast(3.0),
    ),
    (
        "C 64 B",
        THROUGHPUT,
        Metric::Rate,
        Rows(&["go batched"]),
        AtLeast(15.0),
    ),
    (
        "C 64 B",
        BATCHES,
        Metric::Rate,
        Rows(&["tokio feed"]),
        AtLeast(0.8),
    ),
    (
        "C 64 B",
        BATCHES,
        Metric::Rate,
        Rows(&["go batched"]),
        AtLeast(15.0),
    ),
    ("W", THROUGHPUT, Metric::Rate, Everybody, AtLeast(0.9)),
    ("D", MT, Metric::Memory, Nothing, AtMost(1536.0)),
    ("D", MT, Metric::Rate, ECHO, AtLeast(1.2)),
    ("D", MT, Metric::P99, ECHO, AtMost(1.0)),
    ("G", "decode borrowed", Metric::Frame, CODEC, AtMost(0.11)),
    ("G", "decode owned", Metric::Frame, CODEC, AtMost(0.4)),
];

/// The table of goals, as far as their cells were measured.
pub(crate) fn table(results: &Results) -> String {
    let head = [
        "goal",
        "best rival",
        "best floor",
        "postroad",
        "ratio",
        "asked",
        "reached",
    ];
    let measured = |goal: &&Goal| results.rows(goal.0).next().is_some();
    let lines = GOALS
        .iter()
        .filter(measured)
        .map(|goal| line(results, goal));
    let lines: Vec<Vec<String>> = [head.map(str::to_owned).to_vec()]
        .into_iter()
        .chain(lines)
        .collect();
    aligned(&lines)
}

fn line(results: &Results, goal: &Goal) -> Vec<String> {
    let (cell, row, metric, reference, asked) = *goal;
    let everybody: Vec<&str> = ROWS
        .iter()
        .filter(|row| row.kind != Kind::Postroad)
        .map(|row| row.name)
        .collect();
    let (value, to) = match reference {
        Nothing => (results.median(cell, row, metric), String::new()),
        Rows(rows) => (
            results.ratio(cell, row, rows, metric),
            format!(" to {}", rows.join(", ")),
        ),
        Everybody => (
            results.ratio(cell, row, &everybody, metric),
            " to the best".to_owned(),
        ),
    };
    let number = |value: f64| match reference {
        Nothing => show(metric, value),
        _ => format!("{value:.2}"),
    };
    let (sign, bound, is_reached) = match asked {
        AtMost(bound) => ("<=", bound, value.map(|value| value <= bound)),
        AtLeast(bound) => (">=", bound, value.map(|value| value >= bound)),
    };
    let reached = match is_reached {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not measured",
    };
    let best = |kind| {
        let best = results.best(cell, kind, metric);
        best.map_or_else(dash, |(name, value)| {
            format!("{} {name}", show(metric, value))
        })
    };
    let postroad = results.median(cell, row, metric);
    vec![
        format!("{cell}: {row}, {}{to}", metric.title()),
        best(Kind::Rival),
        best(Kind::Floor),
        postroad.map_or_else(dash, |value| show(metric, value)),
        value.map_or_else(dash, number),
        format!("{sign} {}", number(bound)),
        reached.to_owned(),
    ]
}

fn dash() -> String {
    "-".to_owned()
}
