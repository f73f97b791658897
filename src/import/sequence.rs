//! `~SEQ`, `~SEQx` and `~LST`: the rest of a line for each of several values.

/// Most values of one sequence.
const MOST: i64 = 200_000;

/// A block of values before the rest of its line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sequence<'a> {
    /// What is set, and to what each time.
    pub names: Vec<String>,
    pub values: Vec<Vec<String>>,
    /// The line for each of them.
    pub rest: &'a str,
}

/// The sequence a line begins with, if it does.
pub(super) fn read(text: &str) -> Option<Result<Sequence<'_>, &'static str>> {
    let (hexadecimal, list, inside) = if let Some(inside) = text.strip_prefix("~SEQ(") {
        (false, false, inside)
    } else if let Some(inside) = text.strip_prefix("~SEQx(") {
        (true, false, inside)
    } else {
        (false, true, text.strip_prefix("~LST(")?)
    };
    let Some((inside, rest)) = inside.split_once(')') else {
        return Some(Err("the bracket is not closed: left out"));
    };
    let rest = rest.trim();
    let made = if list { listed(inside) } else { counted(inside, hexadecimal) };
    Some(made.map(|(names, values)| Sequence { names, values, rest }))
}

type Made = Result<(Vec<String>, Vec<Vec<String>>), &'static str>;

/// `NAME, [FIRST, [STEP,]] LAST`
fn counted(inside: &str, hexadecimal: bool) -> Made {
    const FORM: &str = "it is not ~SEQ(NAME, FIRST, STEP, LAST): left out";
    let mut parts = inside.split(',').map(str::trim);
    let name = parts.next().filter(|n| !n.is_empty()).ok_or(FORM)?;
    let numbers: Option<Vec<i64>> = parts.map(number).collect();
    let (first, step, last) = match numbers.ok_or(FORM)?[..] {
        [last] => (if last < 0 { -1 } else { 1 }, None, last),
        [first, last] => (first, None, last),
        [first, step, last] => (first, Some(step), last),
        _ => return Err(FORM),
    };
    let step = step.unwrap_or(if last < first { -1 } else { 1 });
    let way = last.checked_sub(first).ok_or(FORM)?;
    if step == 0 || way / step >= MOST {
        return Err("it has no end: left out");
    }
    let count = if way != 0 && (way < 0) != (step < 0) { 0 } else { way / step + 1 };
    let write = |n: i64| match (hexadecimal, n < 0) {
        (false, _) => n.to_string(),
        (true, false) => format!("{n:x}"),
        (true, true) => format!("-{:x}", n.unsigned_abs()),
    };
    Ok((vec![name.to_owned()], (0..count).map(|i| vec![write(first + i * step)]).collect()))
}

/// As C writes them: `10`, `0x1f`, `-3`.
fn number(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |d| (-1, d));
    let n = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => i64::from(u32::from_str_radix(hex, 16).ok()?),
        None => i64::from(digits.parse::<u32>().ok()?),
    };
    Some(sign * n)
}

/// `NAME, A, B, ...` or `{NAME, NAME}, {A, B}, {C, D}, ...`
fn listed(inside: &str) -> Made {
    let mut groups = Vec::new();
    let mut rest = inside.trim();
    while !rest.is_empty() {
        let end = if rest.starts_with('{') {
            rest.find('}').map(|i| i + 1).ok_or("a brace is not closed: left out")?
        } else {
            rest.find(',').unwrap_or(rest.len())
        };
        let one = rest[..end].trim().trim_start_matches('{').trim_end_matches('}');
        groups.push(one.split(',').map(|v| v.trim().to_owned()).collect::<Vec<_>>());
        rest = rest[end..].trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    let mut groups = groups.into_iter();
    let names = groups.next().unwrap_or_default();
    let values: Vec<_> = groups.collect();
    if names.iter().any(String::is_empty) || values.is_empty() {
        return Err("it is not ~LST(NAME, VALUE, ...): left out");
    }
    if values.iter().any(|v| v.len() != names.len()) {
        return Err("there are not as many values as names: left out");
    }
    Ok((names, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        let s = read(text).unwrap().unwrap();
        assert_eq!(s.rest, "x");
        s.values.into_iter().map(|v| v.join("/")).collect()
    }

    #[test]
    fn sequences_count_as_documented() {
        assert_eq!(values("~SEQ(A, 0, 3) x"), ["0", "1", "2", "3"]);
        assert_eq!(values("~SEQ(A, 3) x"), ["1", "2", "3"]);
        assert_eq!(values("~SEQ(A, -2) x"), ["-1", "-2"]);
        assert_eq!(values("~SEQ(A, 5, 3) x"), ["5", "4", "3"]);
        assert_eq!(values("~SEQ(A,168,2,173) x"), ["168", "170", "172"]);
        assert_eq!(values("~SEQ(A, 1, -1, 5) x"), [""; 0]);
        assert_eq!(values("~SEQx(A, 0x90, 0x10, 0xc0)x"), ["90", "a0", "b0", "c0"]);
        assert_eq!(values("~SEQx(A, 0x12, -1, 0x10) x"), ["12", "11", "10"]);
        for wrong in
            ["~SEQ(A) x", "~SEQ(A, 1, 0, 3) x", "~SEQ(A, 1, 99999999) x", "~SEQ(A, b) x", "~SEQ(A, 1"]
        {
            assert!(read(wrong).unwrap().is_err(), "{wrong}");
        }
        assert!(read("real_server ~SEQ(A, 1)").is_none());
    }

    #[test]
    fn lists_may_set_several_names_at_once() {
        assert_eq!(values("~LST(A, 10.0.0.1,b ,c) x"), ["10.0.0.1", "b", "c"]);
        assert_eq!(values("~LST({A, B}, {10,1},{20, 4} , {5,6}) x"), ["10/1", "20/4", "5/6"]);
        for wrong in ["~LST(A) x", "~LST() x", "~LST({A, B}, {1}) x", "~LST({A, B, 1) x"] {
            assert!(read(wrong).unwrap().is_err(), "{wrong}");
        }
    }
}
