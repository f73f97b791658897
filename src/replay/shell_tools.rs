//! Programs that recorded sessions call beside `ipvsadm`, as far as they use them.

/// Runs one; `None` when it is not here.
///
/// # Errors
/// It is here, but not what was asked of it.
pub(super) fn run(
    program: &str,
    args: &[String],
    stdin: &str,
    open: &dyn Fn(&str) -> Option<String>,
    out: &mut String,
    err: &mut String,
) -> Result<Option<i32>, String> {
    let flags: Vec<&str> =
        args.iter().map(String::as_str).filter(|a| a.starts_with('-') && *a != "-").collect();
    let plain: Vec<&str> =
        args.iter().map(String::as_str).filter(|a| !a.starts_with('-') || *a == "-").collect();
    let mut code = 0;
    let mut input = |files: &[&str]| -> String {
        if files.is_empty() {
            return stdin.to_owned();
        }
        let mut all = String::new();
        for file in files {
            match *file {
                "-" => all.push_str(stdin),
                _ => match open(file) {
                    Some(text) => all.push_str(&text),
                    None => {
                        err.push_str(&format!("{program}: can't open '{file}': No such file or directory\n"));
                        code = 1;
                    }
                },
            }
        }
        all
    };
    match program {
        "echo" => {
            let bare = args.first().is_some_and(|a| a == "-n");
            out.push_str(&args[usize::from(bare)..].join(" "));
            if !bare {
                out.push('\n');
            }
        }
        "printf" => printf(args, out)?,
        "cat" => out.push_str(&input(&plain)),
        "wc" => {
            let text = input(&plain);
            match flags[..] {
                ["-l"] => out.push_str(&format!("{}\n", text.lines().count())),
                ["-c"] => out.push_str(&format!("{}\n", text.len())),
                _ => return Err("`wc` of another kind".to_owned()),
            }
        }
        "head" | "tail" => {
            let (number, files) = line_count(args)?;
            let text = input(&files);
            let lines: Vec<&str> = text.lines().collect();
            let n: usize =
                number.trim_start_matches('+').parse().map_err(|_| format!("`{program} {number}`"))?;
            let range = match (program, number.starts_with('+')) {
                ("head", _) => 0..n.min(lines.len()),
                (_, true) => n.saturating_sub(1).min(lines.len())..lines.len(),
                (_, false) => lines.len().saturating_sub(n)..lines.len(),
            };
            lines[range].iter().for_each(|l| line(out, l));
        }
        "sort" => {
            let text = input(&plain);
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            if flags.contains(&"-r") {
                lines.reverse();
            }
            if flags.contains(&"-u") {
                lines.dedup();
            }
            lines.iter().for_each(|l| line(out, l));
        }
        "uniq" => {
            let text = input(&plain);
            let mut lines: Vec<&str> = text.lines().collect();
            lines.dedup();
            lines.iter().for_each(|l| line(out, l));
        }
        "grep" => {
            let Some((pattern, files)) = plain.split_first() else {
                return Err("`grep` for nothing".to_owned());
            };
            let text = input(files);
            code = grep(pattern, &flags, &text, out)?;
        }
        "tr" => out.push_str(&translate(&plain, &flags, stdin)?),
        "seq" => {
            let numbers: Result<Vec<u32>, _> = plain.iter().map(|n| n.parse()).collect();
            let (from, to) = match numbers.map_err(|_| "`seq` of another kind")?[..] {
                [to] => (1, to),
                [from, to] => (from, to),
                _ => return Err("`seq` of another kind".to_owned()),
            };
            (from..=to).for_each(|n| line(out, &n.to_string()));
        }
        "diff" | "cmp" => {
            let [a, b] = plain[..] else { return Err(format!("`{program}` of another kind")) };
            if input(&[a]) != input(&[b]) {
                return Err(format!("`{program}` finds a difference"));
            }
        }
        "test" | "[" => code = test(&plain, &flags, args)?,
        _ => return Ok(None),
    }
    Ok(Some(code))
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// `-3`, `-n 3`, `-n3`, and the files.
fn line_count(args: &[String]) -> Result<(String, Vec<&str>), String> {
    let (mut number, mut files) = ("10".to_owned(), Vec::new());
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg.strip_prefix("-n").or_else(|| arg.strip_prefix('-')) {
            Some("") => number = args.next().ok_or("a number of lines is missing")?.to_owned(),
            Some(n) => number = n.to_owned(),
            None => files.push(arg),
        }
    }
    Ok((number, files))
}

