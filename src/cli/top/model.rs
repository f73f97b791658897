//! What the screen shows and how it is looked at: rows, their order, the place in them, the keys.

use std::cmp::Reverse;
use std::collections::VecDeque;

use serde_json::Value;

use crate::time::Mono;

/// Looks that the history holds: two minutes of seconds.
const HISTORY: usize = 120;
/// Names of the five counts of traffic, in the order of `ipvsadm --stats`.
const TRAFFIC: [&str; 5] = ["connections", "in_packets", "out_packets", "in_bytes", "out_bytes"];

/// One look at the director.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// When it was.
    pub at: Mono,
    /// Version of the director.
    pub version: String,
    /// Packet workers.
    pub workers: u64,
    /// Connections, the most there can be, templates of persistence.
    pub connections: [u64; 3],
    /// Packets received, forwarded, dropped.
    pub packets: [u64; 3],
    /// Connections, packets in and out, bytes in and out a second.
    pub rates: [u64; 5],
    /// Services.
    pub services: Vec<Row>,
    /// Real servers.
    pub reals: Vec<Row>,
    /// Drops by reason.
    pub drops: Vec<(String, u64)>,
}

/// A service or a real server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Its address.
    pub name: String,
    /// Of a real server: its service.
    pub service: String,
    /// Scheduler or forwarding method, and the state when it is not `up`.
    pub note: String,
    /// It does not take new connections.
    pub is_out: bool,
    /// Weight; of a service: of all its servers.
    pub weight: u64,
    /// Active and inactive connections.
    pub active: u64,
    /// See `active`.
    pub inactive: u64,
    /// Sums since the start.
    pub sums: [u64; 5],
    /// A second.
    pub rates: [u64; 5],
}

impl Look {
    /// From the answers of the director.
    pub fn read(at: Mono, look: &Value, counters: &Value) -> Look {
        let n = |v: &Value| v.as_u64().unwrap_or(0);
        let mut services = Vec::new();
        let mut reals = Vec::new();
        for s in look["service_list"].as_array().into_iter().flatten() {
            let name = word(&s["id"]).replacen('/', " ", 1);
            let own: Vec<Row> =
                s["reals"].as_array().into_iter().flatten().map(|d| real_row(d, &name)).collect();
            let sum = |of: fn(&Row) -> u64| own.iter().map(of).fold(0, u64::saturating_add);
            let called = word(&s["name"]);
            let note =
                [word(&s["scheduler"]), if called.is_empty() { called } else { format!("({called})") }];
            services.push(Row {
                name,
                note: note.join(" ").trim_end().to_owned(),
                is_out: !own.is_empty() && own.iter().all(|r| r.is_out),
                weight: sum(|r| r.weight),
                active: sum(|r| r.active),
                inactive: sum(|r| r.inactive),
                sums: traffic(&s["counters"]),
                rates: traffic(&s["rates"]),
                ..Row::default()
            });
            reals.extend(own);
        }
        let drops = counters["drops"].as_object().into_iter().flatten();
        Look {
            at,
            version: word(&look["version"]),
            workers: n(&look["workers"]),
            connections: ["connections", "connection_limit", "templates"].map(|k| n(&look[k])),
            packets: ["received", "forwarded", "dropped"].map(|k| n(&look["packets"][k])),
            rates: traffic(&look["rates"]),
            services,
            reals,
            drops: drops.map(|(reason, count)| (reason.replace('_', " "), n(count))).collect(),
        }
    }
}

fn real_row(d: &Value, service: &str) -> Row {
    let n = |v: &Value| v.as_u64().unwrap_or(0);
    let state = word(&d["state"]);
    let is_up = matches!(state.as_str(), "up" | "extra" | "");
    Row {
        name: word(&d["address"]),
        service: service.to_owned(),
        note: if is_up { word(&d["mode"]) } else { format!("{} {state}", word(&d["mode"])) },
        is_out: !is_up,
        weight: n(&d["weight"]),
        active: n(&d["active"]),
        inactive: n(&d["inactive"]),
        sums: traffic(&d["counters"]),
        rates: traffic(&d["rates"]),
    }
}

fn traffic(of: &Value) -> [u64; 5] {
    TRAFFIC.map(|name| of[name].as_u64().unwrap_or(0))
}

fn word(v: &Value) -> String {
    // a name may hold anything: nothing of it drives the terminal
    v.as_str().unwrap_or_default().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// A row for each service.
    #[default]
    Services,
    /// A row for each real server.
    Reals,
    /// The director as a whole over time, and its drops.
    Rates,
}

impl View {
    /// All of them with their names.
    pub const ALL: [(View, &str); 3] =
        [(View::Services, "Services"), (View::Reals, "Real servers"), (View::Rates, "Rates")];
}

