//! The axes of a chart: from values to pixels, round numbers between, and their labels.

use super::{HEIGHT, MARGIN, Series, WIDTH};

/// How a y axis runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Linear, over the values.
    #[default]
    Linear,
    /// Linear, from zero.
    FromZero,
    /// Logarithmic: a first step far above the rest leaves the rest legible. Values that are not above zero are left out.
    Log,
}

/// The map from values to pixels.
pub(super) struct Frame {
    pub(super) x: (f64, f64),
    /// On a logarithmic axis, of the values' logarithms to base ten.
    pub(super) y: (f64, f64),
    pub(super) scale: Scale,
}

impl Frame {
    pub(super) fn of(series: &[Series], scale: Scale) -> Self {
        let points = || series.iter().flat_map(|line| line.points.iter());
        let x = range(points().map(|point| point.0));
        let of_axis = |y: f64| if scale == Scale::Log { y.log10() } else { y };
        let mut y = range(points().map(|point| of_axis(point.1)));
        if scale == Scale::FromZero {
            y.0 = y.0.min(0.0);
        }
        let room = (y.1 - y.0) * 0.06;
        let low = if scale == Scale::FromZero && y.0 >= 0.0 { y.0 } else { y.0 - room };
        Self { x, y: (low, y.1 + room), scale }
    }

    pub(super) fn with_zero(self) -> Self {
        let stretched = |(low, high): (f64, f64)| (low.min(0.0), high.max(0.0));
        Self { x: stretched(self.x), y: stretched(self.y), scale: self.scale }
    }

    pub(super) fn left(&self, x: f64) -> f64 {
        MARGIN.0 + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - MARGIN.0 - MARGIN.1)
    }

    pub(super) fn top(&self, y: f64) -> f64 {
        let y = if self.scale == Scale::Log { y.log10() } else { y };
        HEIGHT - MARGIN.3 - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - MARGIN.2 - MARGIN.3)
    }
}

/// The span of some values, never empty.
pub(in crate::report) fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), it| (low.min(it), high.max(it)));
    if low > high {
        return (0.0, 1.0);
    }
    if high - low < 1e-12 * high.abs().max(1e-12) {
        let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
        return (low - room, high + room);
    }
    (low, high)
}

/// Round numbers (1, 2 or 5 times a power of ten apart) inside a span, about `wanted` of them.
pub(in crate::report) fn ticks(span: (f64, f64), wanted: usize) -> Vec<f64> {
    let rough = (span.1 - span.0) / wanted as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|it| it * power).into_iter().find(|it| *it >= rough).unwrap_or(rough);
    let first = (span.0 / step).ceil() as i64;
    let last = (span.1 / step).floor() as i64;
    (first..=last).map(|index| index as f64 * step).collect()
}

/// 1, 2 and 5 times powers of ten whose logarithms lie inside a span; the powers alone where those are many.
pub(super) fn log_ticks(span: (f64, f64)) -> Vec<f64> {
    let factors: &[f64] = if span.1 - span.0 < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let powers = span.0.floor() as i32..=span.1.floor() as i32;
    let all = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
    all.filter(|tick| (span.0..=span.1).contains(&tick.log10())).collect()
}

/// A number as a label: short, without noise digits.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        _ if size == 0.0 => return "0".to_owned(),
        _ if size >= 1e6 => return format!("{}M", number(value / 1e6)),
        _ if size >= 1e4 => return format!("{}k", number(value / 1e3)),
        _ if size < 1e-3 => return format!("{value:.1e}"),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks((0.0, 10.0), 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks((0.3, 1.2), 4), [0.5, 1.0]);
        assert!(ticks((3.0, 3.1), 5).iter().all(|it| (3.0..=3.1).contains(it)));
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0.0, 0.5, 1.0, 2500.0, 25_000.0, 3e6, 1e-4, 12.3456].map(number).into();
        assert_eq!(shown, ["0", "0.5", "1", "2500", "25k", "3M", "1.0e-4", "12.346"]);
    }

    #[test]
    fn a_line_maps_corners_to_corners() {
        let line = Series { name: String::new(), points: vec![(0.0, 0.0), (10.0, 1.0)], style: 0 };
        let frame = Frame::of(std::slice::from_ref(&line), Scale::FromZero);
        assert!((frame.left(0.0) - MARGIN.0).abs() < 1e-9);
        assert!((frame.left(10.0) - (WIDTH - MARGIN.1)).abs() < 1e-9);
        assert!((frame.top(0.0) - (HEIGHT - MARGIN.3)).abs() < 1e-9);
    }

    #[test]
    fn a_logarithmic_axis_gives_each_power_the_same_room() {
        assert_eq!(log_ticks((-1.1, 1.0)), [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]);
        assert_eq!(log_ticks((-2.0, 3.5)), [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]);
        let points = vec![(0.0, 100.0), (1.0, 10.0), (2.0, 1.0), (3.0, 0.0)];
        let line = Series { name: "loss".into(), points, style: 0 }.above_zero();
        assert_eq!(line.points.len(), 3, "zero has no logarithm");
        let frame = Frame::of(std::slice::from_ref(&line), Scale::Log);
        let [first, middle, last] = [100.0, 10.0, 1.0].map(|y| frame.top(y));
        assert!((middle - (first + last) / 2.0).abs() < 1e-9, "{first} {middle} {last}");
    }
}