/// A pattern of plain text, with `^` and `$` at its ends.
fn grep(pattern: &str, flags: &[&str], text: &str, out: &mut String) -> Result<i32, String> {
    let (start, rest) = pattern.strip_prefix('^').map_or((false, pattern), |p| (true, p));
    let (end, plain) = rest.strip_suffix('$').map_or((false, rest), |p| (true, p));
    let letters: String = flags.iter().map(|f| f.trim_start_matches('-')).collect();
    let has = |c| letters.contains(c);
    if !has('F') && plain.contains(['*', '[', '\\', '+', '(', '|'])
        || letters.contains(|c| !"cvqFEi".contains(c))
    {
        return Err(format!("`grep {} {pattern}`", flags.join(" ")));
    }
    let fold = |s: &str| if has('i') { s.to_lowercase() } else { s.to_owned() };
    let wanted = fold(plain);
    let hit = |l: &str| {
        let l = fold(l);
        match (start, end) {
            (true, true) => l == wanted,
            (true, false) => l.starts_with(&wanted),
            (false, true) => l.ends_with(&wanted),
            (false, false) => l.contains(&wanted),
        }
    };
    let lines: Vec<&str> = text.lines().filter(|l| hit(l) != has('v')).collect();
    if has('c') {
        line(out, &lines.len().to_string());
    } else if !has('q') {
        lines.iter().for_each(|l| line(out, l));
    }
    Ok(i32::from(lines.is_empty()))
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some(other)) => out.push(other),
            (other, _) => out.push(other),
        }
    }
    out
}

fn translate(plain: &[&str], flags: &[&str], stdin: &str) -> Result<String, String> {
    let other = || Err("`tr` of another kind".to_owned());
    match (plain, flags) {
        ([from, to], []) => {
            let (from, to) = (unescape(from), unescape(to));
            if from.contains('-') && from.len() > 1 || from.contains('[') {
                return other();
            }
            let to: Vec<char> = to.chars().collect();
            let map = |c: char| match from.chars().position(|f| f == c) {
                Some(i) => to.get(i).or(to.last()).copied().unwrap_or(c),
                None => c,
            };
            Ok(stdin.chars().map(map).collect())
        }
        ([gone], ["-d"]) => {
            let gone = unescape(gone);
            Ok(stdin.chars().filter(|c| !gone.contains(*c)).collect())
        }
        ([many], ["-s"]) => {
            let many = unescape(many);
            let mut last = None;
            let keep = |c: &char| {
                let repeated = last == Some(*c) && many.contains(*c);
                last = Some(*c);
                !repeated
            };
            Ok(stdin.chars().filter(keep).collect())
        }
        _ => other(),
    }
}

fn printf(args: &[String], out: &mut String) -> Result<(), String> {
    let args = match args {
        [first, rest @ ..] if first == "--" => rest,
        all => all,
    };
    let [format, values @ ..] = args else { return Err("`printf` of nothing".to_owned()) };
    let format = unescape(format);
    let mut values = values.iter();
    loop {
        let mut taken = false;
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => match chars.next() {
                    Some('%') => out.push('%'),
                    Some('s' | 'd') => {
                        taken = true;
                        out.push_str(values.next().map_or("", String::as_str));
                    }
                    _ => return Err("`printf` of another kind".to_owned()),
                },
                c => out.push(c),
            }
        }
        if !taken || values.len() == 0 {
            return Ok(());
        }
    }
}

fn test(plain: &[&str], flags: &[&str], args: &[String]) -> Result<i32, String> {
    let plain: Vec<&str> = plain.iter().copied().filter(|w| *w != "]").collect();
    let number = |s: &str| s.parse::<i64>().map_err(|_| "`test` of another kind".to_owned());
    let yes = match (&plain[..], flags) {
        ([a, "=" | "==", b], []) => a == b,
        ([a, "!=", b], []) => a != b,
        ([a, b], ["-eq"]) => number(a)? == number(b)?,
        ([a, b], ["-ne"]) => number(a)? != number(b)?,
        ([a], ["-n"]) => !a.is_empty(),
        ([a], ["-z"]) => a.is_empty(),
        _ => return Err(format!("`test {}`", args.join(" "))),
    };
    Ok(i32::from(!yes))
}
