//! Reads a TOML tree against the table of keys: unknown keys and wrong types are reported on the way,
//! all of them, each at its place.

use toml::de::{DeTable, DeValue};

use super::diag::{At, Complaint, Place, Report, nearest};
use super::keys::{Key, Kind};

/// A table of the file whose keys are known.
pub struct View<'a> {
    keys: &'static [Key],
    table: &'a DeTable<'a>,
    /// Where the table is.
    pub place: Place,
}

impl<'a> View<'a> {
    /// Looks at a table: reports keys it must not have and values of the wrong type.
    pub fn open(keys: &'static [Key], table: &'a DeTable<'a>, place: Place, report: &mut Report) -> View<'a> {
        let view = View { keys, table, place };
        for (name, value) in view.table.iter() {
            let at = view.at(name.get_ref(), name.span());
            let Some(key) = keys.iter().find(|k| k.name == name.get_ref().as_ref()) else {
                let names = || keys.iter().filter(|k| !matches!(k.kind, Kind::Later(_))).map(|k| k.name);
                let help = match nearest(name.get_ref(), names()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("known keys here: {}", names().collect::<Vec<_>>().join(", ")),
                };
                report.error(&at, "unknown key", help);
                continue;
            };
            if let Kind::Later(instead) = key.kind {
                report.error(&at, "not available in this version", instead);
            } else if let Err(c) = fits(key, value.get_ref()) {
                report.error(&Place { span: Some(value.span()), ..at }, c.why, c.help);
            }
        }
        view
    }

    fn at(&self, key: &str, span: std::ops::Range<usize>) -> Place {
        let key =
            if self.place.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place.key) };
        Place { key, span: Some(span) }
    }

    /// The value of a key if it has the right type, with its place.
    fn value(&self, name: &str) -> Option<(&'a DeValue<'a>, Place)> {
        let key = self.keys.iter().find(|k| k.name == name);
        debug_assert!(key.is_some(), "`{name}` is not in the table of keys");
        let (_, value) = self.table.iter().find(|(k, _)| k.get_ref().as_ref() == name)?;
        fits(key?, value.get_ref()).ok()?;
        Some((value.get_ref(), self.at(name, value.span())))
    }

    /// Is the key there at all, right or wrong?
    pub fn has(&self, name: &str) -> bool {
        self.table.iter().any(|(k, _)| k.get_ref().as_ref() == name)
    }

    /// Where a key is.
    pub fn place_of(&self, name: &str) -> Place {
        let found = self.table.iter().find(|(k, _)| k.get_ref().as_ref() == name);
        found.map_or_else(|| self.place.clone(), |(k, _)| self.at(name, k.span()))
    }

    /// A string put through `parse`.
    pub fn text<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, Complaint>,
        report: &mut Report,
    ) -> Option<At<T>> {
        let (value, place) = self.value(name)?;
        parsed(value, place, parse, report)
    }

    /// A list of strings put through `parse`; bad ones are reported and left out.
    pub fn texts<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, Complaint>,
        report: &mut Report,
    ) -> Vec<At<T>> {
        let (items, place) = match self.value(name) {
            Some((DeValue::Array(items), place)) => (items, place),
            // where one is enough it need not stand in a list
            Some((value, place)) => return parsed(value, place, &parse, report).into_iter().collect(),
            None => return Vec::new(),
        };
        let at = |i: usize, span| Place { key: format!("{}[{i}]", place.key), span: Some(span) };
        items
            .iter()
            .enumerate()
            .filter_map(|(i, v)| parsed(v.get_ref(), at(i, v.span()), &parse, report))
            .collect()
    }

    /// A whole number; its range is checked already.
    pub fn int(&self, name: &str) -> Option<At<i64>> {
        let (value, place) = self.value(name)?;
        integer(value).map(|n| At::new(n, place))
    }

    /// `true` or `false`.
    pub fn bool(&self, name: &str) -> Option<At<bool>> {
        let (value, place) = self.value(name)?;
        value.as_bool().map(|b| At::new(b, place))
    }

    /// A table below this one.
    pub fn table(&self, name: &str, report: &mut Report) -> Option<View<'a>> {
        let Kind::Table(keys) = self.keys.iter().find(|k| k.name == name)?.kind else { return None };
        match self.value(name)? {
            (DeValue::Table(t), place) => Some(View::open(keys, t, place, report)),
            _ => None,
        }
    }

    /// The tables of `[[name]]`.
    pub fn tables(&self, name: &str, report: &mut Report) -> Vec<View<'a>> {
        let Some(Kind::Tables(keys)) = self.keys.iter().find(|k| k.name == name).map(|k| &k.kind) else {
            return Vec::new();
        };
        let Some((DeValue::Array(items), place)) = self.value(name) else { return Vec::new() };
        let mut out = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let place = Place { key: format!("{}[{i}]", place.key), span: Some(item.span()) };
            if let DeValue::Table(t) = item.get_ref() {
                out.push(View::open(keys, t, place, report));
            }
        }
        out
    }

    /// Keys and values of a table that is a map of the user's own keys.
    pub fn entries(&self, name: &str) -> Vec<(At<String>, At<&'a DeValue<'a>>)> {
        let Some((DeValue::Table(map), place)) = self.value(name) else { return Vec::new() };
        map.iter()
            .map(|(k, v)| {
                let key = format!("{}.{}", place.key, k.get_ref());
                (
                    At::new(k.get_ref().to_string(), Place { key: key.clone(), span: Some(k.span()) }),
                    At::new(v.get_ref(), Place { key, span: Some(v.span()) }),
                )
            })
            .collect()
    }
}

