//! Frames as they stand on a terminal, and what keys do to them. `SOFTLVS_WRITE=1` writes the golden frames anew,
//! to be looked at before they are committed.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};
use serde_json::{Value, json};

use super::draw::{draw, short};
use super::model::{Action, Look, Model, Order, View};
use super::screen::{Meant, meant};
use crate::time::Mono;

fn real(address: &str, state: &str, weight: u64, active: u64, rate: u64) -> Value {
    json!({ "address": address, "mode": "nat", "state": state, "weight": weight, "active": active, "inactive": 7,
        "counters": { "connections": 1_234_567, "in_packets": 99_999, "out_packets": 1, "in_bytes": 5_000_000_000_u64,
                      "out_bytes": 2 },
        "rates": { "connections": rate, "in_packets": rate * 10, "out_packets": rate * 9, "in_bytes": rate * 1500,
                   "out_bytes": rate * 100_000 } })
}

fn look(at: u64, dropped: u64) -> Look {
    let status = json!({
        "version": "0.1.0", "workers": 2, "connections": 12, "connection_limit": 1_000_000, "templates": 3,
        "packets": { "received": 123_456, "forwarded": 120_000, "dropped": dropped },
        "rates": { "connections": 30, "in_packets": 300, "out_packets": 270, "in_bytes": 45_000, "out_bytes": 3_000_000 },
        "service_list": [
            { "id": "tcp/192.0.2.10:80", "name": "web", "scheduler": "wlc",
              "counters": { "connections": 10 }, "rates": { "connections": 30, "in_packets": 300, "out_packets": 270 },
              "reals": [real("10.0.0.11:80", "up", 1, 5, 10), real("10.0.0.12:80", "inhibited", 0, 9, 20)] },
            { "id": "udp/[2001:db8::10]:53", "name": "bad\u{1b}[2J", "scheduler": "rr",
              "counters": { "connections": 99 }, "rates": {}, "reals": [real("[2001:db8::11]:53", "up", 3, 6, 0)] },
        ],
    });
    let counters = json!({ "drops": { "no_dest": dropped, "short_frame": 4, "ttl": 0 } });
    Look::read(Mono::from_millis(at), &status, &counters)
}

fn model() -> Model {
    let mut model = Model::default();
    model.take(look(1000, 100));
    model.take(look(3000, 150));
    model
}

fn frame(model: &Model, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|f| draw(f, model)).unwrap();
    terminal
}

