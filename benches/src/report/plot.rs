//! [`Plot`]: lines over two logarithmic axes, as SVG within HTML.

use std::fmt::{self, Write};

/// Lines that are compared.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    /// At least one, each with a point.
    pub(super) series: Vec<Series>,
}

/// One line. Its numbers are above 0, and its name is HTML.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Of the picture, in its own units: all of it, and the part within the axes.
const WIDTH: f64 = 1_060.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 690.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 370.0;

/// Between two names.
const LINE: f64 = 20.0;

/// Colours that can be told apart, dashed where they come a second time.
const COLOURS: [&str; 8] =
    ["#0b5fa5", "#d1495b", "#2e933c", "#8d5a97", "#e07a1f", "#3aa6a0", "#7a5c3e", "#555555"];

impl Plot<'_> {
    /// Draws it.
    pub(super) fn draw(&self, out: &mut String) -> fmt::Result {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Axis::over(points().map(|point| point.0), LEFT, RIGHT);
        let y = Axis::over(points().map(|point| point.1), BOTTOM, TOP);
        write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\">"
        )?;
        write!(out, "<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{}</text>", self.title)?;
        for tick in y.ticks() {
            let at = y.place(tick);
            let name = named(tick);
            write!(out, "<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#ddd\"/>")?;
            let (before, below) = (LEFT - 8.0, at + 4.0);
            write!(out, "<text x=\"{before}\" y=\"{below:.1}\" text-anchor=\"end\">{name}</text>")?;
        }
        for tick in x.ticks() {
            let at = x.place(tick);
            let name = named(tick);
            write!(out, "<path d=\"M{at:.1} {TOP}V{BOTTOM}\" stroke=\"#ddd\"/>")?;
            let below = BOTTOM + 18.0;
            write!(out, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{name}</text>")?;
        }
        let below = BOTTOM + 38.0;
        write!(out, "<text x=\"{RIGHT}\" y=\"{below}\" text-anchor=\"end\">{}</text>", self.x)?;
        for (at, series) in self.series.iter().enumerate() {
            series.draw(at, &x, &y, out)?;
        }
        write!(out, "</svg>")
    }
}

impl Series {
    fn draw(&self, at: usize, x: &Axis, y: &Axis, out: &mut String) -> fmt::Result {
        let colour = COLOURS[at % COLOURS.len()];
        let dashes = if at < COLOURS.len() { "none" } else { "6 4" };
        let mut line = String::new();
        for point in &self.points {
            let (x, y) = (x.place(point.0), y.place(point.1));
            write!(line, "{x:.1},{y:.1} ")?;
            write!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>")?;
        }
        let stroke =
            format!("stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"");
        write!(out, "<polyline points=\"{}\" fill=\"none\" {stroke}/>", line.trim_end())?;
        let (from, to) = (RIGHT + 15.0, RIGHT + 45.0);
        let middle = TOP + LINE * at as f64;
        write!(out, "<path d=\"M{from} {middle}H{to}\" {stroke}/>")?;
        let (beside, below) = (to + 8.0, middle + 4.0);
        write!(out, "<text x=\"{beside}\" y=\"{below}\">{}</text>", self.name)
    }
}

/// Where numbers are along one axis.
struct Axis {
    least: f64,
    greatest: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// From one power of ten to another, with all `numbers` between.
    fn over(numbers: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (least, greatest) = numbers
            .fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), number| {
                (low.min(number), high.max(number))
            });
        let (least, greatest) =
            (10f64.powf(least.log10().floor()), 10f64.powf(greatest.log10().ceil()));
        // A single power of ten would have no length.
        Axis { least, greatest: greatest.max(least * 10.0), from, to }
    }

    fn place(&self, number: f64) -> f64 {
        let share = (number / self.least).ln() / (self.greatest / self.least).ln();
        self.from + share * (self.to - self.from)
    }

    /// Powers of ten.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (first, last) =
            (self.least.log10().round() as i32, self.greatest.log10().round() as i32);
        (first..=last).map(|power| 10f64.powi(power))
    }
}

fn named(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{}M", number / 1e6),
        number if number >= 1e3 => format!("{}k", number / 1e3),
        number => number.to_string(),
    }
}