/// A string value put through `parse`, its complaint reported.
pub fn parsed<T>(
    value: &DeValue<'_>,
    place: Place,
    parse: impl Fn(&str) -> Result<T, Complaint>,
    report: &mut Report,
) -> Option<At<T>> {
    match parse(value.as_str()?) {
        Ok(v) => Some(At::new(v, place)),
        Err(c) => {
            report.error(&place, c.why, c.help);
            None
        }
    }
}

/// The number, if it is one and fits 64 bits.
pub fn integer(value: &DeValue<'_>) -> Option<i64> {
    let n = value.as_integer()?;
    i64::from_str_radix(n.as_str(), n.radix()).ok()
}

/// Checks type, choice and range of a value; forms of strings are left to their parsers.
fn fits(key: &Key, value: &DeValue<'_>) -> Result<(), Complaint> {
    let wrong = |expected: &str| {
        let mut help = String::new();
        if !key.example.is_empty() {
            help = format!("for example: {} = {}", key.name, key.example);
        }
        Err(Complaint::new(format!("expected {expected}, found {}", kind_of(value)), help))
    };
    match key.kind {
        Kind::Text(_) => match value {
            DeValue::String(_) => Ok(()),
            _ => wrong("a string"),
        },
        Kind::Choice(words) => match value {
            DeValue::String(s) => choice(s, words),
            _ => wrong("a string"),
        },
        Kind::Bool => match value {
            DeValue::Boolean(_) => Ok(()),
            _ => wrong("true or false"),
        },
        Kind::Int(low, high) => match value {
            DeValue::Integer(n) => match integer(value) {
                Some(n) if (low..=high).contains(&n) => Ok(()),
                _ => Err(Complaint::new(
                    format!("{n} is out of range"),
                    format!("{} is a whole number from {low} to {high}", key.name),
                )),
            },
            _ => wrong("a whole number"),
        },
        Kind::AutoOr(high) => match value {
            DeValue::String(s) if s == "auto" => Ok(()),
            DeValue::Integer(_) if integer(value).is_some_and(|n| (1..=high).contains(&n)) => Ok(()),
            _ => wrong("\"auto\" or a whole number from 1"),
        },
        Kind::TextOrTexts(_) if matches!(value, DeValue::String(_)) => Ok(()),
        Kind::Texts(_) | Kind::TextOrTexts(_) | Kind::Choices(_) => match value {
            DeValue::Array(items) => items.iter().try_for_each(|item| match (item.get_ref(), &key.kind) {
                (DeValue::String(s), Kind::Choices(words)) => choice(s, words),
                (DeValue::String(_), _) => Ok(()),
                (other, _) => wrong(&format!("a list of strings; {} in it is none", kind_of(other))),
            }),
            _ => wrong("a list of strings"),
        },
        Kind::Table(_) | Kind::Sysctl => match value {
            DeValue::Table(_) => Ok(()),
            _ => wrong("a table"),
        },
        Kind::Map(..) => match value {
            DeValue::Table(map) => map.iter().try_for_each(|(_, v)| match v.get_ref() {
                DeValue::String(_) => Ok(()),
                other => wrong(&format!("a table of strings; {} in it is none", kind_of(other))),
            }),
            _ => wrong("a table of strings"),
        },
        Kind::Tables(_) => match value {
            DeValue::Array(items) if items.iter().all(|i| i.get_ref().is_table()) => Ok(()),
            _ => Err(Complaint::new(
                format!("expected a list of tables, found {}", kind_of(value)),
                format!("begin each with a line [[{}]]", key.name),
            )),
        },
        Kind::Later(_) => Ok(()),
    }
}

fn choice(word: &str, words: &[&str]) -> Result<(), Complaint> {
    if words.contains(&word) {
        return Ok(());
    }
    let list = words.join(", ");
    let help = match nearest(word, words.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`? Known are: {list}"),
        None => format!("known are: {list}"),
    };
    Err(Complaint::new(format!("`{word}` is not known here"), help))
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
