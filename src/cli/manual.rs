//! `softlvs completions SHELL` and `softlvs man`: made from the definition of the command line.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _, ValueEnum};

use super::args::Cli;
use super::print;
use crate::failure::Failure;

const COMPLETIONS: &str = "\
Examples:
  softlvs completions bash
  softlvs completions zsh
  softlvs completions fish

Where they belong: bash ~/.local/share/bash-completion/completions/softlvs, zsh _softlvs in a folder of
$fpath, fish ~/.config/fish/completions/softlvs.fish.";

const MAN: &str = "\
Examples:
  softlvs man
  softlvs man explain
  softlvs man --folder man1";

/// Shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Options of `completions`.
#[derive(Args, Debug)]
#[command(after_help = COMPLETIONS)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Options of `man`.
#[derive(Args, Debug)]
#[command(after_help = MAN)]
pub struct ManArgs {
    /// Page of this command [default: of softlvs itself]
    #[arg(conflicts_with = "folder")]
    pub command: Option<String>,
    /// Write all pages into this folder
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Prints the completions.
///
/// # Errors
/// They cannot be written.
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "softlvs", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints a page, or writes all.
///
/// # Errors
/// There is no such command, or the pages cannot be written.
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    let pages = pages()?;
    if let Some(folder) = &args.folder {
        return write(folder, &pages);
    }
    let name = match args.command.as_deref() {
        None | Some("softlvs") => "softlvs".to_owned(),
        Some(command) => format!("softlvs-{}", command.replace(' ', "-")),
    };
    let page = pages.iter().find(|(n, _)| *n == name).ok_or_else(|| {
        let known: Vec<_> = pages.iter().filter_map(|(n, _)| n.strip_prefix("softlvs-")).collect();
        Failure::wrong(
            "softlvs man",
            format!("there is no command of the name in {name}"),
            format!("known are: {}", known.join(", ")),
        )
    })?;
    print(&page.1)
}

fn write(folder: &Path, pages: &[(String, String)]) -> Result<(), Failure> {
    let fail =
        |e: std::io::Error| Failure::run(format!("cannot write to {}", folder.display()), e.to_string(), "");
    std::fs::create_dir_all(folder).map_err(fail)?;
    for (name, page) in pages {
        std::fs::write(folder.join(format!("{name}.1")), page).map_err(fail)?;
    }
    Ok(())
}

/// A page for the program and one for every command below it, by name.
fn pages() -> Result<Vec<(String, String)>, Failure> {
    let mut all = Vec::new();
    let mut root = Cli::command();
    root.build();
    collect(&root, "softlvs".to_owned(), &mut all)
        .map_err(|e| Failure::run("cannot make the pages", e.to_string(), ""))?;
    Ok(all)
}

fn collect(command: &Command, name: String, all: &mut Vec<(String, String)>) -> std::io::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).render(&mut page)?;
    for below in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        collect(below, format!("{name}-{}", below.get_name()), all)?;
    }
    all.push((name, String::from_utf8_lossy(&page).into_owned()));
    Ok(())
}
