//! Words of a line: comments, quotes, escapes.

use std::iter::Peekable;
use std::str::Chars;

/// The line up to its comment: `#` and `!` begin one anywhere outside of double quotes.
pub(super) fn without_comment(text: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '#' | '!' if !quoted => return text[..i].trim_end(),
            _ => {}
        }
    }
    text
}

/// The words of a line without its comment; braces are words of their own, quotes keep words together and
/// belong to the word they touch.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut open = false;
    let mut chars = text.chars().peekable();
    let mut end = |word: &mut String, open: &mut bool| {
        if !word.is_empty() || *open {
            out.push(std::mem::take(word));
        }
        *open = false;
    };
    while let Some(c) = chars.next() {
        match c {
            '"' | '\'' => {
                open = true;
                while let Some(inner) = chars.next() {
                    match inner {
                        _ if inner == c => break,
                        '\\' => word.extend(escape(&mut chars)),
                        inner => word.push(inner),
                    }
                }
            }
            '{' | '}' => {
                end(&mut word, &mut open);
                word.push(c);
                end(&mut word, &mut open);
            }
            c if c.is_whitespace() => end(&mut word, &mut open),
            c => word.push(c),
        }
    }
    end(&mut word, &mut open);
    out
}

/// What a backslash in quotes stands for: `\n`, `\x41`, `\101`, `\cA`; any other character for itself.
fn escape(chars: &mut Peekable<Chars<'_>>) -> Option<char> {
    let c = chars.next()?;
    Some(match c {
        'a' => '\x07',
        'b' => '\x08',
        'E' => '\x1b',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'x' => return number(chars, 16, 2, 0),
        'c' => (chars.next()? as u8 & 0x1f).into(),
        '0'..='7' => return number(chars, 8, 2, c.to_digit(8)?),
        c => c,
    })
}

/// Up to `most` further digits, as a character.
fn number(chars: &mut Peekable<Chars<'_>>, radix: u32, most: usize, first: u32) -> Option<char> {
    let mut value = first;
    for _ in 0..most {
        let Some(digit) = chars.peek().and_then(|c| c.to_digit(radix)) else { break };
        value = value * radix + digit;
        chars.next();
    }
    char::from_u32(value & 0xff)
}

/// The parameters of a script, as they stand in one string: divided by blanks, kept together by quotes.
pub(super) fn parameters(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            _ if quote == Some(c) => quote = None,
            '\'' | '"' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && quote.is_none() => out.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_begin_anywhere_outside_of_quotes() {
        for (line, rest) in [
            ("real_server 10.0.0.1 80 { # web", "real_server 10.0.0.1 80 {"),
            ("! comment", ""),
            ("a#b", "a"),
            ("regex \"a#b!c\" # d", "regex \"a#b!c\""),
            ("a \\# b", "a \\# b"),
        ] {
            assert_eq!(without_comment(line), rest);
        }
    }

    #[test]
    fn words_quotes_and_braces() {
        assert_eq!(words("real_server 10.0.0.1 80 {"), ["real_server", "10.0.0.1", "80", "{"]);
        assert_eq!(words("group{"), ["group", "{"]);
        assert_eq!(words("misc_path \"/bin/x -a \\\"b c\\\"\""), ["misc_path", "/bin/x -a \"b c\""]);
        assert_eq!(words("abcd\" efg h jkl \"mnop"), ["abcd efg h jkl mnop"]);
        assert_eq!(words("'a \"b' \"\" \"it's\""), ["a \"b", "", "it's"]);
        assert_eq!(words(r#""\x41\102\t\\\q\cA"#), ["AB\t\\q\u{1}"]);
        assert!(words("  ").is_empty());
    }

    #[test]
    fn parameters_of_scripts_are_kept_together_by_quotes() {
        let text = r#"/etc/x.sh ' two words ' '\"s p\"' a'b c'd "" master"#;
        assert_eq!(parameters(text), ["/etc/x.sh", " two words ", "\"s p\"", "ab cd", "", "master"]);
        assert!(parameters(" ").is_empty());
    }
}
