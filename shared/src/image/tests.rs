//! Expected values are Pillow's, torchvision's and transformers': `tests/fixtures/make_inputs.py` wrote them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/inputs")
}

fn image_of(tensors: &SafeTensors<'_>, name: &str) -> RgbImage {
    let tensor = tensors.tensor(name).unwrap();
    let [height, width, 3] = tensor.shape() else { panic!("`{name}` has shape {:?}", tensor.shape()) };
    RgbImage { width: *width as u32, height: *height as u32, data: tensor.data().to_vec() }
}

#[test]
fn every_kind_of_file_decodes_to_pillows_pixels() {
    let bytes = fs::read(fixtures().join("decoded.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let mut wrong = Vec::new();
    for name in expected.names() {
        let encoded = fs::read(fixtures().join("images").join(name)).unwrap();
        match decode(&encoded) {
            Ok(image) if image == image_of(&expected, name) => {}
            Ok(image) => {
                let expected = image_of(&expected, name);
                let differ = image.data.iter().zip(&expected.data).map(|(a, b)| a.abs_diff(*b)).max();
                wrong.push(format!("{name}: {}x{}, off by {differ:?}", image.width, image.height));
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(expected.names().len() >= 30, "only {} files", expected.names().len());
}

#[test]
fn broken_files_are_errors_as_in_pillow() {
    for name in ["no_end.jpg", "half.jpg", "half.png", "text.png", "empty.jpg"] {
        let encoded = fs::read(fixtures().join("broken").join(name)).unwrap();
        assert!(decode(&encoded).is_err(), "{name} was decoded");
    }
    let half = fs::read(fixtures().join("broken/half.jpg")).unwrap();
    assert!(matches!(decode(&half), Err(ImageError::Truncated(_))));
}

/// What transformers' `load_image` makes of each file, as make_quirks.py wrote it down; none where it refuses.
#[derive(Deserialize)]
struct Outcome {
    size: (u32, u32),
    sha256: String,
}

#[test]
fn quirks_end_as_in_transformers() {
    let folder = fixtures().join("../quirks");
    let outcomes = fs::read(folder.join("outcomes.json")).unwrap();
    let outcomes: BTreeMap<String, Option<Outcome>> = serde_json::from_slice(&outcomes).unwrap();
    assert!(outcomes.len() >= 30, "only {} files", outcomes.len());
    let mut wrong = Vec::new();
    for (name, expected) in outcomes {
        let image = decode(&fs::read(folder.join(&name)).unwrap());
        match (image, expected) {
            (Err(_), None) => {}
            (Ok(image), Some(expected)) => {
                let same = (image.width, image.height) == expected.size;
                let sha256 = format!("{:x}", Sha256::digest(&image.data));
                if !same || sha256 != expected.sha256 {
                    wrong.push(format!("{name}: other pixels, {} x {}", image.width, image.height));
                }
            }
            (Ok(_), None) => wrong.push(format!("{name}: decoded, and transformers refuses it")),
            (Err(error), Some(_)) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn too_large_an_image_is_refused_by_its_header() {
    let encoded = fs::read(fixtures().join("images/rgb.bmp")).unwrap();
    let mut bomb = encoded.clone();
    // Width and height of a BMP, at bytes 18 and 22.
    bomb[18..22].copy_from_slice(&20_000_i32.to_le_bytes());
    bomb[22..26].copy_from_slice(&20_000_i32.to_le_bytes());
    assert!(matches!(decode(&bomb), Err(ImageError::TooLarge { width: 20_000, height: 20_000 })));
}

#[test]
fn resizing_equals_torchvisions() {
    let bytes = fs::read(fixtures().join("resized.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let source = image_of(&expected, "source");
    let filters = [
        ("bilinear", ResizeFilter::Bilinear),
        ("bicubic", ResizeFilter::Bicubic),
        ("lanczos", ResizeFilter::Lanczos),
    ];
    let mut num_compared = 0;
    for (filter_name, filter) in filters {
        for name in expected.names().into_iter().filter(|name| name.starts_with(filter_name)) {
            let target = image_of(&expected, name);
            let resized = resize(&source, target.width, target.height, filter).unwrap();
            assert!(resized == target, "{name} differs");
            num_compared += 1;
        }
    }
    assert_eq!(num_compared, 21);
}

#[derive(Deserialize)]
struct Sizes {
    smart_resize: Vec<[u32; 7]>,
    tile_grid: Vec<[u32; 7]>,
}

fn sizes() -> Sizes {
    serde_json::from_slice(&fs::read(fixtures().join("sizes.json")).unwrap()).unwrap()
}

#[test]
fn smart_resize_equals_transformers() {
    for case in sizes().smart_resize {
        let [factor, min_pixels, max_pixels, width, height, new_width, new_height] = case;
        let [factor, min_pixels, max_pixels] = [factor, min_pixels, max_pixels].map(|value| value as usize);
        let target = SmartResize { factor, min_pixels, max_pixels }.target(width, height);
        // The script writes 0 where transformers raises.
        let expected = (new_width > 0).then_some((new_width, new_height));
        assert_eq!(target.ok(), expected, "{case:?}");
    }
}

#[test]
fn tile_grids_equal_transformers() {
    for case in sizes().tile_grid {
        let [tile, min_tiles, max_tiles, width, height, columns, rows] = case;
        let tiling = Tiling {
            tile_width: tile,
            tile_height: tile,
            min_tiles: min_tiles as usize,
            max_tiles: max_tiles as usize,
            filter: ResizeFilter::Bicubic,
        };
        assert_eq!(tile_grid(width, height, &tiling), [rows as usize, columns as usize], "{case:?}");
    }
}

#[derive(Deserialize)]
struct Canvases {
    llava_next: Vec<[u32; 7]>,
    llava_onevision: Vec<[u32; 7]>,
    idefics3_364: Vec<[u32; 4]>,
    idefics3_512: Vec<[u32; 4]>,
}

/// As make_canvases.py wrote them.
fn canvases() -> Canvases {
    serde_json::from_slice(&fs::read(fixtures().join("canvases.json")).unwrap()).unwrap()
}

#[test]
fn canvases_and_token_counts_equal_transformers() {
    let next = AnyRes {
        canvases: vec![[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        tile_side: 336,
        patches_per_side: 24,
        max_tiles: None,
    };
    let onevision = AnyRes {
        canvases: (1..=6).flat_map(|rows| (1..=6).map(move |columns| [rows * 384, columns * 384])).collect(),
        tile_side: 384,
        patches_per_side: 27,
        max_tiles: Some(9),
    };
    for (tiling, cases) in [(next, canvases().llava_next), (onevision, canvases().llava_onevision)] {
        for case in cases {
            let [width, height, canvas_height, canvas_width, fitted_width, fitted_height, tokens] = case;
            let canvas = tiling.canvas(width, height);
            assert_eq!(canvas, [canvas_height, canvas_width], "{case:?}");
            let fitted = super::anyres::fitted(width, height, canvas);
            assert_eq!(fitted, (fitted_width, fitted_height), "{case:?}");
            let base = tiling.patches_per_side * tiling.patches_per_side;
            assert_eq!(base + tiling.patch_rows(width, height).num_tokens(), tokens as usize, "{case:?}");
        }
    }
}

#[test]
fn split_grids_equal_transformers() {
    for (tile_side, longest_edge, cases) in
        [(364, 4 * 364, canvases().idefics3_364), (512, 2048, canvases().idefics3_512)]
    {
        let splitting = Splitting { longest_edge, tile_side, is_on: true, filter: ResizeFilter::Lanczos };
        for [width, height, rows, columns] in cases {
            assert_eq!(splitting.grid(width, height), [rows, columns], "{width} x {height}");
        }
    }
}

#[test]
fn what_a_window_lacks_is_black_on_both_sides() {
    // Three columns of red 1, 2, 3: a window of two is the first two, one of six has one column left and two right.
    let image = RgbImage { width: 3, height: 1, data: vec![1, 0, 0, 2, 0, 0, 3, 0, 0] };
    let red = |image: &RgbImage| image.data.iter().step_by(3).copied().collect::<Vec<u8>>();
    assert_eq!(red(&centre_crop(&image, 2, 1)), [1, 2]);
    assert_eq!(red(&centre_crop(&image, 6, 1)), [0, 1, 2, 3, 0, 0]);
    assert_eq!((shorter_side(3, 2, 10), shorter_side(2, 3, 10)), ((15, 10), (10, 15)));
}

#[test]
fn patches_of_a_merge_window_lie_together() {
    // 4 x 4 pixels of which the red value counts from 0: with p = 1, m = 2, T = 2 the order can be written down.
    let data = (0..16).flat_map(|value| [value, 100, 200]).collect();
    let image = RgbImage { width: 4, height: 4, data };
    let layout = PatchLayout { patch_size: 1, merge_size: 2, temporal_patch_size: 2 };
    let identity = Normalization::new([0.0; 3], [1.0 / 255.0; 3], 1.0 / 255.0);
    let pixels = layout.cut(&image, &identity);
    let red: Vec<f32> = pixels.chunks(6).map(|patch| patch[0]).collect();
    assert_eq!(red, [0., 1., 4., 5., 2., 3., 6., 7., 8., 9., 12., 13., 10., 11., 14., 15.]);
    assert_eq!(pixels[6..12], [1., 1., 100., 100., 200., 200.]);
}

#[test]
fn cropping_takes_the_named_part() {
    let data = (0..12).flat_map(|value| [value; 3]).collect();
    let image = RgbImage { width: 4, height: 3, data };
    let part = crop(&image, 1, 1, 2, 2);
    assert_eq!(part, RgbImage { width: 2, height: 2, data: [5, 5, 5, 6, 6, 6, 9, 9, 9, 10, 10, 10].into() });
}
