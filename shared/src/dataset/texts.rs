//! Rows of `texts: [{user, assistant}]` with images and no placeholders, as in The Cauldron and FineVision: the images
//! belong before the first question.

use serde::Deserialize;

use super::format::{Content, Parsed, RowContext};
use super::images;
use super::turns::{Turns, spoken};

#[derive(Deserialize)]
struct Row {
    texts: Vec<Exchange>,
}

#[derive(Deserialize)]
struct Exchange {
    user: String,
    assistant: String,
}

/// The conversation and images of a row; the reason if it cannot be used.
pub(super) fn parse(content: &Content, context: &RowContext<'_>) -> Parsed {
    let row = Row::deserialize(&content.fields).map_err(|error| format!("is not a row of texts: {error}"))?;
    let listed = images::listed(content, context.image_root)?;
    let mut turns = Turns::default();
    for Exchange { user, assistant } in &row.texts {
        turns.push("user", spoken("user", user))?;
        turns.push("assistant", spoken("assistant", assistant))?;
    }
    turns.with_listed(listed, true)
}
