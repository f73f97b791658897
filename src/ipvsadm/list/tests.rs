use super::*;
use crate::ipvsadm::parse::Command;
use crate::ipvsadm::{apply, parse};
use crate::svc::Catalog;

fn catalog(lines: &[&str]) -> Catalog {
    let (mut c, mut zero) = (Catalog::default(), Baseline::default());
    for line in lines {
        let words: Vec<_> = line.split_whitespace().collect();
        apply(&parse(&words).expect(line), &mut c, &mut zero).expect(line);
    }
    c
}

fn show(c: &Catalog, line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let Ok(Command::List(what)) = parse(&words) else { panic!("{line}") };
    let (zero, rates) = (Baseline::default(), Rates::default());
    let names = &Names::default();
    let source = Source { services: c.services(), zero: &zero, rates: &rates, timeouts: &c.timeouts, names };
    listing(source, &what).unwrap()
}

#[test]
fn plain_listing_as_recorded_in_cli_list_options() {
    let c = catalog(&[
        "-A -u 10.1.0.100:53 -s lblcr",
        "-a -u 10.1.0.100:53 -r 10.2.0.11:53 -g",
        "-A -t 10.1.0.100:80 -s wrr -p 600",
        "-a -t 10.1.0.100:80 -r 10.2.0.12:8080 -m -w 1",
        "-a -t 10.1.0.100:80 -r 10.2.0.11:80 -m -w 2 -x 100 -y 50",
        "-A -f 18 -6 -s rr -p 90 -M 64",
        "-A -f 17 -s sh -p -M 255.255.255.0",
        "-a -f 17 -r 10.2.0.13 -i",
        "-A -t [2001:db8:1::100]:443 -s mh -b mh-port,mh-fallback",
        "-a -t [2001:db8:1::100]:443 -r [2001:db8:2::11]:443 -m -w 5",
        "-A --sctp-service 10.1.0.100:9000 -s dh",
        "-A -u 10.1.0.100:5061 -s rr -o",
    ]);
    let text = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.1.0.100:80 wrr persistent 600
  -> 10.2.0.11:80                 Masq    2      0          0         
  -> 10.2.0.12:8080               Masq    1      0          0         
UDP  10.1.0.100:53 lblcr
  -> 10.2.0.11:53                 Route   1      0          0         
UDP  10.1.0.100:5061 rr ops
SCTP 10.1.0.100:9000 dh
TCP  [2001:db8:1::100]:443 mh (mh-fallback,mh-port)
  -> [2001:db8:2::11]:443         Masq    5      0          0         
FWM  17 sh persistent 360 mask 255.255.255.0
  -> 10.2.0.13:0                  Tunnel  1      0          0         
FWM  18 IPv6 rr persistent 90 mask 64
";
    assert_eq!(show(&c, "-Ln"), text);
    assert!(
        show(&c, "-Ln --thresholds")
            .contains("\n  -> 10.2.0.11:80                 100        50         0          0         \n")
    );
    assert!(show(&c, "-Ln --tun-info").contains(
        "\n  -> 10.2.0.13:0                  Tunnel  ipip          1      0          0         \n"
    ));
    assert!(
        show(&c, "-Ln --stats")
            .contains("\nFWM  18 IPv6                             0        0        0        0        0\n")
    );
    assert!(show(&c, "-Ln -u 10.1.0.100:53").starts_with("Prot LocalAddress:Port Scheduler Flags\n"));
}

#[test]
fn order_of_far_apart_addresses_is_that_of_the_recorded_command() {
    let c = catalog(&[
        "-A -t 10.1.0.100:81 -s rr",
        "-A -t 0.0.0.0:80 -s rr",
        "-A -t 255.255.255.255:80 -s rr",
        "-A -t 224.0.0.1:80 -s rr",
        "-A -f 4294967295 -s rr",
        "-A -t [2001:db8::1]:80 -s rr",
        "-A -t [fe80::1]:80 -s rr",
    ]);
    let text = show(&c, "-Ln");
    let names: Vec<_> = text.lines().skip(3).map(|l| l.split_whitespace().nth(1).unwrap_or("")).collect();
    let want = [
        "-1",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "0.0.0.0:80",
        "10.1.0.100:81",
        "[fe80::1]:80",
        "[2001:db8::1]:80",
    ];
    assert_eq!(names, want);
}

#[test]
fn flags_of_every_scheduler_survive_saving_and_restoring() {
    let lines = [
        "-A -t 10.1.0.100:1 -s rr -b flag-1,flag-3",
        "-A -t 10.1.0.100:2 -s wlc -b flag-3,flag-2",
        "-A -t 10.1.0.100:3 -s mh -b flag-1,flag-2",
        "-A -t 10.1.0.100:4 -s sh -b sh-port",
    ];
    let c = catalog(&lines);
    let saved = rules(c.services(), None);
    assert_eq!(
        saved,
        "-A -t 10.1.0.100:1 -s rr -b flag-1,flag-3\n-A -t 10.1.0.100:2 -s wlc -b flag-2,flag-3\n\
         -A -t 10.1.0.100:3 -s mh -b mh-fallback,mh-port\n-A -t 10.1.0.100:4 -s sh -b sh-port\n"
    );
    let again = catalog(&saved.lines().collect::<Vec<_>>());
    assert_eq!(rules(again.services(), None), saved);
    let of = |c: &Catalog| c.services().iter().map(|s| (s.spec.flags, s.spec.flag3)).collect::<Vec<_>>();
    assert_eq!(of(&again), of(&c));
    // what ipvsadm's own lines lose or cannot say, ours keep
    let lines = [
        "-A -f 4294967295 -s dh",
        "-A -t 10.1.0.100:4 -s sh -b flag-3",
        "-A -t 10.1.0.100:5 -s mh -b flag-1,flag-3",
    ];
    let c = catalog(&lines);
    assert!(
        rules(c.services(), None).contains("-s sh -b \n")
            && rules(c.services(), None).contains("-b mh-fallback\n")
    );
    let saved = rules_with_thresholds(c.services());
    assert_eq!(of(&catalog(&saved.lines().collect::<Vec<_>>())), of(&c), "{saved}");
}

#[test]
fn large_numbers_are_shortened_unless_exact() {
    let shortened = numbers([99_999_999, 100_000_000, 1_000_000_000, 100_000_000_000, 0], false);
    assert_eq!(shortened, " 99999999  100000K    1000M     100G        0");
    assert_eq!(numbers([100_000_000, 0, 0, 0, 0], true), " 100000000        0        0        0        0");
}
