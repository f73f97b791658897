//! Plots: a bar for each way, a dot for each round.

use std::error::Error;
use std::path::Path;
use std::sync::Once;

use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::results::{Figure, Results};
use crate::stats::Summary;
use crate::table;

const WIDTH: u32 = 1000;
const ROW: i32 = 22;
const GAP: i32 = 12;
const TOP: i32 = 58;
const BOTTOM: i32 = 16;
/// Where bars begin, and where the longest ends.
const LEFT: i32 = 270;
const RIGHT: i32 = 860;

const SOFTLVS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const NULL: RGBColor = RGBColor(0x9e, 0xc1, 0xdb);
const KERNEL: RGBColor = RGBColor(0x77, 0x77, 0x77);
const PROXY: RGBColor = RGBColor(0xe0, 0x8a, 0x3c);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);

/// A bar.
struct Bar {
    label: String,
    color: RGBColor,
    all: Summary,
    values: Vec<f64>,
    /// The part of the bar that is shown darker.
    part: Option<f64>,
}

fn color(name: &str) -> RGBColor {
    let way = name.rsplit('/').next().unwrap_or(name);
    match way {
        "direct" | "route" | "dnat" => KERNEL,
        "haproxy" | "nginx" => PROXY,
        _ if way.starts_with("null") => NULL,
        _ => SOFTLVS,
    }
}

fn bars(results: &Results, wiring: &str, figure: &Figure) -> Vec<Bar> {
    let bar = |row: &crate::results::Row| {
        let all = results.summary(&row.name, figure)?;
        let values = results.series(&row.name, figure).into_values().map(|v| v / figure.per).collect();
        let part = Figure { value: "director", ..*figure };
        let part = (figure.value == "machine").then(|| results.summary(&row.name, &part)).flatten();
        Some(Bar {
            label: row.label.clone(),
            color: color(&row.name),
            all,
            values,
            part: part.map(|p| p.median),
        })
    };
    table::rows(results, wiring).into_iter().filter_map(bar).collect()
}

fn fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // a font that is no font would be an error of the crate that brings it: text is left out then
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
}

/// Draws a figure of all ways into a PNG; nothing when there is no number for it.
///
/// # Errors
/// The file cannot be written.
pub fn draw(results: &Results, figure: &Figure, file: &Path) -> Result<bool, Box<dyn Error>> {
    fonts();
    let groups: Vec<(&str, Vec<Bar>)> = table::WIRINGS
        .iter()
        .map(|(wiring, what)| (what.split(':').next().unwrap_or(what), bars(results, wiring, figure)))
        // the direct wire alone says nothing
        .filter(|(_, bars)| bars.len() > 1)
        .collect();
    let longest = groups.iter().flat_map(|(_, b)| b).map(|b| b.all.max).fold(0.0, f64::max);
    if groups.is_empty() || longest <= 0.0 {
        return Ok(false);
    }
    let height: i32 =
        groups.iter().map(|(_, b)| (b.len() as i32 + 1) * ROW + GAP).sum::<i32>() + TOP + BOTTOM;
    let area = BitMapBackend::new(file, (WIDTH, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: i32, h: HPos| {
        TextStyle::from(("sans-serif", size).into_font()).color(&INK).pos(Pos::new(h, VPos::Center))
    };
    let better = if figure.more_is_better { "more is better" } else { "less is better" };
    area.draw_text(&format!("{}, {}", figure.title, figure.unit), &text(22, HPos::Left), (14, 20))?;
    let mut note = format!("{better}; bar: median of {} rounds, dots: each round", results.run.rounds);
    if figure.value == "machine" {
        note += "; whole machine, dark: the director's processes";
    }
    area.draw_text(&note, &text(14, HPos::Left), (14, 43))?;
    let scale = |v: f64| LEFT + (v / longest * f64::from(RIGHT - LEFT)).round() as i32;
    let mut y = TOP;
    for (what, bars) in &groups {
        area.draw_text(what, &text(16, HPos::Left), (14, y + ROW / 2))?;
        y += ROW;
        for bar in bars {
            let middle = y + ROW / 2;
            area.draw_text(&bar.label, &text(15, HPos::Right), (LEFT - 8, middle))?;
            let fill = |to: f64, color: RGBColor| {
                Rectangle::new([(LEFT, y + 3), (scale(to), y + ROW - 4)], color.filled())
            };
            area.draw(&fill(bar.all.median, bar.color))?;
            if let Some(part) = bar.part {
                let dark = |c: u8| (u16::from(c) * 6 / 10) as u8;
                area.draw(&fill(part, RGBColor(dark(bar.color.0), dark(bar.color.1), dark(bar.color.2))))?;
            }
            for v in &bar.values {
                area.draw(&Circle::new((scale(*v), middle), 2, INK.filled()))?;
            }
            let label = format!("{:.1$}", bar.all.median, figure.digits);
            area.draw_text(&label, &text(15, HPos::Left), (scale(bar.all.max) + 8, middle))?;
            y += ROW;
        }
        y += GAP;
    }
    area.present()?;
    Ok(true)
}
