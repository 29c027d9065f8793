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

/// The drawing of a `figure` element as a file of its own, with the page's colours; none where the figure is empty.
pub(crate) fn svg_file(figure: &str) -> Option<String> {
    let (_, drawing) = figure.split_once("<svg ")?;
    let (drawing, _) = drawing.split_once("</svg>")?;
    let (attributes, content) = drawing.split_once('>')?;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" {attributes}>\n<style>\n{}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"var(--card)\"/>\n{content}</svg>\n",
        include_str!("style.css")
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_figures_drawing_stands_alone() {
        let file =
            svg_file("<figure><figcaption>T</figcaption><svg role=\"img\"><g/></svg></figure>").unwrap();
        assert!(file.starts_with("<svg xmlns=") && file.ends_with("<g/></svg>\n"), "{file}");
        assert!(file.contains("--card") && !file.contains("figcaption>T"), "{file}");
        assert_eq!(svg_file(""), None);
    }

    #[test]
    fn markup_from_data_stays_text() {
        assert_eq!(escape("<b a=\"1\">&'"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;");
        let html = table("x < y", &["n".into()], &[vec![escape("<script>")]]);
        assert!(html.contains("x &lt; y") && html.contains("&lt;script&gt;") && !html.contains("<script>"));
    }
}
