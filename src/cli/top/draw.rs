//! A frame: the model as text in columns that fit.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as Cells, Sparkline, Table};

use super::model::{Model, Order, Row, View};

/// Keys, as the last line tells them; what does not fit is left out from the end.
const KEYS: &str = "q quit  1-3 views  \u{2191}\u{2193} enter esc  t sums  space hold  \
    order: a)ctive i)nactive c)onns p)kts b)ytes w)eight n)ame o)riginal";
/// Least width of the first column.
const NAME: u16 = 20;

/// A column: its head, width, order, and what stands in it.
struct Column {
    head: &'static str,
    width: u16,
    order: Order,
    of: fn(&Model, &Row) -> u64,
}

/// In the order of the screen.
const COLUMNS: [Column; 8] = [
    Column { head: "weight", width: 7, order: Order::Weight, of: |_, r| r.weight },
    Column { head: "active", width: 7, order: Order::Active, of: |_, r| r.active },
    Column { head: "inact", width: 7, order: Order::Inactive, of: |_, r| r.inactive },
    Column { head: "conns", width: 7, order: Order::Traffic(0), of: |m, r| m.traffic(r)[0] },
    Column { head: "pkts in", width: 8, order: Order::Traffic(1), of: |m, r| m.traffic(r)[1] },
    Column { head: "pkts out", width: 8, order: Order::Traffic(2), of: |m, r| m.traffic(r)[2] },
    Column { head: "bytes in", width: 8, order: Order::Traffic(3), of: |m, r| m.traffic(r)[3] },
    Column { head: "bytes out", width: 9, order: Order::Traffic(4), of: |m, r| m.traffic(r)[4] },
];
/// Places in [`COLUMNS`], the dearest first: the last ones go when there is no room.
const DEAR: [usize; 8] = [1, 3, 4, 5, 0, 2, 6, 7];

/// Draws a frame.
pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    let [head, body, keys] =
        Layout::vertical([Constraint::Length(3), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    frame.render_widget(Paragraph::new(heading(model)), head);
    match model.view {
        View::Services | View::Reals => table(frame, body, model),
        View::Rates => rates(frame, body, model),
    }
    frame.render_widget(Paragraph::new(KEYS).style(dim(model)), keys);
}

fn dim(model: &Model) -> Style {
    if model.colour { Style::new().fg(Color::DarkGray) } else { Style::new() }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn heading(model: &Model) -> Vec<Line<'static>> {
    let look = &model.look;
    let [connections, limit, templates] = look.connections.map(short);
    let [received, forwarded, dropped] = look.packets.map(short);
    let [conns, pin, pout, ..] = look.rates.map(short);
    let workers = format!("{} worker{}", look.workers, if look.workers == 1 { "" } else { "s" });
    let mut views: Vec<Span<'static>> = Vec::new();
    for (i, (view, name)) in View::ALL.into_iter().enumerate() {
        let style = if view == model.view { bold().add_modifier(Modifier::REVERSED) } else { Style::new() };
        views.push(Span::styled(format!(" {} {name} ", i + 1), style));
    }
    if let Some(only) = &model.only {
        views.push(Span::raw(format!(" of {only}")));
    }
    if model.paused {
        views.push(Span::styled(" held", bold()));
    }
    if let Some(trouble) = &model.trouble {
        let style = if model.colour { bold().fg(Color::Red) } else { bold() };
        views.insert(0, Span::styled(format!("{trouble} "), style));
    }
    vec![
        Line::from(vec![
            Span::styled(format!("softlvs {}", look.version), bold()),
            Span::raw(format!("  {workers}  connections {connections} of {limit}  templates {templates}")),
        ]),
        Line::from(format!(
            "now {conns}/s new {pin}/s in {pout}/s out  packets received {received} forwarded {forwarded} \
             dropped {dropped}"
        )),
        Line::from(views),
    ]
}

/// Which columns fit beside the first one, in the order of the screen.
fn fitting(width: u16) -> Vec<&'static Column> {
    let mut left = width.saturating_sub(NAME);
    let mut chosen = Vec::new();
    for place in DEAR {
        let needs = COLUMNS[place].width + 1;
        if needs > left {
            break;
        }
        left -= needs;
        chosen.push(place);
    }
    chosen.sort_unstable();
    chosen.into_iter().map(|place| &COLUMNS[place]).collect()
}

