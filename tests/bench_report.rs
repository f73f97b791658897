//! Statistics, tables and plots of the end-to-end benchmark (`benches/e2e`), without measuring anything.
#![cfg(feature = "daemon")]
#![allow(missing_docs)]

#[path = "../benches/e2e/doc.rs"]
#[allow(dead_code)]
mod doc;
#[path = "../benches/e2e/plot.rs"]
#[allow(dead_code)]
mod plot;
#[path = "../benches/e2e/results.rs"]
#[allow(dead_code)]
mod results;
#[path = "../benches/e2e/stats.rs"]
#[allow(dead_code)]
mod stats;
#[path = "../benches/e2e/table.rs"]
#[allow(dead_code)]
mod table;
#[path = "../benches/e2e/load/wrk.rs"]
mod wrk;

mod example {
    use crate::results::*;

    /// Two ways, three rounds, one failure.
    pub fn results() -> Results {
        let row = |name: &str, label: &str, null: Option<&str>| Row {
            name: name.into(),
            wiring: name.split('/').next().unwrap_or_default().into(),
            label: label.into(),
            null: null.map(str::to_owned),
            ..Row::default()
        };
        let mut samples = Vec::new();
        let mut add = |config: &str, workload: &str, round, values: &[(&str, f64)]| {
            let values = values.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
            samples.push(Sample {
                config: config.into(),
                workload: workload.into(),
                round,
                values,
                error: None,
            });
        };
        for (round, machine) in [(0, 1.0), (1, 0.5), (2, 1.1)] {
            for (config, share) in
                [("direct", 2.0), ("veth/dnat", 1.0), ("veth/null-packet", 0.95), ("veth/packet-nat", 0.9)]
            {
                let r = 10e9 * share * machine;
                add(config, "tcp1", round, &[("rate", r), ("machine", 400.0 / share), ("director", 100.0)]);
                add(config, "http-close", round, &[("rate", r / 1e6), ("machine", 80.0 / share)]);
                add(config, "packets", round, &[("rate", r / 4e4), ("lost", 0.0)]);
                add(config, "ping-pong", round, &[("awake_p50", 30.0 / share), ("p50", 30.0 / share)]);
            }
        }
        samples.push(Sample {
            config: "veth/packet-nat".into(),
            workload: "tcp8".into(),
            error: Some("iperf3: no answer".into()),
            ..Sample::default()
        });
        Results {
            machine: Machine { cpu: "Example".into(), cores: 2, ..Machine::default() },
            run: Run {
                date: "2026-01-02".into(),
                rounds: 3,
                seconds: 2.0,
                background: vec![0.02],
                ..Run::default()
            },
            configs: vec![
                row("direct", "direct wire", None),
                row("veth/dnat", "kernel DNAT (nftables)", None),
                Row {
                    skipped: Some("haproxy is not installed".into()),
                    ..row("veth/haproxy", "HAProxy, TCP mode", None)
                },
                row("veth/null-packet", "null forwarder, packet", None),
                row("veth/packet-nat", "softlvs nat, packet", Some("veth/null-packet")),
            ],
            samples,
            idle: Some(Idle {
                connections: 1_000_000,
                seconds: 30.0,
                share: 0.0004,
                memory_mib: 130.0,
                bytes_each: 110.0,
            }),
        }
    }
}

mod stats_tests {
    use crate::stats::*;

    fn series(values: &[f64]) -> Series {
        values.iter().enumerate().map(|(i, v)| (i as u32, *v)).collect()
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        let odd = Summary::of([9.0, 1.0, 5.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max, odd.n), (5.0, 1.0, 9.0, 3));
        assert_eq!(Summary::of([4.0, 1.0, 2.0, 100.0]).unwrap().median, 3.0);
        assert_eq!(Summary::of([]), None);
        assert_eq!(Summary::of([f64::NAN, 7.0]).unwrap().n, 1);
    }

    #[test]
    fn the_spread_is_a_share_of_the_median() {
        assert_eq!(Summary::of([8.0, 10.0, 12.0]).unwrap().spread(), 0.4);
        assert_eq!(Summary::of([0.0]).unwrap().spread(), 0.0);
    }

    #[test]
    fn ratios_are_taken_round_by_round_so_that_a_slow_round_does_not_count() {
        let (a, b) = (series(&[9.0, 4.5, 9.0]), series(&[10.0, 5.0, 10.0]));
        let r = ratios(&a, &b).unwrap();
        assert!((r.median - 0.9).abs() < 1e-9 && r.spread() < 1e-9, "{r:?}");
    }

    #[test]
    fn rounds_that_only_one_series_has_are_left_out() {
        let mut a = series(&[2.0, 3.0]);
        a.insert(7, 100.0);
        assert_eq!(ratios(&a, &series(&[1.0])).unwrap().n, 1);
        assert_eq!(ratios(&a, &Series::new()), None);
    }

