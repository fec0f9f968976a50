//! The treemap of storage: what it shows, reduced to what can be seen.

use super::super::document::View;
use super::super::human::bytes;
use super::markup::{Html, cut, squeeze};
use super::treemap::{Rect, squarify};
use crate::plan::usage::{Area, NamespaceMap, Shown, storage_map};

/// The most tiles that are drawn.
const MOST_TILES: usize = 150;
/// The most namespaces that are drawn.
const MOST_GROUPS: usize = 40;
/// The smallest part of the whole that gets a tile of its own: one in so many.
const SMALLEST: u64 = 2_000;
/// The longest name that is written out, in characters.
const LONGEST: usize = 160;

/// The storage as it is drawn: groups of tiles, whose areas add up to the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// All of it.
    pub total: Area,
    groups: Vec<Group>,
    /// How many streams have no tile of their own.
    pub unseen: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    name: String,
    tiles: Vec<Tile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tile {
    /// What is written on it.
    label: String,
    /// What it is, in full.
    name: String,
    /// Whether it belongs to nobody alone.
    is_shared: bool,
    area: Area,
}

impl Group {
    fn area(&self) -> Area {
        self.tiles.iter().fold(Area::default(), |sum, tile| add(sum, tile.area))
    }
}

fn add(one: Area, other: Area) -> Area {
    Area { bytes: one.bytes + other.bytes, prunable: one.prunable + other.prunable }
}

impl Storage {
    /// The storage that is shown.
    #[must_use]
    pub fn new(view: View<'_>, shown: &Shown) -> Self {
        let map = storage_map(view.inventory, view.plan, shown);
        let streams = &view.inventory.streams;
        let name = |of: &NamespaceMap| &*streams[of.first].namespace;
        let mut namespaces: Vec<&NamespaceMap> = map.namespaces.iter().collect();
        let whole = |of: &NamespaceMap| of.streams.iter().fold(of.shared, |sum, (_, area)| add(sum, *area));
        namespaces.sort_by_key(|of| std::cmp::Reverse(whole(of).bytes));
        let total = map.total;
        let smallest = smallest_tile(&namespaces, total);
        let mut storage = Self { total, ..Self::default() };
        let mut others = (0_usize, 0_usize, Area::default());
        for (position, of) in namespaces.iter().enumerate() {
            if position >= MOST_GROUPS || whole(of).bytes < smallest {
                others = (others.0 + 1, others.1 + of.streams.len(), add(others.2, whole(of)));
                continue;
            }
            let group = Group::new(name(of), of, smallest, |position| &*streams[position].name);
            storage.unseen += of.streams.len() - group.tiles.iter().filter(|tile| !tile.is_shared).count();
            storage.groups.push(group);
        }
        storage.unseen += others.1;
        let shared = if shown.is_all() { "shared by namespaces" } else { "shared with others" };
        for (label, area) in [
            (format!("{} more namespace(s)", others.0), others.2),
            (shared.to_owned(), map.shared),
            ("in no stream".to_owned(), map.untagged),
        ] {
            if area.bytes > 0 {
                let tile = Tile { label: label.clone(), name: label.clone(), is_shared: true, area };
                storage.groups.push(Group { name: String::new(), tiles: vec![tile] });
            }
        }
        storage
    }

    /// Draws it for a width of so many pixels; it stretches, and its text does not.
    pub(super) fn draw(
        &self,
        html: &mut Html,
        id: &'static str,
        class: &'static str,
        width: f64,
        height: f64,
    ) {
        let Area { bytes: all, prunable } = self.total;
        let (title, description) = (format!("{id}-title"), format!("{id}-desc"));
        let labelled = format!("{title} {description}");
        let height_text = format!("{height}");
        html.element(
            "svg",
            &[
                ("class", &format!("map {class}")),
                ("role", &"img"),
                ("aria-labelledby", &labelled),
                ("width", &"100%"),
                ("height", &height_text),
            ],
            |html| {
                html.leaf("title", &[("id", &title)], "Treemap of the registry's storage");
                html.leaf(
                    "desc",
                    &[("id", &description)],
                    format!(
                        "{} in {} part(s); the hatched part, {}, goes. The table below has the numbers.",
                        bytes(all),
                        self.groups.len(),
                        bytes(prunable)
                    ),
                );
                let whole = Rect { x: 0.0, y: 0.0, width, height };
                let weights: Vec<f64> = self.groups.iter().map(|group| weight(group.area())).collect();
                for (group, rect) in self.groups.iter().zip(squarify(&weights, whole)) {
                    group.draw(html, rect, whole);
                }
            },
        );
    }
}

