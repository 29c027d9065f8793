//! Whether an answer says what a reference says: the rules by which `distill eval` grades and `extract answers` keeps
//! or drops a teacher's response.

mod choice;
mod metric;
mod response;

pub use choice::{choose, letter};
pub use metric::{Metric, normalise};
pub use response::agrees;
