//! Lines of `ipvsadm`, one command each, as `ipvsadm -R` reads them. Whatever is typed is answered or refused;
//! what is accepted is written by `-S` so that reading it makes the same services, and every listing can be
//! printed.

use softlvs::ipvsadm::list::{self, Source};
use softlvs::ipvsadm::{Baseline, Command, Names, Rates, apply, parse_named, proc};
use softlvs::svc::Catalog;

const HOSTS: &str = "10.1.0.1 vip v\n10.2.0.1 rs1\n::1 six\n";
const SERVICES: &str = "http 80/tcp www\ndomain 53/udp\n";
/// Lines of one input; more add nothing but time.
const LINES: usize = 64;

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let names = Names::read(HOSTS, SERVICES);
    let (mut catalog, mut zero, rates) = (Catalog::default(), Baseline::default(), Rates::default());
    for line in text.lines().take(LINES) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match parse_named(&words, &names) {
            Ok(Command::List(what)) => {
                let source = Source {
                    services: catalog.services(),
                    zero: &zero,
                    rates: &rates,
                    timeouts: &catalog.timeouts,
                    names: &names,
                };
                let listed = list::listing(source, &what);
                assert!(listed.is_some() || what.service.is_some(), "{line}");
            }
            Ok(command) => {
                let refused = apply(&command, &mut catalog, &mut zero).err();
                assert!(refused.is_none_or(|e| e.code == 255 && !e.text.is_empty()), "{line}");
            }
            Err(e) => assert!(matches!(e.code, 2 | 255) && !e.text.is_empty(), "{line}"),
        }
        catalog.commit();
    }
    let saved = list::rules(catalog.services(), None);
    let mut again = Catalog::default();
    for line in saved.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // a mark above 2^31 is printed as a negative number, which ipvsadm itself cannot read again; an empty
        // list of flags is printed as nothing
        let unreadable =
            words.windows(2).any(|w| w[0] == "-f" && w[1].starts_with('-')) || line.ends_with("-b ");
        if unreadable {
            return;
        }
        let command = parse_named(&words, &Names::default()).unwrap_or_else(|e| panic!("{line}: {e}"));
        apply(&command, &mut again, &mut zero).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    // ipvsadm compares addresses by a difference that wraps around, so the order of those far from each other
    // depends on the order they came in
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&list::rules(again.services(), None)), lines(&saved));
    proc::services(catalog.services());
}