/// How many bytes a tile must have to be drawn, so that there are not too many.
fn smallest_tile(namespaces: &[&NamespaceMap], total: Area) -> u64 {
    let streams = namespaces.iter().flat_map(|of| &of.streams).map(|(_, area)| area.bytes);
    let mut sizes: Vec<u64> = streams.collect();
    let smallest = (total.bytes / SMALLEST).max(1);
    if sizes.len() <= MOST_TILES {
        return smallest;
    }
    let (_, last, _) = sizes.select_nth_unstable_by_key(MOST_TILES, |bytes| std::cmp::Reverse(*bytes));
    smallest.max(last.saturating_add(1))
}

impl Group {
    fn new<'a>(name: &str, of: &NamespaceMap, smallest: u64, stream: impl Fn(usize) -> &'a str) -> Self {
        let mut tiles = Vec::new();
        let mut others = (0_usize, Area::default());
        for (position, area) in &of.streams {
            if area.bytes < smallest {
                others = (others.0 + 1, add(others.1, *area));
                continue;
            }
            let label = stream(*position).to_owned();
            tiles.push(Tile { name: format!("{name}/{label}"), label, is_shared: false, area: *area });
        }
        let shared = Tile {
            label: "shared".to_owned(),
            name: format!("{name}: shared by its streams"),
            is_shared: true,
            area: of.shared,
        };
        let rest = Tile {
            label: format!("{} more", others.0),
            name: format!("{name}: {} smaller stream(s)", others.0),
            is_shared: true,
            area: others.1,
        };
        tiles.extend([shared, rest].into_iter().filter(|tile| tile.area.bytes > 0));
        Self { name: name.to_owned(), tiles }
    }

    fn draw(&self, html: &mut Html, rect: Rect, whole: Rect) {
        const HEAD: f64 = 17.0;
        let has_head = !self.name.is_empty() && rect.width >= 44.0 && rect.height >= 40.0;
        let inside = rect.inset(1.0, if has_head { HEAD } else { 0.0 });
        if has_head {
            let strip = Rect { height: HEAD, ..rect.inset(1.0, 0.0) };
            nested(html, strip, whole, |html| {
                html.leaf("title", &[], cut(&self.name, LONGEST));
                html.leaf(
                    "text",
                    &[("class", &"group"), ("x", &"3"), ("y", &"13")],
                    fit(&self.name, rect.width),
                );
            });
        }
        let weights: Vec<f64> = self.tiles.iter().map(|tile| weight(tile.area)).collect();
        for (tile, rect) in self.tiles.iter().zip(squarify(&weights, inside)) {
            tile.draw(html, rect, whole);
        }
    }
}

impl Tile {
    fn draw(&self, html: &mut Html, rect: Rect, whole: Rect) {
        let Area { bytes: all, prunable } = self.area;
        nested(html, rect, whole, |html| {
            let goes = if prunable > 0 { format!(", {} goes", bytes(prunable)) } else { String::new() };
            html.leaf("title", &[], format!("{}: {}{goes}", cut(&self.name, LONGEST), bytes(all)));
            let class = if self.is_shared { "tile shared" } else { "tile" };
            html.empty("rect", &[("class", &class), ("width", &"100%"), ("height", &"100%")]);
            if prunable > 0 {
                let part = 100.0 * weight(Area { bytes: prunable, prunable }) / weight(self.area);
                html.empty(
                    "rect",
                    &[
                        ("class", &"goes"),
                        ("y", &percent(100.0 - part)),
                        ("width", &"100%"),
                        ("height", &percent(part)),
                    ],
                );
            }
            if rect.width >= 44.0 && rect.height >= 17.0 {
                html.leaf("text", &[("x", &"4"), ("y", &"14")], fit(&self.label, rect.width));
                if rect.height >= 34.0 {
                    html.leaf("text", &[("class", &"size"), ("x", &"4"), ("y", &"29")], bytes(all));
                }
            }
        });
    }
}

/// A picture in the picture: it clips what does not fit when the page is narrower than it was drawn for.
fn nested(html: &mut Html, rect: Rect, whole: Rect, inside: impl FnOnce(&mut Html)) {
    html.element(
        "svg",
        &[
            ("x", &percent(100.0 * rect.x / whole.width)),
            ("y", &percent(100.0 * rect.y / whole.height)),
            ("width", &percent(100.0 * rect.width / whole.width)),
            ("height", &percent(100.0 * rect.height / whole.height)),
        ],
        inside,
    );
}

fn percent(part: f64) -> String {
    format!("{:.2}%", part.clamp(0.0, 100.0))
}

/// As much of a name as fits into so many pixels, at the width of a common letter.
fn fit(name: &str, width: f64) -> String {
    const LETTER: f64 = 6.5;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a width in pixels, never negative"
    )]
    let letters = ((width - 8.0).max(0.0) / LETTER) as usize;
    squeeze(name, letters.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "a picture is not exact to the byte")]
fn weight(area: Area) -> f64 {
    area.bytes as f64
}
