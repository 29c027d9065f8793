//! MMBench's TSV, its columns as its authors publish it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Row;

const HEADER: &str =
    "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tcomment\tsplit";

/// The file. No field needs quotes: none has a tab, a quote or a line break.
pub(super) fn file(rows: &[Row]) -> String {
    let mut text = format!("{HEADER}\n");
    for (index, row) in rows.iter().enumerate() {
        let image = row.pictures.first().map(|png| STANDARD.encode(png)).unwrap_or_default();
        let level = row.level.map_or("none".to_owned(), |level| format!("level {level}"));
        let index = index.to_string();
        let [a, b, c, d] = &row.choice.options;
        let fields = [
            &index,
            &row.question,
            "",
            a,
            b,
            c,
            d,
            row.choice.letter(),
            row.topic,
            &image,
            &row.id,
            &level,
            "",
            "test",
        ];
        text += &fields.join("\t");
        text.push('\n');
    }
    text
}
