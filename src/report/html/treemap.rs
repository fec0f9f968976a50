//! Squarified treemaps (Bruls, Huizing, van Wijk 2000): areas in proportion to numbers, as square as can be.

/// A rectangle; `y` grows downwards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Rect {
    /// What is left inside a margin, and below a head of this height.
    pub(super) fn inset(self, margin: f64, head: f64) -> Self {
        Self {
            x: self.x + margin,
            y: self.y + margin + head,
            width: (self.width - 2.0 * margin).max(0.0),
            height: (self.height - 2.0 * margin - head).max(0.0),
        }
    }

    fn shorter(self) -> f64 {
        self.width.min(self.height)
    }
}

/// Cuts a rectangle into one for each weight, in the order of the weights. What has no weight has no area.
pub(super) fn squarify(weights: &[f64], within: Rect) -> Vec<Rect> {
    let nothing = Rect { width: 0.0, height: 0.0, ..within };
    let mut cut = vec![nothing; weights.len()];
    let mut order: Vec<usize> = (0..weights.len())
        .filter(|position| weights[*position].is_finite() && weights[*position] > 0.0)
        .collect();
    order.sort_by(|one, other| weights[*other].total_cmp(&weights[*one]));
    let total: f64 = order.iter().map(|position| weights[*position]).sum();
    let scale = within.width * within.height / total;
    if !scale.is_finite() || scale <= 0.0 {
        return cut;
    }
    let area = |position: usize| weights[position] * scale;
    let mut left = within;
    let mut rest = order.as_slice();
    while let Some(first) = rest.first() {
        let side = left.shorter();
        let (mut length, mut sum) = (1, area(*first));
        let (largest, mut worst) = (sum, ratio(side, sum, sum, sum));
        while let Some(next) = rest.get(length) {
            let with_next = ratio(side, sum + area(*next), largest, area(*next));
            if with_next > worst {
                break;
            }
            (length, sum, worst) = (length + 1, sum + area(*next), with_next);
        }
        let (row, others) = rest.split_at(length);
        left = place(row, &area, sum, left, &mut cut);
        rest = others;
    }
    cut
}

/// The worst ratio of sides in a row of this area along a side; 1 is a square.
fn ratio(side: f64, sum: f64, largest: f64, smallest: f64) -> f64 {
    let depth_squared = sum * sum;
    let side_squared = side * side;
    (side_squared * largest / depth_squared).max(depth_squared / (side_squared * smallest))
}

/// Places a row along the shorter side; returns what is left.
fn place(row: &[usize], area: &impl Fn(usize) -> f64, sum: f64, left: Rect, cut: &mut [Rect]) -> Rect {
    let is_column = left.width >= left.height;
    let side = left.shorter();
    let depth = if side > 0.0 { sum / side } else { 0.0 };
    let mut along = 0.0;
    for position in row {
        let length = if depth > 0.0 { area(*position) / depth } else { 0.0 };
        cut[*position] = if is_column {
            Rect { x: left.x, y: left.y + along, width: depth, height: length }
        } else {
            Rect { x: left.x + along, y: left.y, width: length, height: depth }
        };
        along += length;
    }
    if is_column {
        Rect { x: left.x + depth, width: (left.width - depth).max(0.0), ..left }
    } else {
        Rect { y: left.y + depth, height: (left.height - depth).max(0.0), ..left }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WITHIN: Rect = Rect { x: 10.0, y: 20.0, width: 600.0, height: 400.0 };

    #[test]
    fn the_example_of_the_paper() {
        let within = Rect { x: 0.0, y: 0.0, width: 6.0, height: 4.0 };
        let cut = squarify(&[6.0, 6.0, 4.0, 3.0, 2.0, 2.0, 1.0], within);
        let rounded: Vec<[i64; 4]> = cut
            .iter()
            .map(|rect| {
                [rect.x, rect.y, rect.width, rect.height]
                    .map(|number| format!("{:.0}", number * 100.0).parse().unwrap())
            })
            .collect();
        assert_eq!(rounded[0], [0, 0, 300, 200]);
        assert_eq!(rounded[1], [0, 200, 300, 200]);
        assert_eq!(rounded[2], [300, 0, 171, 233]);
        assert_eq!(rounded[3], [471, 0, 129, 233]);
    }

    #[test]
    fn without_weights_or_space_there_is_no_area() {
        assert!(squarify(&[], WITHIN).is_empty());
        for weights in [&[0.0, 0.0][..], &[f64::NAN, -1.0], &[f64::INFINITY]] {
            assert!(squarify(weights, WITHIN).iter().all(|rect| rect.width == 0.0 && rect.height == 0.0));
        }
        let flat = Rect { height: 0.0, ..WITHIN };
        assert!(squarify(&[1.0], flat).iter().all(|rect| rect.width == 0.0));
    }

    proptest! {
        #[test]
        fn areas_are_in_proportion_and_do_not_overlap(weights in prop::collection::vec(0..1_000_000_u32, 1..60)) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let total: f64 = weights.iter().sum();
            let cut = squarify(&weights, WITHIN);
            prop_assert_eq!(cut.len(), weights.len());
            for (rect, weight) in cut.iter().zip(&weights) {
                let expected = if total > 0.0 { 240_000.0 * weight / total } else { 0.0 };
                prop_assert!((rect.width * rect.height - expected).abs() < 0.01, "{rect:?} for {weight}");
                prop_assert!(rect.x >= 10.0 - 1e-6 && rect.y >= 20.0 - 1e-6);
                prop_assert!(rect.x + rect.width <= 610.0 + 1e-6 && rect.y + rect.height <= 420.0 + 1e-6);
            }
            for (position, one) in cut.iter().enumerate() {
                for other in &cut[position + 1..] {
                    let wide = (one.x + one.width).min(other.x + other.width) - one.x.max(other.x);
                    let high = (one.y + one.height).min(other.y + other.height) - one.y.max(other.y);
                    prop_assert!(wide.min(high) < 1e-6, "{one:?} {other:?}");
                }
            }
        }
    }
}