/// What rows are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As the director lists them.
    #[default]
    Listed,
    /// Address.
    Name,
    /// Weight.
    Weight,
    /// Active connections.
    Active,
    /// Inactive connections.
    Inactive,
    /// One of the five counts of traffic.
    Traffic(usize),
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Shows another view.
    Show(View),
    /// Shows the next view.
    Next,
    /// Orders rows; the same again the other way round.
    Order(Order),
    /// Sums or rates.
    Sums,
    /// Holds the picture.
    Pause,
    /// Moves in the rows.
    Move(isize),
    /// Services: their real servers only. Real servers: all of them again.
    Enter,
    /// Leaves what `Enter` chose.
    Back,
}

/// Everything a frame is made of.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The last look.
    pub look: Look,
    /// Drops a second since the look before, by reason, the largest first.
    pub dropping: Vec<(String, u64, u64)>,
    /// Connections, packets in and out, bytes in and out, drops a second, look by look.
    pub history: VecDeque<[u64; 6]>,
    /// What is looked at.
    pub view: View,
    /// Order of the rows.
    pub order: Order,
    /// The other way round.
    pub reversed: bool,
    /// Sums instead of rates.
    pub sums: bool,
    /// The picture is held.
    pub paused: bool,
    /// Only real servers of this service.
    pub only: Option<String>,
    /// The row that is marked.
    pub marked: usize,
    /// Why there is no new look.
    pub trouble: Option<String>,
    /// Colours are used.
    pub colour: bool,
}

impl Model {
    /// Takes a look in.
    pub fn take(&mut self, look: Look) {
        self.trouble = None;
        if self.paused {
            return;
        }
        let before = std::mem::replace(&mut self.look, look);
        let look = &self.look;
        let passed = look.at.since(before.at).as_millis().max(1);
        // a director that was started anew counts from zero
        let a_second = |now: u64, then: u64| now.saturating_sub(then).saturating_mul(1000) / passed;
        let first = before.version.is_empty();
        let mut dropping = Vec::new();
        for (reason, count) in look.drops.iter().filter(|(_, count)| *count > 0) {
            let then = before.drops.iter().find(|(r, _)| r == reason).map_or(0, |(_, count)| *count);
            dropping.push((reason.clone(), if first { 0 } else { a_second(*count, then) }, *count));
        }
        dropping.sort_by_key(|(_, rate, count)| Reverse((*rate, *count)));
        self.dropping = dropping;
        let [c, pi, po, bi, bo] = look.rates;
        let drops = if first { 0 } else { a_second(look.packets[2], before.packets[2]) };
        self.history.push_back([c, pi, po, bi, bo, drops]);
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        self.marked = self.marked.min(self.rows().len().saturating_sub(1));
    }

    /// Does what a key says.
    pub fn act(&mut self, action: Action) {
        match action {
            Action::Show(view) => self.show(view),
            Action::Next => {
                let at = View::ALL.iter().position(|(v, _)| *v == self.view).unwrap_or(0);
                self.show(View::ALL[(at + 1) % View::ALL.len()].0);
            }
            Action::Order(order) => {
                self.reversed = self.order == order && !self.reversed;
                self.order = order;
            }
            Action::Sums => self.sums = !self.sums,
            Action::Pause => self.paused = !self.paused,
            Action::Move(by) => {
                let last = self.rows().len().saturating_sub(1);
                self.marked = self.marked.saturating_add_signed(by).min(last);
            }
            Action::Enter if self.view == View::Services => {
                let chosen = self.rows().get(self.marked).map(|r| r.name.clone());
                if chosen.is_some() {
                    self.show(View::Reals);
                    self.only = chosen;
                }
            }
            Action::Enter | Action::Back => {
                if self.only.take().is_some() {
                    self.view = View::Services;
                    self.marked = 0;
                }
            }
        }
    }

    fn show(&mut self, view: View) {
        self.view = view;
        self.only = None;
        self.marked = 0;
    }

    /// The rows of the view, in order.
    pub fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = match self.view {
            View::Services => self.look.services.iter().collect(),
            View::Reals => {
                let fits = |r: &&Row| self.only.as_ref().is_none_or(|only| *only == r.service);
                self.look.reals.iter().filter(fits).collect()
            }
            View::Rates => Vec::new(),
        };
        // large first, names from A
        match self.order {
            Order::Listed => {}
            Order::Name => rows.sort_by(|a, b| (&a.name, &a.service).cmp(&(&b.name, &b.service))),
            Order::Weight => rows.sort_by_key(|r| Reverse(r.weight)),
            Order::Active => rows.sort_by_key(|r| Reverse(r.active)),
            Order::Inactive => rows.sort_by_key(|r| Reverse(r.inactive)),
            Order::Traffic(i) => rows.sort_by_key(|r| Reverse(self.traffic(r)[i])),
        }
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// Sums or rates of a row, as chosen.
    pub fn traffic(&self, row: &Row) -> [u64; 5] {
        if self.sums { row.sums } else { row.rates }
    }
}
