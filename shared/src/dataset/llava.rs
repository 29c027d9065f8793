//! LLaVA rows: `{id, image, conversations: [{from: human | gpt | system, value}]}`, as in LLaVA-665k, LLaVA-NeXT and
//! Qwen's fine-tuning code (which writes `images`). Placeholders are the text `<image>`.

use serde::Deserialize;

use super::format::{Content, Parsed, RowContext};
use super::images;
use super::turns::{Turns, spoken};

#[derive(Deserialize)]
struct Row {
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    from: String,
    value: String,
}

/// The conversation and images of a row; the reason if it cannot be used.
pub(super) fn parse(content: &Content, context: &RowContext<'_>) -> Parsed {
    let row = Row::deserialize(&content.fields).map_err(|error| format!("is not a LLaVA row: {error}"))?;
    let listed = images::listed(content, context.image_root)?;
    let mut turns = Turns::default();
    turns.push_system_of(&content.fields)?;
    for turn in &row.conversations {
        // LLaVA's own loader drops an answer that nothing asked for.
        if !turns.skip_unasked(&turn.from) {
            turns.push(&turn.from, spoken(&turn.from, &turn.value))?;
        }
    }
    turns.with_listed(listed, context.prepend_image)
}
