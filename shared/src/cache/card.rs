//! The dataset card: `README.md` with the header that the Hugging Face viewer expects.

use super::manifest::Manifest;

/// The card of a complete cache. It depends on the manifest alone, so that equal caches have equal cards.
pub(super) fn card(manifest: &Manifest) -> String {
    let totals = &manifest.totals;
    let format = &manifest.features;
    let about: String = manifest.about.iter().map(|(name, value)| format!("- {name}: {value}\n")).collect();
    let identity: String =
        manifest.fingerprint.fields.iter().map(|(name, value)| field(name, value)).collect();
    let error = manifest.lossy_error.as_ref().map(|error| format!("| error of the codec | {error} |\n"));
    let error = error.unwrap_or_default();
    format!(
        "---\n\
         pretty_name: Teacher features\n\
         tags:\n- genrecal\n- feature-cache\n- knowledge-distillation\n\
         configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n\
         ---\n\
         # Teacher features\n\n\
         The last-layer features of a vision-language teacher, one row per sample: `features[i]` is the vector of \
         token `positions[i]`, after the final norm. The teacher's logits are `features @ lm_head.weight.T`, with the \
         matrix in `head.safetensors`.\n\n\
         | | |\n|---|---|\n\
         | samples | {} |\n| rows in quarantine | {} |\n| teacher tokens | {} |\n| feature vectors | {} |\n\
         | width | {} |\n| number type | {}, {} |\n{error}\n\
         {about}\n\
         ## What they were made from\n\n| field | value |\n|---|---|\n{identity}\n\
         `manifest.json` lists every file with its BLAKE3 digest.\n",
        totals.samples,
        totals.quarantined,
        totals.tokens,
        totals.feature_rows,
        format.width,
        format.dtype,
        format.codec.coding().about(),
    )
}

/// A line of the table of what the cache was made from.
pub(super) fn field(name: &str, value: &str) -> String {
    format!("| {name} | `{value}` |\n")
}
