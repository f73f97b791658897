//! The `softlvs` command.

fn main() -> std::process::ExitCode {
    softlvs::cli::main(std::env::args_os())
}
