//! Definitions of `keepalived.conf` and what stands for them: `$NAME=VALUE`, `$NAME`, `${NAME}`,
//! `${_ENV NAME}`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use super::lex::Files;

/// Most substitutions in one line.
const SUBSTITUTIONS: usize = 1000;
/// Longest line after substitution.
const LONGEST: usize = 64 * 1024;
/// Largest `${_RANDOM}` where nothing else is said.
const RANDOM: u64 = 32_767;

/// Definitions by name, each of one line or several.
#[derive(Default)]
pub(super) struct Definitions(HashMap<String, Vec<String>>);

/// A line with its definitions put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// One line.
    Line(String),
    /// It was the name of a definition of several lines.
    Lines(String, Vec<String>),
}

impl Definitions {
    pub fn set(&mut self, name: &str, value: Vec<String>) {
        self.0.insert(name.to_owned(), value);
    }
    pub fn take(&mut self, name: &str) -> Option<Vec<String>> {
        self.0.remove(name)
    }

    /// Puts definitions in, those in their values too, until none is left.
    ///
    /// # Errors
    /// They have no end.
    pub fn put(&self, text: &str, file: &str, files: &mut dyn Files) -> Result<Put, String> {
        let mut text = text.to_owned();
        let mut from = 0;
        for _ in 0..SUBSTITUTIONS {
            let Some(at) = text[from..].find('$').map(|i| from + i) else { return Ok(Put::Line(text)) };
            let Some((name, end)) = reference(&text[at..]).map(|(name, len)| (name, at + len)) else {
                from = at + 1;
                continue;
            };
            let whole = at == 0 && end == text.len();
            let value: Cow<'_, str> = match (predefined(name, file, files), self.0.get(name)) {
                (Some(value), _) => value,
                (None, Some(lines)) if lines.len() > 1 && whole => {
                    return Ok(Put::Lines(name.to_owned(), lines.clone()));
                }
                (None, Some(lines)) if lines.len() < 2 => lines.first().map_or("", String::as_str).into(),
                // a dollar of a regular expression or a password
                (None, _) => {
                    from = at + 1;
                    continue;
                }
            };
            let value = value.into_owned();
            text.replace_range(at..end, &value);
            if text.len() > LONGEST {
                return Err("it becomes too long with its definitions put in".to_owned());
            }
        }
        Err("definitions stand for each other without end".to_owned())
    }
}

/// `$NAME` before a blank, a comma, a bracket or the end, `${NAME}` or `${NAME PARAMETERS}` anywhere: what is
/// between, and its length.
fn reference(text: &str) -> Option<(&str, usize)> {
    let rest = text.strip_prefix('$')?;
    if let Some(inside) = rest.strip_prefix('{') {
        let len = inside.find('}')?;
        return is_name(inside[..len].split(' ').next()?).then_some((&inside[..len], len + 3));
    }
    let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let over = rest[len..].chars().next().is_none_or(|c| c.is_whitespace() || matches!(c, ',' | ')'));
    (over && is_name(&rest[..len])).then_some((&rest[..len], len + 1))
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What keepalived itself defines.
fn predefined<'a>(name: &str, file: &'a str, files: &mut dyn Files) -> Option<Cow<'a, str>> {
    let mut words = name.split_whitespace();
    Some(match words.next()? {
        "_HASH" => "#".into(),
        "_BANG" => "!".into(),
        "_PWD" => match Path::new(file).parent().and_then(Path::to_str) {
            Some("") | None => ".".into(),
            Some(folder) => folder.into(),
        },
        "_INSTANCE" => files.instance().into(),
        // what is not there is empty
        "_ENV" => files.variable(words.next()?).unwrap_or_default().into(),
        "_RANDOM" => {
            let mut number = || words.next().and_then(|w| w.parse::<u64>().ok());
            let (least, most) = (number().unwrap_or(0), number().unwrap_or(RANDOM));
            let count = most.saturating_sub(least).saturating_add(1);
            least.saturating_add(files.random() % count).to_string().into()
        }
        _ => return None,
    })
}

/// `$NAME=VALUE`
pub(super) fn definition(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.strip_prefix('$')?.split_once('=')?;
    is_name(name.trim_end()).then_some((name.trim_end(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host;

    impl Files for Host {
        fn read(&mut self, _: &str, _: &str) -> Result<Vec<(String, String)>, String> {
            Err("none".to_owned())
        }
        fn instance(&self) -> String {
            "lb1".to_owned()
        }
        fn variable(&self, name: &str) -> Option<String> {
            (name == "SITE").then(|| "west".to_owned())
        }
        fn random(&mut self) -> u64 {
            1_000_007
        }
    }

    #[test]
    fn definitions_have_names() {
        assert_eq!(definition("$VIP=10.0.0.1"), Some(("VIP", "10.0.0.1")));
        assert_eq!(definition("$EMPTY="), Some(("EMPTY", "")));
        for none in ["$VIP", "digest a=b", "$1=x", "$=x", "$A-B=x"] {
            assert_eq!(definition(none), None, "{none}");
        }
    }

    #[test]
    fn names_are_replaced_where_they_end_and_when_the_line_is_read() {
        let mut d = Definitions::default();
        d.set("BASE", vec!["10.2.${SUB}".into()]);
        d.set("SUB", vec!["0".into()]);
        d.set("EMPTY", Vec::new());
        d.set("MANY", vec!["a".into(), "b".into()]);
        let line = |text: &str| Ok(Put::Line(text.to_owned()));
        for (text, becomes) in [
            ("${BASE}.100/32", "10.2.0.100/32"),
            ("x $SUB, $SUB) $SUB", "x 0, 0) 0"),
            ("$SUB.1 ^a$ $UNKNOWN ${UNKNOWN} ${", "$SUB.1 ^a$ $UNKNOWN ${UNKNOWN} ${"),
            ("<$EMPTY >", "< >"),
            ("x $MANY", "x $MANY"),
            ("${_PWD}/${_INSTANCE}.${_ENV SITE}${_ENV NONE}${_HASH}${_BANG}", "/etc/k/lb1.west#!"),
            ("${_RANDOM 10 19} ${_RANDOM 5 5}", "17 5"),
        ] {
            assert_eq!(d.put(text, "/etc/k/a.conf", &mut Host), line(becomes), "{text}");
        }
        assert_eq!(
            d.put("$MANY", "a", &mut Host),
            Ok(Put::Lines("MANY".into(), vec!["a".into(), "b".into()]))
        );
        d.set("SUB", vec!["10".into()]);
        assert_eq!(d.put("${BASE}.1", "a", &mut Host), line("10.2.10.1"));
    }
}
