//! How a cell looks: colour and marker, so that neither colour vision nor a printer is needed.

use plotters::prelude::*;

use super::PlotError;
use super::canvas::{SUPERSAMPLING, Surface, px};

/// The palette of Okabe and Ito, which people with any colour vision can tell apart, less its yellow
/// (too pale on white).
const COLORS: [RGBColor; 7] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

/// Their number and that of the colours have no common factor, so that pairs of both repeat late.
const SHAPES: [Shape; 6] = [Shape::Disc, Shape::Square, Shape::Up, Shape::Diamond, Shape::Down, Shape::Cross];

#[derive(Clone, Copy, Debug)]
enum Shape {
    Disc,
    Square,
    Up,
    Diamond,
    Down,
    Cross,
}

/// Corners of a cross that stands, in tenths of the radius.
const CROSS: [(i32, i32); 12] = [
    (-4, -12),
    (4, -12),
    (4, -4),
    (12, -4),
    (12, 4),
    (4, 4),
    (4, 12),
    (-4, 12),
    (-4, 4),
    (-12, 4),
    (-12, -4),
    (-4, -4),
];

/// The looks of one cell.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    color: RGBColor,
    shape: Shape,
    /// Of the marker, in pixels of the picture.
    radius: i32,
}

/// Radius of a marker that has room.
const RADIUS: i32 = 10;
/// Up to this many markers beside each other have room.
const ROOMY: u32 = 40;

impl Style {
    /// The looks of the cell number `order`: no two of the first 42 are alike, and no two of six have one shape.
    pub fn of(order: usize) -> Self {
        Self { color: COLORS[order % COLORS.len()], shape: SHAPES[order % SHAPES.len()], radius: RADIUS }
    }

    /// The same with a marker that leaves room for `count` of them beside each other.
    pub fn among(self, count: u32) -> Self {
        let radius = RADIUS * ROOMY.cast_signed() / count.clamp(ROOMY, 1 << 20).cast_signed();
        Self { radius: radius.max(3), ..self }
    }

    /// A line through `points`, in drawn pixels.
    pub fn line(&self, surface: &Surface, points: Vec<(i32, i32)>) -> Result<(), PlotError> {
        Ok(surface.draw(&PathElement::new(
            points,
            self.color.stroke_width(SUPERSAMPLING * self.radius.unsigned_abs().div_ceil(3)),
        ))?)
    }

    /// A marker around `center`, in drawn pixels, with a white rim that parts it from what lies below.
    pub fn mark(&self, surface: &Surface, center: (i32, i32)) -> Result<(), PlotError> {
        self.shape(surface, center, px(self.radius + (self.radius + 4) / 5), WHITE)?;
        self.shape(surface, center, px(self.radius), self.color)
    }

    fn shape(
        &self,
        surface: &Surface,
        (x, y): (i32, i32),
        radius: i32,
        color: RGBColor,
    ) -> Result<(), PlotError> {
        let polygon = |corners: &[(i32, i32)]| {
            // Tenths of the radius, sized so that all shapes look equally heavy.
            let corners = corners.iter().map(|(dx, dy)| (x + dx * radius / 10, y + dy * radius / 10));
            Polygon::new(corners.collect::<Vec<_>>(), color.filled())
        };
        match self.shape {
            Shape::Disc => surface.draw(&Circle::new((x, y), radius, color.filled())),
            Shape::Square => surface.draw(&polygon(&[(-9, -9), (9, -9), (9, 9), (-9, 9)])),
            Shape::Up => surface.draw(&polygon(&[(0, -12), (11, 8), (-11, 8)])),
            Shape::Diamond => surface.draw(&polygon(&[(0, -13), (13, 0), (0, 13), (-13, 0)])),
            Shape::Down => surface.draw(&polygon(&[(0, 12), (11, -8), (-11, -8)])),
            Shape::Cross => surface.draw(&polygon(&CROSS)),
        }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{COLORS, SHAPES, Style};

    #[test]
    fn looks_repeat_only_after_all_pairs_of_shape_and_colour() {
        let looks = |count: usize| -> HashSet<String> {
            (0..count).map(|order| format!("{:?}", Style::of(order))).collect()
        };
        let pairs = COLORS.len() * SHAPES.len();
        assert_eq!((pairs, looks(pairs).len(), looks(pairs + 1).len()), (42, 42, 42));
        let shapes: HashSet<String> = (0..6).map(|order| format!("{:?}", Style::of(order).shape)).collect();
        assert_eq!(shapes.len(), 6);
    }
}
