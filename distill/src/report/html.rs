//! Small pieces of HTML: everything that came from a file is escaped on its way in.

use std::fmt::Write;

pub(crate) use shared::html::escape;

/// A whole page that needs nothing else; title and body are HTML, made by the caller.
pub(crate) fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        include_str!("style.css")
    )
}

/// A table; the first cell of each row is its header. Cells are HTML, made by the caller.
pub(crate) fn table(caption: &str, head: &[String], rows: &[Vec<String>]) -> String {
    let mut html = format!("<div class=\"scroll\"><table><caption>{}</caption><thead><tr>", escape(caption));
    for cell in head {
        let _ = write!(html, "<th scope=\"col\">{cell}</th>");
    }
    html += "</tr></thead><tbody>\n";
    for row in rows {
        html += "<tr>";
        for (index, cell) in row.iter().enumerate() {
            let _ = match index {
                0 => write!(html, "<th scope=\"row\">{cell}</th>"),
                _ => write!(html, "<td>{cell}</td>"),
            };
        }
        html += "</tr>\n";
    }
    html + "</tbody></table></div>\n"
}

/// A share as a number and a bar behind it.
pub(crate) fn share(value: f64) -> String {
    let percent = value * 100.0;
    format!("<span class=\"share\" style=\"--share:{percent:.1}%\">{percent:.1} %</span>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_from_data_stays_text() {
        assert_eq!(escape("<b a=\"1\">&'"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;");
        let html = table("x < y", &["n".into()], &[vec![escape("<script>")]]);
        assert!(html.contains("x &lt; y") && html.contains("&lt;script&gt;") && !html.contains("<script>"));
    }
}
