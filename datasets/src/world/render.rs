//! From a scene to pixels, in whole numbers and without smoothing: the same bytes everywhere.

use image::{Rgb, RgbImage};

use super::{CELL_PIXELS, Colour, Object, PICTURE_PIXELS, Scene, Shape, Size};

/// The ground of a cell: redder to the right, bluer downwards.
pub fn ground(row: u8, column: u8) -> [u8; 3] {
    [16 + 24 * column, 16 + 12 * (row + column), 16 + 24 * row]
}

/// The pure form of a colour.
pub fn rgb(colour: Colour) -> [u8; 3] {
    match colour {
        Colour::Red => [214, 45, 45],
        Colour::Green => [46, 160, 67],
        Colour::Blue => [45, 90, 214],
        Colour::Yellow => [235, 205, 50],
        Colour::Purple => [140, 60, 180],
        Colour::Orange => [240, 130, 35],
    }
}

/// Half the width of an object, in pixels.
pub fn radius(size: Size) -> i32 {
    match size {
        Size::Small => 7,
        Size::Large => 12,
    }
}

/// The picture of a scene, [`PICTURE_PIXELS`] on each side.
pub fn render(scene: &Scene) -> RgbImage {
    let cell = |pixel: u32| (pixel / CELL_PIXELS) as u8;
    let mut picture =
        RgbImage::from_fn(PICTURE_PIXELS, PICTURE_PIXELS, |x, y| Rgb(ground(cell(y), cell(x))));
    for object in &scene.objects {
        draw(object, &mut picture);
    }
    picture
}

fn draw(object: &Object, picture: &mut RgbImage) {
    let middle = |cell: u8| i32::from(cell) * CELL_PIXELS as i32 + CELL_PIXELS as i32 / 2;
    let (x0, y0) = (middle(object.column) + object.offset.0, middle(object.row) + object.offset.1);
    let pure = rgb(object.kind.colour);
    let ink = Rgb([0, 1, 2].map(|c| (i32::from(pure[c]) + object.tint[c]).clamp(0, 255) as u8));
    let r = radius(object.size);
    for dy in -r..r {
        for dx in -r..r {
            if covers(object.kind.shape, 2 * dx + 1, 2 * dy + 1, 2 * r) {
                picture.put_pixel((x0 + dx) as u32, (y0 + dy) as u32, ink);
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
