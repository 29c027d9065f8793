//! From a scene to pixels, in whole numbers and without smoothing: the same bytes everywhere.

use image::{Rgb, RgbImage};

use super::glyphs::{self, DOTS, Glyph, dot_pixels, is_inked};
use super::{CELL_PIXELS, Colour, Figure, Object, PICTURE_PIXELS, Scene, Shape, Size};

/// The colour of a cell behind its object, in RGB.
pub const GROUND: [u8; 3] = [24, 24, 30];
/// The ticks on a cell's edges.
pub const TICK: [u8; 3] = [230, 230, 230];
/// A tick's length and width, in pixels.
const TICK_PIXELS: (u32, u32) = (8, 2);

/// The pure form of a colour. All are equally bright, so that a shape looks the same in each.
pub fn rgb(colour: Colour) -> [u8; 3] {
    match colour {
        Colour::Red => [250, 50, 60],
        Colour::Green => [50, 250, 60],
        Colour::Blue => [50, 60, 250],
        Colour::Yellow => [170, 170, 20],
        Colour::Purple => [170, 20, 170],
        Colour::Orange => [220, 120, 20],
    }
}

/// Half the width of an object, in pixels.
pub fn radius(size: Size) -> i32 {
    match size {
        Size::Small => 6,
        Size::Large => 10,
    }
}

/// The picture of a scene, [`PICTURE_PIXELS`] on each side.
pub fn render(scene: &Scene) -> RgbImage {
    let mut picture = RgbImage::from_fn(PICTURE_PIXELS, PICTURE_PIXELS, |x, y| Rgb(ground(x, y)));
    for object in &scene.objects {
        draw(object, &mut picture);
    }
    picture
}

/// The picture without objects. A tick on its left edge tells a cell's row, one on its top edge its
/// column: by how far along the edge it is.
pub fn ground(x: u32, y: u32) -> [u8; 3] {
    let (length, width) = TICK_PIXELS;
    let (in_x, in_y) = (x % CELL_PIXELS, y % CELL_PIXELS);
    let along = |pixel: u32, cell: u32| (2 + length * cell..2 + length * (cell + 1)).contains(&pixel);
    let left = in_x < width && along(in_y, y / CELL_PIXELS);
    let top = in_y < width && along(in_x, x / CELL_PIXELS);
    if left || top { TICK } else { GROUND }
}

fn draw(object: &Object, picture: &mut RgbImage) {
    let middle = |cell: u8| i32::from(cell) * CELL_PIXELS as i32 + CELL_PIXELS as i32 / 2;
    let (x0, y0) = (middle(object.column), middle(object.row));
    let pure = rgb(object.kind.colour);
    let ink = Rgb([0, 1, 2].map(|c| (i32::from(pure[c]) + object.tint[c]).clamp(0, 255) as u8));
    let mut dot = |dx: i32, dy: i32| picture.put_pixel((x0 + dx) as u32, (y0 + dy) as u32, ink);
    match object.kind.figure {
        Figure::Shape(shape) => draw_shape(shape, object.size, &mut dot),
        Figure::Digit(digit) => draw_glyph(&glyphs::digit(digit), object.size, &mut dot),
        Figure::Letter(letter) => draw_glyph(&glyphs::letter(letter), object.size, &mut dot),
    }
}

/// Inks a shape, pixel by pixel from the middle of its cell.
fn draw_shape(shape: Shape, size: Size, ink: &mut impl FnMut(i32, i32)) {
    let r = radius(size);
    for dy in -r..r {
        for dx in -r..r {
            if covers(shape, 2 * dx + 1, 2 * dy + 1, 2 * r) {
                ink(dx, dy);
            }
        }
    }
}

/// Inks a glyph, dot by dot, around the middle of its cell.
fn draw_glyph(glyph: &Glyph, size: Size, ink: &mut impl FnMut(i32, i32)) {
    let side = dot_pixels(size);
    let (width, height) = (DOTS.0 * side, DOTS.1 * side);
    for y in 0..height {
        for x in 0..width {
            if is_inked(glyph, y / side, x / side) {
                ink(x - width / 2, y - height / 2);
            }
        }
    }
}

/// Whether a shape of radius `r` covers the point (`x`, `y`) from its centre, all in half pixels.
pub fn covers(shape: Shape, x: i32, y: i32, r: i32) -> bool {
    let (across, down) = (x.abs(), y.abs());
    let distance = x * x + y * y;
    match shape {
        Shape::Circle => distance <= r * r,
        Shape::Ring => (r * r * 36 / 100..=r * r).contains(&distance),
        Shape::Square => across.max(down) <= r * 88 / 100,
        Shape::Diamond => across + down <= r,
        Shape::Cross => across.min(down) <= r * 30 / 100,
        Shape::Triangle => y <= r * 85 / 100 && 2 * across <= y + r,
    }
}