    #[test]
    fn percentiles_of_a_sorted_series() {
        let v: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!((percentile(&v, 0.5), percentile(&v, 0.99), percentile(&v, 1.0)), (50.0, 99.0, 100.0));
        assert!(percentile(&[], 0.5).is_nan());
    }
}

mod results_tests {
    use crate::results::*;

    #[test]
    fn ratios_pair_rounds_and_failures_count_for_nothing() {
        let r = crate::example::results();
        let ratio = r.ratio("veth/packet-nat", "veth/dnat", &RATES[0]).unwrap();
        assert!((ratio.median - 0.9).abs() < 1e-9 && ratio.spread() < 1e-9);
        assert_eq!(r.summary("veth/dnat", &RATES[0]).unwrap().median, 10.0);
        assert!(r.summary("veth/packet-nat", &RATES[1]).is_none());
        assert_eq!(r.error("veth/packet-nat", "tcp8"), Some("iperf3: no answer"));
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let r = crate::example::results();
        let text = serde_json::to_string(&r).unwrap();
        let back: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }
}

mod wrk_tests {
    use crate::wrk::*;

    #[test]
    fn what_wrk_prints_is_read() {
        let text = "Running 1s test @ http://192.0.2.10:80/\n  1 threads and 32 connections\n  \
            Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.37ms  345.78us   5.16ms\n  \
            Latency Distribution\n     50%  950.00us\n     75%    1.42ms\n     90%    1.70ms\n     99%    2.52ms\n  \
            22761 requests in 1.10s, 27.00MB read\n  Socket errors: connect 0, read 3, write 1, timeout 0\n\
            Requests/sec:  20702.95\nTransfer/sec:     24.56MB\n";
        let got = read(text).unwrap();
        let want = Wrk { rate: 20702.95, requests: 22761.0, p50: 950.0, p99: 2520.0, failed: 4.0 };
        assert_eq!(got, want);
        assert_eq!(read("unable to connect"), None);
    }
}

mod page {
    use crate::example::results;
    use crate::results::{RATES, TIMES};
    use crate::{doc, plot, table};

    #[test]
    fn cells_show_median_spread_and_ratio_to_dnat() {
        let t = table::rates(&results(), "veth");
        let nat = t.lines().find(|l| l.contains("softlvs nat")).unwrap();
        assert!(nat.contains("| 9.0 (4.5 to 9.9) **0.90** | failed | - |"), "{nat}");
        assert!(t.lines().nth(2).unwrap().contains("direct wire | 20.0"), "{t}");
        assert!(!t.contains("HAProxy"), "{t}");
    }

    #[test]
    fn softlvs_is_held_against_the_null_forwarder_of_its_device() {
        let t = table::against_null(&results());
        assert_eq!(t.lines().count(), 3, "{t}");
        assert!(t.contains("0.95 (0.95 to 0.95)"), "{t}");
    }

    #[test]
    fn targets_are_judged_by_paired_medians_and_misses_are_marked() {
        let r = results();
        let nat = r.configs.iter().find(|c| c.name == "veth/packet-nat").unwrap();
        let met: Vec<(f64, bool)> = table::verdicts(&r, nat).iter().map(|v| (v.asked, v.met)).collect();
        assert_eq!(met, [(0.85, true), (1.0, false), (0.9, true), (2.0, true)]);
        let t = table::targets(&r);
        assert!(t.contains("| 0.90 | **0.90** (asked: 1) | - | - | 0.95 | 1.8 |"), "{t}");
    }

    #[test]
    fn the_page_names_what_was_left_out_and_what_failed() {
        let text = doc::text(&results(), &[(RATES[0], "tcp1.png".into())]);
        for part in [
            "- veth/haproxy: haproxy is not installed",
            "- veth/packet-nat, tcp8: iperf3: no answer",
            "![bulk TCP, 1 stream](performance/tcp1.png)",
            "1000000 connections: 130 MiB, 110 bytes",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("## One-arm"), "a wiring without ways has no section");
    }

    #[test]
    fn plots_are_drawn_where_there_are_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.png");
        assert!(plot::draw(&results(), &RATES[0], &file).unwrap());
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(bytes[..8], *b"\x89PNG\r\n\x1a\n");
        // width and height stand at fixed places of the first chunk: 1000 wide, four bars high
        assert_eq!(u32::from_be_bytes(bytes[16..20].try_into().unwrap()), 1000);
        assert_eq!(u32::from_be_bytes(bytes[20..24].try_into().unwrap()), 58 + 5 * 22 + 12 + 16);
        assert!(!plot::draw(&results(), &TIMES[3], &file).unwrap());
    }

    #[test]
    fn a_stored_run_is_rendered_into_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        doc::write(&results(), dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("performance.md")).unwrap();
        for name in ["tcp1.png", "http-close.png", "tcp1-cpu.png", "ping-pong-awake-p50.png"] {
            assert!(text.contains(name) && dir.path().join("performance").join(name).is_file(), "{name}");
        }
    }
}
