//! The `softlvs` command.

#[global_allocator]
static MEMORY: softlvs::io::sys::huge::HugePages = softlvs::io::sys::huge::HugePages;

fn main() -> std::process::ExitCode {
    softlvs::cli::main(std::env::args_os())
}
