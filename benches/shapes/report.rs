//! The table and the JSON of a benchmark.

use std::fmt::{self, Display, Formatter};

use clap::ValueEnum;
use serde::Serialize;

use crate::load::Figures;
use crate::plan::{Figure, Kind, Shape};
use crate::process::Pinning;

/// One run of one kind under one shape.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    /// Runs of the same repetition are compared with each other.
    pub(crate) repetition: u32,
    /// The load.
    pub(crate) shape: Shape,
    /// What happened to the messages.
    pub(crate) kind: Kind,
    /// What was found.
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// Everything found; displayed, it is the table.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pinning: Pinning,
    seconds: f64,
    rows: Vec<Row>,
    runs: Vec<Run>,
}

/// One figure of one kind under one shape, over all repetitions.
#[derive(Debug, Serialize)]
struct Row {
    shape: Shape,
    kind: Kind,
    figure: Figure,
    value: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Ratio>,
    per_second: f64,
    busy: f64,
    disturbed_max: f64,
}

/// The figure divided by that of another kind in the same repetition.
#[derive(Debug, Serialize)]
struct Ratio {
    to: Kind,
    value: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Report {
    /// Compares the runs of each repetition; `seconds` were measured of each run.
    pub(crate) fn new(pinning: Pinning, seconds: f64, runs: Vec<Run>) -> Self {
        let mut rows = Vec::new();
        for &shape in Shape::value_variants() {
            for &figure in shape.figures() {
                let kinds = Kind::value_variants().iter();
                rows.extend(kinds.filter_map(|&kind| Row::new(&runs, shape, kind, figure)));
            }
        }
        Self { pinning, seconds, rows, runs }
    }
}

impl Row {
    fn new(runs: &[Run], shape: Shape, kind: Kind, figure: Figure) -> Option<Self> {
        let over_all = |read: &dyn Fn(&Figures) -> Option<f64>| {
            let of_kind = runs.iter().filter(|run| run.shape == shape && run.kind == kind);
            Spread::of(of_kind.filter_map(|run| read(&run.figures)).collect())
        };
        Some(Self {
            shape,
            kind,
            figure,
            value: over_all(&|figures| figures.get(figure))?,
            ratio: Ratio::new(runs, shape, kind, figure),
            per_second: over_all(&|figures| Some(figures.per_second))?.median,
            busy: over_all(&|figures| Some(figures.busy))?.median,
            disturbed_max: over_all(&|figures| Some(figures.disturbed))?.max,
        })
    }
}

impl Ratio {
    fn new(runs: &[Run], shape: Shape, kind: Kind, figure: Figure) -> Option<Self> {
        let (to, goal) = shape.goal(kind, figure);
        if to == kind {
            return None;
        }
        let of = |repetition: u32, kind: Kind| {
            let mut runs = runs.iter();
            runs.find(|run| (run.repetition, run.shape, run.kind) == (repetition, shape, kind))
                .and_then(|run| run.figures.get(figure))
        };
        let repetitions = 0..=runs.iter().map(|run| run.repetition).max()?;
        let value = Spread::of(
            repetitions
                .clone()
                .filter_map(|repetition| Some(of(repetition, kind)? / of(repetition, to)?))
                .collect(),
        )?;
        let judged = match figure {
            Figure::Cpu | Figure::P50 => value.median,
            // The best of each: what is above it is the host's.
            Figure::P99 => {
                let best = |kind| repetitions.clone().filter_map(|r| of(r, kind)).reduce(f64::min);
                best(kind)? / best(to)?
            }
        };
        Some(Self { to, value, goal, met: goal.map(|goal| judged <= goal) })
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Self { median, min, max })
    }
}

impl Display for Spread {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = match self.median {
            median if median >= 100.0 => 0,
            median if median >= 10.0 => 1,
            _ => 2,
        };
        let Self { median, min, max } = self;
        write!(f, "{median:.digits$} ({min:.digits$}-{max:.digits$})")
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let pinning = match self.pinning {
            Pinning::Pinned => "server on core 0, load on core 1",
            Pinning::Unpinned => "UNPINNED: no taskset, or no second core",
        };
        writeln!(f, "{pinning}; {} s a run; median (min-max)\n", self.seconds)?;
        writeln!(
            f,
            "| shape | kind | figure | value | ratio | goal | messages/s | server busy | disturbed |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let (ratio, goal) = match &row.ratio {
                None => (String::new(), String::new()),
                Some(Ratio { to, value, goal, met }) => (
                    format!("{value} x {}", name(to)),
                    goal.map_or(String::new(), |goal| {
                        let verdict = if *met == Some(true) { "met" } else { "MISSED" };
                        format!("<= {goal}: {verdict}")
                    }),
                ),
            };
            let figure = match row.figure {
                Figure::Cpu => "server CPU/message, us",
                Figure::P50 => "p50, us",
                Figure::P99 => "p99, us",
            };
            writeln!(
                f,
                "| {} | {} | {figure} | {} | {ratio} | {goal} | {:.0} | {:.0} % | {:.0} % |",
                name(&row.shape),
                name(&row.kind),
                row.value,
                row.per_second,
                row.busy * 100.0,
                row.disturbed_max * 100.0,
            )?;
        }
        Ok(())
    }
}

/// The name on the command line.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}