/// The frame as lines, without blanks at their ends.
fn text(model: &Model, width: u16, height: u16) -> String {
    let terminal = frame(model, width, height);
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    for y in 0..height {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn golden(name: &str, shown: &str) {
    let file = format!("{}/src/cli/top/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("SOFTLVS_WRITE").is_some() {
        std::fs::write(&file, shown).unwrap();
    }
    assert_eq!(shown, std::fs::read_to_string(file).unwrap(), "{name}");
}

fn press(model: &mut Model, keys: &[KeyCode]) {
    for key in keys {
        match meant(KeyEvent::new(*key, KeyModifiers::NONE)) {
            Meant::Act(action) => model.act(action),
            other => panic!("{key:?} means {other:?}"),
        }
    }
}

use KeyCode::{BackTab, Backspace, Char, Down, End, Enter, Esc, Home, Tab, Up};

#[test]
fn services_real_servers_and_rates_look_like_this() {
    let mut model = model();
    golden("services", &text(&model, 120, 8));
    press(&mut model, &[Char('2')]);
    golden("reals", &text(&model, 120, 8));
    press(&mut model, &[Char('t'), Char('a')]);
    golden("reals-by-active", &text(&model, 120, 8));
    press(&mut model, &[Char('3')]);
    golden("rates", &text(&model, 80, 24));
}

#[test]
fn a_narrow_terminal_has_fewer_columns_and_no_terminal_is_too_small() {
    let mut model = model();
    golden("narrow", &text(&model, 60, 7));
    for view in View::ALL {
        model.act(Action::Show(view.0));
        for width in 1..130 {
            for height in 1..26 {
                frame(&model, width, height);
            }
        }
    }
}

#[test]
fn keys_order_rows_and_the_same_key_turns_the_order_round() {
    let mut model = model();
    press(&mut model, &[Char('2')]);
    let names = |m: &Model| m.rows().iter().map(|r| r.name.clone()).collect::<Vec<_>>();
    let (a, b, c) = ("10.0.0.11:80", "10.0.0.12:80", "[2001:db8::11]:53");
    for (key, wanted) in [
        (Char('a'), [b, c, a]),
        (Char('a'), [a, c, b]),
        (Char('a'), [b, c, a]),
        (Char('w'), [c, a, b]),
        (Char('c'), [b, a, c]),
        (Char('n'), [a, b, c]),
        (Char('n'), [c, b, a]),
        (Char('o'), [a, b, c]),
    ] {
        press(&mut model, &[key]);
        assert_eq!(names(&model), wanted, "{key:?}");
    }
    press(&mut model, &[Char('b')]);
    assert_eq!(model.order, Order::Traffic(3));
}

#[test]
fn a_service_opens_to_its_real_servers_and_back() {
    let mut model = model();
    press(&mut model, &[Down, Down, Down]);
    assert_eq!(model.marked, 1, "not beyond the last");
    press(&mut model, &[Enter]);
    assert_eq!(model.rows().len(), 1);
    assert!(text(&model, 100, 8).contains("of udp [2001:db8::10]:53"));
    press(&mut model, &[Esc]);
    assert_eq!((model.view, model.rows().len(), model.marked), (View::Services, 2, 0));
    press(&mut model, &[Tab, End]);
    assert_eq!((model.view, model.marked), (View::Reals, 2));
    press(&mut model, &[Home, Up, Backspace, Tab, Tab]);
    assert_eq!((model.view, model.marked), (View::Services, 0));
    assert_eq!(meant(KeyEvent::new(BackTab, KeyModifiers::NONE)), Meant::Nothing);
    for end in [KeyEvent::new(Char('q'), KeyModifiers::NONE), KeyEvent::new(Char('c'), KeyModifiers::CONTROL)]
    {
        assert_eq!(meant(end), Meant::End);
    }
}

#[test]
fn the_marked_row_is_in_sight_and_stays_within_rows_that_go_away() {
    let mut model = model();
    press(&mut model, &[Char('2'), End]);
    let shown = text(&model, 100, 6);
    assert!(shown.contains("[2001:db8::11]:53") && !shown.contains("10.0.0.12:80"), "{shown}");
    let mut next = look(4000, 150);
    next.reals.truncate(1);
    model.take(next);
    assert_eq!(model.marked, 0);
    model.take(Look { version: "0.1.0".into(), ..Look::default() });
    assert!(text(&model, 100, 8).contains("there is none yet"));
}

#[test]
fn a_held_picture_does_not_change_and_trouble_is_told() {
    let mut model = model();
    press(&mut model, &[Char(' ')]);
    let held = text(&model, 100, 8);
    assert!(held.contains(" held"), "{held}");
    model.take(look(9000, 9000));
    assert_eq!(text(&model, 100, 8), held);
    model.trouble = Some("cannot reach the director".into());
    assert!(text(&model, 100, 8).contains("cannot reach the director"));
    press(&mut model, &[Char(' ')]);
    model.take(look(10_000, 9000));
    assert_ne!(text(&model, 100, 8), held);
}

#[test]
fn drops_count_by_the_second_and_a_director_that_was_started_anew_is_no_surprise() {
    let mut model = model();
    // 50 more in two seconds
    assert_eq!(model.dropping, [("no dest".to_owned(), 25, 150), ("short frame".to_owned(), 0, 4)]);
    assert_eq!(model.history.back(), Some(&[30, 300, 270, 45_000, 3_000_000, 25]));
    model.take(look(4000, 0));
    assert_eq!(model.history.back().map(|h| h[5]), Some(0));
    for i in 0..500 {
        model.take(look(5000 + i, i));
    }
    assert_eq!(model.history.len(), 120);
}

#[test]
fn without_colour_there_is_none_and_what_is_out_is_told_apart_nevertheless() {
    let mut model = model();
    press(&mut model, &[Char('2')]);
    let cells = |m: &Model| frame(m, 100, 8).backend().buffer().content().to_vec();
    assert!(cells(&model).iter().all(|c| c.fg == Color::Reset && c.bg == Color::Reset));
    let out = |m: &Model| cells(m)[500].clone();
    assert!(out(&model).modifier.contains(Modifier::DIM), "{:?}", out(&model));
    model.colour = true;
    assert_eq!(out(&model).fg, Color::Yellow);
}

#[test]
fn numbers_are_short() {
    for (n, wanted) in [
        (0, "0"),
        (99_999, "99999"),
        (100_000, "100K"),
        (1_234_567, "1.2M"),
        (12_345_678, "12M"),
        (5_000_000_000, "5.0G"),
        (u64::MAX, "18E"),
    ] {
        assert_eq!(short(n), wanted);
    }
}
