//! Line charts as inline SVG: drawn here, so that the report is one file that opens anywhere.
//!
//! Colours are CSS variables of the page, so a chart follows light and dark by itself, and each series
//! has its own dash besides its colour: nothing depends on telling colours apart.

use std::fmt::Write;

use super::html::escape;

mod axis;

use axis::{Frame, log_ticks};
pub(crate) use axis::{Scale, number};
pub(super) use axis::{range, ticks};

pub(super) const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
/// Left, right, top, bottom room around the plot, for labels.
const MARGIN: (f64, f64, f64, f64) = (62.0, 16.0, 22.0, 44.0);
/// A line has at most so many points; denser ones are averaged.
const MAX_POINTS: usize = 400;
/// A line of more points has no dots.
const MOST_DOTS: usize = 40;
/// How many names stand beside one another inside a drawing, and the height of their row.
const NAME_COLUMNS: usize = 2;
const NAME_ROW: f64 = 17.0;
const DASHES: [&str; 6] = ["", "6 4", "2 3", "9 3 2 3", "12 4", "4 2 1 2"];

/// One line of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Its name in the legend.
    pub(crate) name: String,
    /// (x, y), by ascending x; values that are no numbers are left out.
    pub(crate) points: Vec<(f64, f64)>,
    /// Which colour and dash of the page's palette.
    pub(crate) style: usize,
}

/// A stretch of the x axis with a name: one stage of a run.
#[derive(Clone, Debug)]
pub(crate) struct Band {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) name: String,
}

/// A chart with its words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chart {
    pub(crate) title: String,
    /// What a reader who cannot see the lines is told.
    pub(crate) description: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<Series>,
    pub(crate) bands: Vec<Band>,
    /// How the y axis runs.
    pub(crate) scale: Scale,
    /// The names stand in the drawing, in rows above the plot, and not above the drawing: for one that stands alone.
    pub(crate) legend_inside: bool,
    /// What stands for the values.
    pub(crate) marks: Marks,
}

/// What stands for the values of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Marks {
    /// A line through them, with dots where they are few.
    #[default]
    Line,
    /// Dots alone, in no order; zero lies inside both axes.
    Dots,
}

impl Chart {
    /// The chart as a `figure` element; `id` must be unique on the page. Empty when there is nothing to draw.
    pub(crate) fn figure(&self, id: &str) -> String {
        let drawable = |line: &Series| match self.scale {
            Scale::Log => line.above_zero().thinned(),
            _ => line.thinned(),
        };
        let series: Vec<Series> =
            self.series.iter().map(drawable).filter(|it| !it.points.is_empty()).collect();
        if series.is_empty() {
            return String::new();
        }
        let mut frame = Frame::of(&series, self.scale);
        if self.marks == Marks::Dots {
            frame = frame.with_zero();
        }
        let (list, names, above) = match self.legend_inside {
            true => {
                let rows = series.len().div_ceil(NAME_COLUMNS);
                (String::new(), inner_legend(&series), NAME_ROW * rows as f64)
            }
            false => (legend(&series), String::new(), 0.0),
        };
        let mut svg = format!(
            "<figure class=\"chart\"><figcaption id=\"{id}-t\">{}</figcaption>\n{list}\
             <svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
             <desc id=\"{id}-d\">{}</desc>\n{names}<g transform=\"translate(0 {above})\">\n",
            escape(&self.title),
            HEIGHT + above,
            escape(&self.description),
        );
        svg += &self.drawn_bands(&frame);
        svg += &self.axes(&frame);
        for line in &series {
            if self.marks == Marks::Line {
                svg += &line.path(&frame);
            }
            if self.marks == Marks::Dots || line.points.len() <= MOST_DOTS {
                svg += &line.dots(&frame);
            }
        }
        svg + "</g></svg></figure>\n"
    }

    fn drawn_bands(&self, frame: &Frame) -> String {
        let mut svg = String::new();
        for (index, band) in self.bands.iter().enumerate() {
            let (from, to) = (frame.left(band.from.max(frame.x.0)), frame.left(band.to.min(frame.x.1)));
            if to - from < 1.0 {
                continue;
            }
            let shade = if index % 2 == 0 { "band" } else { "band odd" };
            let _ = write!(
                svg,
                "<rect class=\"{shade}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                MARGIN.2,
                to - from,
                HEIGHT - MARGIN.2 - MARGIN.3
            );
            let _ = writeln!(
                svg,
                "<text class=\"stage\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                (from + to) / 2.0,
                MARGIN.2 - 7.0,
                escape(&band.name)
            );
        }
        svg
    }

    fn axes(&self, frame: &Frame) -> String {
        let (bottom, right) = (HEIGHT - MARGIN.3, WIDTH - MARGIN.1);
        let mut svg = String::new();
        let y_ticks = if frame.scale == Scale::Log { log_ticks(frame.y) } else { ticks(frame.y, 5) };
        for tick in y_ticks {
            let top = frame.top(tick);
            let class = if tick == 0.0 { "axis" } else { "grid" };
            let _ = write!(
                svg,
                "<line class=\"{class}\" x1=\"{:.1}\" x2=\"{right:.1}\" y1=\"{top:.1}\" y2=\"{top:.1}\"/>\
                 <text class=\"tick y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                MARGIN.0,
                MARGIN.0 - 7.0,
                top + 4.0,
                number(tick)
            );
        }
        for tick in ticks(frame.x, 7) {
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                frame.left(tick),
                bottom + 17.0,
                number(tick)
            );
        }
        let middle = MARGIN.2 + (bottom - MARGIN.2) / 2.0;
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{:.1}\" x2=\"{right:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>\
             <text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"label\" transform=\"translate(14 {middle:.1}) rotate(-90)\">{}</text>",
            MARGIN.0,
            f64::midpoint(MARGIN.0, right),
            HEIGHT - 8.0,
            escape(&self.x_label),
            escape(&self.y_label)
        );
        svg
    }
}

