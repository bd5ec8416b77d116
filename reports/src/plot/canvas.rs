//! Pixels: drawn at twice the size and averaged, so that lines and letters have smooth edges.
//!
//! Text needs no fonts of the host: Hack is compiled in (from the crate `epaint_default_fonts`).
//! Hack is copyright 2018 Source Foundry Authors, under the MIT licence; its Bitstream Vera parts are
//! copyright 2003 Bitstream Inc., under the Bitstream Vera licence.

use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use super::PlotError;

const WIDTH: u32 = 1600;
const HEIGHT: u32 = 900;

/// Drawn pixels along one side of a pixel of the picture.
pub const SUPERSAMPLING: u32 = 2;

/// Lines that guide the eye.
pub const GRID: RGBColor = RGBColor(222, 222, 222);
/// Axes and words of second rank.
pub const GREY: RGBColor = RGBColor(85, 85, 85);

const FAMILY: &str = "hack";

/// Where drawing goes, in drawn pixels.
pub type Surface<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// `length` pixels of the picture in drawn pixels.
pub const fn px(length: i32) -> i32 {
    length * SUPERSAMPLING.cast_signed()
}

/// The one font, `size` pixels high in the picture.
pub fn font<'a>(size: i32, color: &'a RGBColor) -> TextStyle<'a> {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| register(FAMILY));
    TextStyle::from((FAMILY, px(size)).into_font()).color(color)
}

/// Has the font stand in for `sans-serif` as well. The drawing library knows no fonts of the host, and benchmarks that
/// share it with this crate could draw no letter.
pub fn stand_in_for_sans_serif() {
    register("sans-serif");
}

fn register(family: &str) {
    let hack = epaint_default_fonts::HACK_REGULAR;
    // Refused only where the bytes are no font; drawing text then fails with the family's name.
    let _ = register_font(family, FontStyle::Normal, hack);
}

/// Writes `words` with their upper left corner at `place`, in pixels of the picture.
pub fn text(
    surface: &Surface,
    words: &str,
    place: (i32, i32),
    size: i32,
    color: &RGBColor,
) -> Result<(), PlotError> {
    Ok(surface.draw_text(words, &font(size, color), (px(place.0), px(place.1)))?)
}

/// Width of `words` in pixels of the picture.
pub fn text_width(surface: &Surface, words: &str, size: i32) -> Result<i32, PlotError> {
    let (width, _) = surface.estimate_text_size(words, &font(size, &BLACK))?;
    Ok(width.div_ceil(SUPERSAMPLING).cast_signed())
}

/// Width of the picture.
pub const fn width() -> i32 {
    WIDTH.cast_signed()
}

/// The drawn pixels, three bytes each.
pub struct Canvas {
    height: u32,
    rgb: Vec<u8>,
}

impl Canvas {
    /// One of the usual height.
    pub fn new() -> Self {
        Self::with_height(HEIGHT.cast_signed())
    }

    /// One of `height` pixels of the picture.
    pub fn with_height(height: i32) -> Self {
        let height = height.max(1).unsigned_abs();
        Self { height, rgb: vec![0; 3 * (WIDTH * height * SUPERSAMPLING * SUPERSAMPLING) as usize] }
    }

    pub fn draw(&mut self, draw: impl FnOnce(&Surface) -> Result<(), PlotError>) -> Result<(), PlotError> {
        let size = (WIDTH * SUPERSAMPLING, self.height * SUPERSAMPLING);
        let surface = BitMapBackend::with_buffer(&mut self.rgb, size).into_drawing_area();
        draw(&surface)?;
        Ok(surface.present()?)
    }

    pub fn to_png(&self) -> Result<Vec<u8>, PlotError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, WIDTH, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.averaged())?;
        writer.finish()?;
        Ok(file)
    }

    fn averaged(&self) -> Vec<u8> {
        let (width, side) = (WIDTH as usize, SUPERSAMPLING as usize);
        let row = 3 * width * side;
        let mut pixels = Vec::with_capacity(3 * width * self.height as usize);
        for y in 0..self.height as usize {
            for x in 0..width {
                for channel in 0..3 {
                    let first = y * side * row + x * side * 3 + channel;
                    let square = (0..side * side).map(|n| first + n / side * row + n % side * 3);
                    let sum: usize = square.map(|at| usize::from(self.rgb[at])).sum();
                    pixels.push((sum / (side * side)) as u8);
                }
            }
        }
        pixels
    }
}
