//! Whether an answer says what a reference says: the rules by which `distill eval` grades and `extract answers` keeps
//! or drops a teacher's response.

mod choice;
mod conclusion;
mod metric;
mod normalise;
mod response;
mod says;

pub use choice::{choose, letter};
pub use metric::Metric;
pub use normalise::normalise;
pub use response::agrees;