impl Series {
    fn above_zero(&self) -> Self {
        Self { points: self.points.iter().copied().filter(|it| it.1 > 0.0).collect(), ..self.clone() }
    }

    /// At most [`MAX_POINTS`] points, each the mean of its neighbours.
    fn thinned(&self) -> Self {
        let finite: Vec<_> =
            self.points.iter().copied().filter(|it| it.0.is_finite() && it.1.is_finite()).collect();
        let size = finite.len().div_ceil(MAX_POINTS).max(1);
        let mean = |chunk: &[(f64, f64)]| {
            let count = chunk.len() as f64;
            (
                chunk.iter().map(|it| it.0).sum::<f64>() / count,
                chunk.iter().map(|it| it.1).sum::<f64>() / count,
            )
        };
        Self { points: finite.chunks(size).map(mean).collect(), ..self.clone() }
    }

    fn path(&self, frame: &Frame) -> String {
        let style = self.style % DASHES.len();
        let mut path = String::new();
        for (index, &(x, y)) in self.points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", frame.left(x), frame.top(y));
        }
        format!(
            "<path class=\"line s{style}\" stroke-dasharray=\"{}\" d=\"{path}\"><title>{}</title></path>\n",
            DASHES[style],
            escape(&self.name)
        )
    }

    fn dots(&self, frame: &Frame) -> String {
        let style = self.style % DASHES.len();
        let mut svg = String::new();
        for &(x, y) in &self.points {
            let _ = write!(
                svg,
                "<circle class=\"dot s{style}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {} at {}</title></circle>",
                frame.left(x),
                frame.top(y),
                escape(&self.name),
                number(y),
                number(x)
            );
        }
        svg
    }
}

fn legend(series: &[Series]) -> String {
    let mut list = String::from("<ul class=\"legend\">");
    for line in series {
        let style = line.style % DASHES.len();
        let _ = write!(
            list,
            "<li><svg class=\"key\" viewBox=\"0 0 26 8\" aria-hidden=\"true\"><path class=\"line s{style}\" \
             stroke-dasharray=\"{}\" d=\"M1 4L25 4\"/></svg>{}</li>",
            DASHES[style],
            escape(&line.name)
        );
    }
    list + "</ul>\n"
}

/// The names in rows of [`NAME_COLUMNS`].
fn inner_legend(series: &[Series]) -> String {
    let column = (WIDTH - MARGIN.0 - MARGIN.1) / NAME_COLUMNS as f64;
    let mut svg = String::new();
    for (index, line) in series.iter().enumerate() {
        let x = MARGIN.0 + column * (index % NAME_COLUMNS) as f64;
        let y = NAME_ROW * ((index / NAME_COLUMNS) as f64 + 0.7);
        let style = line.style % DASHES.len();
        let _ = writeln!(
            svg,
            "<path class=\"line s{style}\" stroke-dasharray=\"{}\" d=\"M{x:.1} {y:.1}L{:.1} {y:.1}\"/>\
             <text class=\"label\" style=\"text-anchor: start\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            DASHES[style],
            x + 26.0,
            x + 32.0,
            y + 4.0,
            escape(&line.name)
        );
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_have_no_line_and_zero_inside_their_axes() {
        let dots = Series { name: "d".into(), points: vec![(2.0, 3.0), (1.0, 4.0)], style: 0 };
        let chart = Chart { series: vec![dots], marks: Marks::Dots, ..Chart::default() };
        let figure = chart.figure("c");
        assert_eq!(figure.matches("<circle").count(), 2, "{figure}");
        // The only path left is the legend's.
        assert_eq!(figure.matches("<path").count(), 1, "{figure}");
        assert!(figure.contains("d: 3 at 2"), "{figure}");
        // A label each for zero on both axes.
        assert!(figure.matches(">0</text>").count() == 2, "{figure}");
    }

    #[test]
    fn names_are_escaped() {
        let line = Series { name: "a < b".into(), points: vec![(0.0, 0.0), (10.0, 1.0)], style: 0 };
        let figure = Chart { series: vec![line], ..Chart::default() }.figure("c");
        assert!(figure.contains("a &lt; b") && !figure.contains("a < b"), "{figure}");
    }

    #[test]
    fn names_inside_a_drawing_stand_above_its_plot() {
        let line =
            |style| Series { name: format!("name {style}"), points: vec![(0.0, 0.0), (1.0, 1.0)], style };
        let chart = Chart { series: (0..3).map(line).collect(), legend_inside: true, ..Chart::default() };
        let figure = chart.figure("c");
        // Three names are two rows, and the plot begins below them.
        let (rows, plot) = figure.split_once("<g transform=\"translate(0 34)\">").unwrap_or_default();
        assert!(figure.contains("viewBox=\"0 0 640 334\""), "{figure}");
        assert!(["name 0", "name 1", "name 2"].iter().all(|name| rows.contains(&format!(">{name}</text>"))));
        assert!(plot.contains("<circle") && !rows.contains("<circle"), "{figure}");
    }

    #[test]
    fn long_lines_are_thinned_and_gaps_left_out() {
        let points = (0..1000).map(|it| (f64::from(it), if it == 500 { f64::NAN } else { 1.0 })).collect();
        let thin = Series { name: String::new(), points, style: 0 }.thinned();
        assert!(thin.points.len() <= MAX_POINTS && thin.points.iter().all(|it| it.1 == 1.0));
        assert_eq!(Chart::default().figure("none"), "", "nothing to draw is no figure");
    }
}