fn table(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let columns = fitting(area.width);
    let arrow = if model.reversed { "\u{25b2}" } else { "\u{25bc}" };
    let name = if model.view == View::Services { "service" } else { "real server" };
    let by_name = if model.order == Order::Name { arrow } else { "" };
    let kind = if model.sums { "sums" } else { "a second" };
    let mut heads = vec![Cell::from(format!("{name}{by_name} ({kind})"))];
    for c in &columns {
        let mark = if c.order == model.order { arrow } else { "" };
        heads.push(Cell::from(right(format!("{mark}{}", c.head))));
    }
    let rows = model.rows();
    let room = usize::from(area.height.saturating_sub(1));
    // the marked row stays in sight
    let first = (model.marked + 1).saturating_sub(room);
    let lines = rows.iter().enumerate().skip(first).take(room).map(|(i, row)| {
        let mut cells = vec![Cell::from(title(model, row))];
        cells.extend(columns.iter().map(|c| Cell::from(right(short((c.of)(model, row))))));
        let mut style = Style::new();
        if row.is_out {
            style = if model.colour { style.fg(Color::Yellow) } else { style.add_modifier(Modifier::DIM) };
        }
        if i == model.marked {
            style = style.add_modifier(Modifier::REVERSED);
        }
        Cells::new(cells).style(style)
    });
    let mut widths = vec![Constraint::Fill(1)];
    widths.extend(columns.iter().map(|c| Constraint::Length(c.width)));
    let table = Table::new(lines, widths).header(Cells::new(heads).style(bold())).column_spacing(1);
    frame.render_widget(table, area);
    if rows.is_empty() && area.height > 1 {
        let below = Rect { y: area.y + 1, height: 1, ..area };
        frame.render_widget(Paragraph::new("there is none yet").style(dim(model)), below);
    }
}

fn title(model: &Model, row: &Row) -> String {
    match (&model.only, model.view) {
        (None, View::Reals) => format!("{} {} < {}", row.name, row.note, row.service),
        _ => format!("{} {}", row.name, row.note),
    }
}

fn right(text: String) -> Line<'static> {
    Line::from(text).alignment(Alignment::Right)
}

/// Curves of the director as a whole, drops by reason below.
fn rates(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    const CURVES: [&str; 6] = ["connections", "packets in", "packets out", "bytes in", "bytes out", "drops"];
    let curves = CURVES.len() as u16;
    // two lines a curve where there is room for some drops as well
    let high = if area.height >= 2 * curves + 3 { 2 } else { 1 };
    let [above, below] = Layout::vertical([Constraint::Max(high * curves), Constraint::Fill(1)]).areas(area);
    let label = 24.min(area.width / 2);
    for (i, name) in CURVES.iter().enumerate() {
        let y = above.y + high * i as u16;
        if y + high > above.bottom() {
            break;
        }
        let last = model.history.back().map_or(0, |h| h[i]);
        let words = Rect { y, height: 1, width: label, ..above };
        frame.render_widget(Paragraph::new(format!("{name:<12}{:>7}/s", short(last))), words);
        let curve = Rect { x: above.x + label, y, height: high, width: above.width - label };
        let room = usize::from(curve.width);
        let data: Vec<u64> =
            model.history.iter().skip(model.history.len().saturating_sub(room)).map(|h| h[i]).collect();
        let style = if model.colour { Style::new().fg(Color::Cyan) } else { Style::new() };
        frame.render_widget(Sparkline::default().data(data).style(style), curve);
    }
    let mut lines =
        vec![Line::styled(format!("{:<32}{:>9}{:>12}", "drops by reason", "a second", "sum"), bold())];
    if model.dropping.is_empty() {
        lines.push(Line::styled("none yet", dim(model)));
    }
    lines.extend(model.dropping.iter().map(|(reason, rate, sum)| {
        Line::from(format!("{reason:<32}{:>9}{:>12}", short(*rate), short(*sum)))
    }));
    frame.render_widget(Paragraph::new(lines), below);
}

/// A number in at most six characters, rounded down: 99999, 123K, 1.2M.
pub fn short(n: u64) -> String {
    if n < 100_000 {
        return n.to_string();
    }
    let mut unit = 1000;
    for letter in ["K", "M", "G", "T", "P"] {
        let whole = n / unit;
        if whole < 10 {
            return format!("{whole}.{}{letter}", n % unit * 10 / unit);
        }
        if whole < 1000 {
            return format!("{whole}{letter}");
        }
        unit = unit.saturating_mul(1000);
    }
    format!("{}E", n / 1_000_000_000_000_000_000)
}
