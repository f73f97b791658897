//! The configuration: from the text of a file, or the options of the command line, to a [`Plan`] that
//! can only hold what makes sense, or to every reason why not.
//!
//! `keys` lists the keys, `read` and `doc` turn text into values with their places, `check` holds the
//! rules, `plan` is the result, `apply` makes a running catalog of it. Nothing here opens a device or touches a file.

pub mod apply;
pub mod check;
pub mod diag;
pub mod doc;
pub mod doc_health;
pub mod keys;
mod keys_health;
pub mod plan;
mod read;
pub mod save;
mod save_health;
pub mod schema;
pub mod sysctl;
pub mod values;

pub use check::check;
pub use diag::{Diagnostic, Severity};
pub use plan::Plan;
