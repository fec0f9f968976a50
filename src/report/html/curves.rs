//! The what-if curves: what is freed, by revisions kept, a line for each age.

use std::fmt::Write as _;

use super::super::human::bytes;
use super::super::what_if::{Combination, WhatIf, with_days};
use super::markup::Html;

/// The most lines that can be told apart.
pub(super) const MOST_LINES: usize = 6;

/// A picture's size, and the margins around its lines.
struct Frame {
    width: f64,
    height: f64,
    left: f64,
    bottom: f64,
    top: f64,
    right: f64,
}

/// What is drawn: bytes, or items where no bytes are freed.
fn value(what_if: &WhatIf, one: &Combination) -> u64 {
    if what_if.frees_bytes() { one.counts.bytes } else { one.counts.image_stream_tag_items as u64 }
}

/// A value as text.
pub(super) fn value_text(what_if: &WhatIf, value: u64) -> String {
    if what_if.frees_bytes() { bytes(value) } else { value.to_string() }
}

/// Draws the curves.
pub(super) fn draw(
    html: &mut Html,
    what_if: &WhatIf,
    id: &'static str,
    class: &'static str,
    width: f64,
    height: f64,
) {
    let ages = what_if.ages();
    let rows: Vec<&[Combination]> = what_if.combinations.chunks(ages.len().max(1)).collect();
    let largest = what_if.combinations.iter().map(|one| value(what_if, one)).max().unwrap_or(0);
    let step = step(largest);
    let lines = largest.div_ceil(step).max(1);
    let top = step.saturating_mul(lines);
    let frame = Frame { width, height, left: 78.0, bottom: 44.0, top: 12.0, right: 16.0 };
    let (title, description) = (format!("{id}-title"), format!("{id}-desc"));
    let labelled = format!("{title} {description}");
    let view = format!("0 0 {width} {height}");
    let picture: super::markup::Attributes<'_> = &[
        ("class", &format!("curves {class}")),
        ("role", &"img"),
        ("aria-labelledby", &labelled),
        ("viewBox", &view),
    ];
    html.element("svg", picture, |html| {
        html.leaf("title", &[("id", &title)], "What other values would free");
        html.leaf(
            "desc",
            &[("id", &description)],
            format!(
                "{} lines, one for each value of --keep-younger-than; the table below has the numbers.",
                ages.len().min(MOST_LINES)
            ),
        );
        for number in 0..=lines {
            let at = step.saturating_mul(number);
            let y = frame.y(at, top);
            html.empty(
                "line",
                &[
                    ("class", &"grid"),
                    ("x1", &n(frame.left)),
                    ("x2", &n(width - frame.right)),
                    ("y1", &n(y)),
                    ("y2", &n(y)),
                ],
            );
            html.leaf(
                "text",
                &[("class", &"axis end"), ("x", &n(frame.left - 8.0)), ("y", &n(y + 4.0))],
                value_text(what_if, at),
            );
        }
        // Every label needs room: with many rows only some get one.
        let every = rows.len().div_ceil(12).max(1);
        for (number, row) in rows.iter().enumerate() {
            if let (0, Some(one)) = (number % every, row.first()) {
                let (x, y) = (frame.x(number, rows.len()), height - frame.bottom + 18.0);
                html.leaf(
                    "text",
                    &[("class", &"axis middle"), ("x", &n(x)), ("y", &n(y))],
                    one.keep_tag_revisions,
                );
            }
        }
        let middle = f64::midpoint(frame.left, width - frame.right);
        html.leaf(
            "text",
            &[("class", &"axis middle"), ("x", &n(middle)), ("y", &n(height - 6.0))],
            "--keep-tag-revisions",
        );
        for (line, age) in ages.iter().enumerate().take(MOST_LINES) {
            let points: Vec<(f64, f64, &Combination)> = rows
                .iter()
                .enumerate()
                .filter_map(|(number, row)| {
                    let one = row.get(line)?;
                    Some((frame.x(number, rows.len()), frame.y(value(what_if, one), top), one))
                })
                .collect();
            let mut path = String::new();
            for (x, y, _) in &points {
                // Writing to a `String` cannot fail.
                let _ = write!(path, "{}{x:.1},{y:.1}", if path.is_empty() { "" } else { " " });
            }
            html.empty("polyline", &[("class", &format!("line c{line}")), ("points", &path)]);
            for (x, y, one) in points {
                html.element("g", &[], |html| {
                    html.leaf(
                        "title",
                        &[],
                        format!(
                            "--keep-tag-revisions={} --keep-younger-than={age}: {}",
                            one.keep_tag_revisions,
                            value_text(what_if, value(what_if, one))
                        ),
                    );
                    marker(html, line, x, y);
                    if one.is_automatic_pruner {
                        html.empty(
                            "circle",
                            &[("class", &"ring"), ("cx", &n(x)), ("cy", &n(y)), ("r", &"10")],
                        );
                    }
                });
            }
        }
    });
}

