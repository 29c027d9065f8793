//! Points with intervals, one a line, as inline SVG.

use std::fmt::Write;

use super::chart::{WIDTH, number, range, ticks};
use super::html::escape;

/// The least room for the names on the left, what a letter of a longer one takes, and the room beside the last tick on the right.
const LEFT: f64 = 230.0;
const LETTER: f64 = 7.0;
const RIGHT: f64 = 24.0;
const LINE: f64 = 26.0;
const FOOT: f64 = 46.0;

/// A value with its interval.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) interval: [f64; 2],
}

/// A `figure` element; `id` must be unique on the page. Empty when there is nothing to draw.
///
/// Zero always lies inside the axis: an interval that holds it is no difference.
pub(crate) fn figure(id: &str, title: &str, axis: &str, points: &[Point]) -> String {
    if points.is_empty() {
        return String::new();
    }
    let height = LINE * points.len() as f64 + FOOT;
    let ends = points.iter().flat_map(|it| it.interval.into_iter().chain([it.value]));
    let span = range(ends.chain([0.0]));
    let longest = points.iter().map(|it| it.name.chars().count()).max().unwrap_or(0);
    let names = LEFT.max(LETTER * longest as f64 + 10.0).min(WIDTH / 2.0);
    let left = |value: f64| names + (value - span.0) / (span.1 - span.0) * (WIDTH - names - RIGHT);
    let said: Vec<String> = points.iter().map(Point::words).collect();
    let mut svg = format!(
        "<figure class=\"chart\"><figcaption id=\"{id}-t\">{}</figcaption>\n\
         <svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\"><desc id=\"{id}-d\">{}</desc>\n",
        escape(title),
        escape(&said.join("; "))
    );
    let bottom = height - FOOT;
    for tick in ticks(span, 6) {
        let (class, x) = (if tick == 0.0 { "axis" } else { "grid" }, left(tick));
        let _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom:.1}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 16.0,
            number(tick)
        );
    }
    for (index, point) in points.iter().enumerate() {
        let y = (index as f64 + 0.5) * LINE;
        let [from, to] = point.interval.map(left);
        let _ = writeln!(
            svg,
            "<g><title>{}</title><text class=\"y label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <line class=\"line s0\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <circle class=\"dot s0\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\"/></g>",
            escape(&said[index]),
            names - 10.0,
            y + 4.0,
            escape(&point.name),
            left(point.value)
        );
    }
    let middle = f64::midpoint(names, WIDTH - RIGHT);
    let _ = writeln!(
        svg,
        "<text class=\"label\" x=\"{middle:.1}\" y=\"{:.1}\">{}</text></svg></figure>",
        height - 8.0,
        escape(axis)
    );
    svg
}

impl Point {
    fn words(&self) -> String {
        let [from, to] = self.interval;
        format!("{}: {:.1}, from {from:.1} to {to:.1}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_stands_inside_its_interval_and_zero_inside_the_axis() {
        let point = Point { name: "a < b".into(), value: 3.0, interval: [2.0, 5.0] };
        let svg = figure("g", "Gain", "points", std::slice::from_ref(&point));
        assert!(svg.contains("a &lt; b: 3.0, from 2.0 to 5.0") && !svg.contains("a < b"), "{svg}");
        // The axis runs from 0 to 5 over the 386 pixels right of the names: 2, 3 and 5 lie at 154.4, 231.6 and 386.
        for drawn in ["class=\"axis\" x1=\"230.0\"", "x1=\"384.4\" x2=\"616.0\"", "cx=\"461.6\""] {
            assert!(svg.contains(drawn), "the figure lacks {drawn}: {svg}");
        }
        // A name of 40 letters moves the axis, one of 400 no further than to the middle.
        for (letters, axis) in [(40, "x1=\"290.0\""), (400, "x1=\"320.0\"")] {
            let svg = figure("g", "", "", &[Point { name: "n".repeat(letters), ..point.clone() }]);
            assert!(svg.contains(&format!("class=\"axis\" {axis}")), "{svg}");
        }
        assert_eq!(figure("g", "", "", &[]), "");
    }
}
