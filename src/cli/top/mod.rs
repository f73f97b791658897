//! `softlvs top`: what runs, again and again. On a terminal a screen with keys, elsewhere plain frames.
//!
//! `model` is what was asked and how it is looked at, `draw` makes a frame of it (both without a terminal),
//! `screen` has the terminal and the threads.

mod draw;
mod model;
mod screen;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;

use super::control::{Output, Which, look, table};
use super::error::Failure;
use super::{client, print};

/// Options of `top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// End after so many looks
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// How to print it; json is a document a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// `softlvs top`
///
/// # Errors
/// There is no director, or, but for the screen, it ends.
pub fn top(args: &TopArgs) -> Result<(), Failure> {
    let dumb = std::env::var("TERM").map_or(true, |term| term.is_empty() || term == "dumb");
    if args.output == Output::Text && std::io::stdout().is_terminal() && !dumb {
        return screen::run(args.which.control.clone(), Duration::from_secs(args.interval), args.count);
    }
    let mut left = args.count;
    loop {
        // anew each time: the director closes what is silent for long
        let look = look(&mut client::connect(args.which.control.as_deref())?)?;
        match args.output {
            Output::Json => print(&format!("{look}\n"))?,
            Output::Text => print(&table(&look, true))?,
        }
        left = left.map(|n| n.saturating_sub(1));
        if left == Some(0) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(args.interval));
    }
}
