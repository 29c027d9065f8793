//! What a program says while it works.

/// Says a line on standard error, as [`eprintln!`] does, which panics when nobody listens: a terminal that was closed or a
/// pipe whose reader has gone is no reason to end the work of hours.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stderr(), $($words)*);
    }};
}