/// The legend: a list, so that it wraps.
pub(super) fn legend(html: &mut Html, what_if: &WhatIf) {
    let ages = what_if.ages();
    html.element("ul", &[("class", &"legend")], |html| {
        for (line, age) in ages.iter().enumerate().take(MOST_LINES) {
            html.element("li", &[], |html| {
                html.element(
                    "svg",
                    &[("class", &"swatch"), ("width", &"36"), ("height", &"14"), ("aria-hidden", &"true")],
                    |html| {
                        html.empty(
                            "polyline",
                            &[("class", &format!("line c{line}")), ("points", &"0,7 36,7")],
                        );
                        marker(html, line, 18.0, 7.0);
                    },
                );
                html.text(format!("--keep-younger-than={}", with_days(age)));
            });
        }
        if what_if.combinations.iter().any(|one| one.is_automatic_pruner) {
            html.element("li", &[], |html| {
                html.element(
                    "svg",
                    &[("class", &"swatch"), ("width", &"24"), ("height", &"24"), ("aria-hidden", &"true")],
                    |html| {
                        html.empty(
                            "circle",
                            &[("class", &"ring"), ("cx", &"12"), ("cy", &"12"), ("r", &"10")],
                        );
                    },
                );
                html.text("the automatic pruner's setting");
            });
        }
    });
}

/// The mark of a line's points: of another form for each line, so that colour is not the only sign.
fn marker(html: &mut Html, line: usize, x: f64, y: f64) {
    let class = format!("mark c{line}");
    let polygon = |html: &mut Html, corners: &[(f64, f64)]| {
        let mut points = String::new();
        for (dx, dy) in corners {
            // Writing to a `String` cannot fail.
            let _ = write!(points, "{:.1},{:.1} ", x + dx, y + dy);
        }
        html.empty("polygon", &[("class", &class), ("points", &points.trim_end())]);
    };
    match line % 4 {
        0 => html.empty("circle", &[("class", &class), ("cx", &n(x)), ("cy", &n(y)), ("r", &"4")]),
        1 => polygon(html, &[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)]),
        2 => polygon(html, &[(0.0, -5.0), (5.0, 4.0), (-5.0, 4.0)]),
        _ => polygon(html, &[(0.0, -5.5), (5.5, 0.0), (0.0, 5.5), (-5.5, 0.0)]),
    }
}

impl Frame {
    fn x(&self, number: usize, of: usize) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred rows")]
        let part = if of > 1 { number as f64 / (of - 1) as f64 } else { 0.5 };
        self.left + 10.0 + part * (self.width - self.left - self.right - 20.0)
    }

    fn y(&self, value: u64, top: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a picture is not exact to the byte")]
        let part = value as f64 / top as f64;
        self.height - self.bottom - part * (self.height - self.bottom - self.top)
    }
}

fn n(number: f64) -> String {
    format!("{number:.1}")
}

/// The distance of the lines of the grid: 1, 2 or 5 times a power of ten of the unit that fits; at most six of them.
fn step(largest: u64) -> u64 {
    const MOST: u64 = 6;
    let mut unit = 1_u64;
    while largest / unit >= 1024 && unit < 1 << 60 {
        unit <<= 10;
    }
    let mut step = unit;
    for factor in [1, 2, 5, 10, 20, 50, 100, 200] {
        step = unit.saturating_mul(factor);
        if largest.div_ceil(step) <= MOST {
            break;
        }
    }
    // Below two units, halves and quarters of them read better than one line alone.
    if unit > 1 && largest / unit < 2 { unit / 2 } else { step }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_has_few_lines_at_round_numbers() {
        for (largest, expected) in [
            (0, 1),
            (5, 1),
            (7, 2),
            (30, 5),
            (1000, 200),
            (1024, 512),
            (1 << 34, 5 << 30),
            (300 << 30, 50 << 30),
            (u64::MAX, 5 << 60),
        ] {
            assert_eq!(step(largest), expected, "{largest}");
            assert!(largest.div_ceil(step(largest)) <= 6, "{largest}");
        }
    }
}
