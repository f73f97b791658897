//! What `-h` and `-v` print, as recorded.

/// `ipvsadm -v`
pub const VERSION: &str = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)\n";
/// `ipvsadm -h`
pub const HELP: &str = include_str!("help.txt");
