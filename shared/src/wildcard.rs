//! Names by pattern, as in a shell.

/// Whether `name` matches `pattern`, in which `*` stands for any characters and `?` for one.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else {
        return name.is_empty();
    };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '*' => (0..=name.len()).any(|at| name.is_char_boundary(at) && matches(rest, &name[at..])),
        _ => {
            let mut chars = name.chars();
            chars.next().is_some_and(|c| (first == '?' || first == c) && matches(rest, chars.as_str()))
        }
    }
}
