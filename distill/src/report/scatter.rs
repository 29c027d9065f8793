//! Points of two values each, as inline SVG: one colour a name.

use std::fmt::Write;

use super::chart::{WIDTH, number, range, ticks};
use super::html::escape;

const HEIGHT: f64 = 320.0;
/// Left, right, top, bottom room around the plot, for labels.
const MARGIN: (f64, f64, f64, f64) = (62.0, 170.0, 16.0, 44.0);
/// Colours of the page's palette.
const STYLES: usize = 6;

/// The words of a scatter plot.
pub(crate) struct Words<'a> {
    pub(crate) title: &'a str,
    /// What a reader who cannot see the points is told.
    pub(crate) description: &'a str,
    pub(crate) x_label: &'a str,
    pub(crate) y_label: &'a str,
}

/// A name and its points.
pub(crate) type Group = (String, Vec<(f64, f64)>);

/// A `figure` element; `id` must be unique on the page. Empty when there is nothing to draw. Zero lies inside both axes.
pub(crate) fn figure(id: &str, words: &Words<'_>, groups: &[Group]) -> String {
    let points = || groups.iter().flat_map(|(_, points)| points);
    if points().next().is_none() {
        return String::new();
    }
    let (xs, ys) = (range(points().map(|at| at.0).chain([0.0])), range(points().map(|at| at.1).chain([0.0])));
    let (bottom, right) = (HEIGHT - MARGIN.3, WIDTH - MARGIN.1);
    let left = |x: f64| MARGIN.0 + (x - xs.0) / (xs.1 - xs.0) * (right - MARGIN.0);
    let top = |y: f64| bottom - (y - ys.0) / (ys.1 - ys.0) * (bottom - MARGIN.2);
    let mut svg = format!(
        "<figure class=\"chart\"><figcaption id=\"{id}-t\">{}</figcaption>\n\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\"><desc id=\"{id}-d\">{}</desc>\n",
        escape(words.title),
        escape(words.description)
    );
    for tick in ticks(ys, 5) {
        let (class, y) = (if tick == 0.0 { "axis" } else { "grid" }, top(tick));
        let _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            MARGIN.0,
            MARGIN.0 - 7.0,
            y + 4.0,
            number(tick)
        );
    }
    for tick in ticks(xs, 6) {
        let _ = writeln!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left(tick),
            bottom + 17.0,
            number(tick)
        );
    }
    for (index, (name, points)) in groups.iter().enumerate() {
        let style = index % STYLES;
        let y = MARGIN.2 + 8.0 + 17.0 * index as f64;
        let _ = writeln!(
            svg,
            "<circle class=\"dot s{style}\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\"/>\
             <text class=\"label key-text\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            right + 18.0,
            right + 28.0,
            y + 4.0,
            escape(name)
        );
        for &(x, y) in points {
            let _ = write!(
                svg,
                "<circle class=\"dot s{style}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{}: {} at {}</title></circle>",
                left(x),
                top(y),
                escape(name),
                number(y),
                number(x)
            );
        }
    }
    let _ = writeln!(
        svg,
        "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
         <text class=\"label\" transform=\"translate(14 {:.1}) rotate(-90)\">{}</text></svg></figure>",
        f64::midpoint(MARGIN.0, right),
        HEIGHT - 8.0,
        escape(words.x_label),
        f64::midpoint(MARGIN.2, bottom),
        escape(words.y_label)
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_the_axes_say() {
        let words = Words { title: "T", description: "d", x_label: "use", y_label: "gain" };
        let groups = [("a < b".to_owned(), vec![(0.0, 0.0), (2.0, 10.0)]), ("c".to_owned(), Vec::new())];
        let svg = figure("s", &words, &groups);
        // The plot is 62 to 470 wide and 276 to 16 high: its corners are the two points.
        for drawn in
            ["cx=\"62.0\" cy=\"276.0\"", "cx=\"470.0\" cy=\"16.0\"", "a &lt; b: 10 at 2", ">c</text>"]
        {
            assert!(svg.contains(drawn), "the figure lacks {drawn}: {svg}");
        }
        assert_eq!(figure("s", &words, &groups[1..]), "");
    }
}
