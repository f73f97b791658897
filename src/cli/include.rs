//! Files that a keepalived.conf includes, and what else it asks of its host.

use std::path::{Component, Path, PathBuf};

use crate::import::{Files, MAX_FILES};

/// Largest file that is read.
const LARGEST: u64 = 16 << 20;
/// Most patterns that one with braces stands for.
const MAX_PATTERNS: usize = 1000;

/// The host's disk and environment.
pub(super) struct Disk {
    /// The id that lines with `@id` are for.
    pub instance: String,
}

impl Disk {
    /// With the id that was given, or the first part of the host's name, as keepalived takes it.
    pub fn new(instance: Option<&str>) -> Disk {
        let host = || nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let first = |name: String| name.split('.').next().unwrap_or_default().to_owned();
        Disk { instance: instance.map_or_else(|| first(host()), str::to_owned) }
    }
}

impl Files for Disk {
    fn read(&mut self, from: &str, pattern: &str) -> Result<Vec<(String, String)>, String> {
        let base = Path::new(from).parent().unwrap_or(Path::new(""));
        let mut all = Vec::new();
        for pattern in braces(pattern)? {
            all.extend(find(&base.join(&pattern))?);
        }
        all.truncate(MAX_FILES + 1);
        if all.is_empty() {
            return Err("there is no such file".to_owned());
        }
        all.iter().map(|p| text(p)).collect()
    }
    fn instance(&self) -> String {
        self.instance.clone()
    }
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
    fn random(&mut self) -> u64 {
        // without random numbers there is none to be had, and any will do
        getrandom::u64().unwrap_or_default()
    }
}

fn text(path: &Path) -> Result<(String, String), String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > LARGEST {
        return Err(format!("{} is larger than {} MiB", path.display(), LARGEST >> 20));
    }
    let text = std::fs::read(path).map_err(|e| e.to_string())?;
    Ok((path.display().to_string(), String::from_utf8_lossy(&text).into_owned()))
}

/// `a{b,c{d,}}` as `ab`, `acd`, `ac`.
fn braces(pattern: &str) -> Result<Vec<String>, String> {
    let mut open = vec![pattern.to_owned()];
    let mut done = Vec::new();
    while let Some(one) = open.pop() {
        if open.len() + done.len() > MAX_PATTERNS {
            return Err(format!("it stands for more than {MAX_PATTERNS} patterns"));
        }
        let Some((start, end, commas)) = first_brace(&one) else {
            done.push(one);
            continue;
        };
        let mut from = start + 1;
        let mut parts = Vec::new();
        for to in commas.into_iter().chain([end]) {
            parts.push(format!("{}{}{}", &one[..start], &one[from..to], &one[end + 1..]));
            from = to + 1;
        }
        // the first one is next
        open.extend(parts.into_iter().rev());
    }
    Ok(done)
}

/// The first brace that is closed, its end, and the commas between that are its own.
fn first_brace(text: &str) -> Option<(usize, usize, Vec<usize>)> {
    let start = text.find('{')?;
    let (mut depth, mut commas) = (0, Vec::new());
    for (i, b) in text.bytes().enumerate().skip(start) {
        match b {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some((start, i, commas)),
            b'}' => depth -= 1,
            b',' if depth == 1 => commas.push(i),
            _ => {}
        }
    }
    None
}

/// The files that fit, in the order of their names. Without wildcards it is the file itself.
fn find(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = vec![PathBuf::new()];
    let mut wild = false;
    for part in pattern.components() {
        let word = part.as_os_str().as_encoded_bytes();
        if !matches!(part, Component::Normal(_)) || !word.iter().any(|b| b"*?[".contains(b)) {
            found.iter_mut().for_each(|p| p.push(part));
            continue;
        }
        wild = true;
        let mut next = Vec::new();
        for folder in found {
            let here = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
            // what is no folder, or may not be read, has nothing that fits
            let Ok(entries) = std::fs::read_dir(here) else { continue };
            for name in entries.flatten().map(|e| e.file_name()) {
                let bytes = name.as_encoded_bytes();
                // names that begin with a dot are hidden from wildcards
                if (bytes[0] != b'.' || word[0] == b'.') && fits(word, bytes) {
                    next.push(folder.join(&name));
                }
            }
        }
        next.sort();
        next.truncate(MAX_FILES + 1);
        found = next;
    }
    if wild {
        found.retain(|p| p.is_file());
    } else if let Some(e) = found.first().and_then(|p| std::fs::metadata(p).err()) {
        return Err(e.to_string());
    }
    Ok(found)
}

/// `*` stands for any number of bytes, `?` for one, `[a-z]` and `[!a-z]` for one of these or of others.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        let one = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => match set(&pattern[p..], name[n]) {
                Some((true, len)) => Some(len),
                Some((false, _)) => None,
                None => (name[n] == b'[').then_some(1),
            },
            Some(c) => (*c == name[n]).then_some(1),
            None => None,
        };
        match (one, star) {
            (Some(len), _) => (p, n) = (p + len, n + 1),
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p.min(pattern.len())..].iter().all(|c| *c == b'*')
}

/// Is the byte in the set a pattern begins with, and the set's length; `None` when it is not closed.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let other = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = 1 + usize::from(other);
    // a bracket that comes first is one of the set
    let end = (first + 1..pattern.len()).find(|i| pattern[*i] == b']')?;
    let (mut i, mut is) = (first, false);
    while i < end {
        let range = i + 2 < end && pattern[i + 1] == b'-';
        let last = if range { pattern[i + 2] } else { pattern[i] };
        is |= (pattern[i]..=last).contains(&byte);
        i += if range { 3 } else { 1 };
    }
    Some((is != other, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name, is) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("a?c*", "abc", true),
            ("a?c*", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]x]", "]", true),
            ("[a", "[a", true),
            ("*[0-9].conf", "rs12.conf", true),
            ("", "x", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), is, "{pattern} {name}");
        }
    }

    #[test]
    fn braces_stand_for_each_of_their_parts() {
        assert_eq!(braces("a{b,c{d,}}e").unwrap(), ["abe", "acde", "ace"]);
        assert_eq!(braces("{foo/{,cat,dog},bar}").unwrap(), ["foo/", "foo/cat", "foo/dog", "bar"]);
        assert_eq!(braces("a{b").unwrap(), ["a{b"]);
        assert!(braces(&"{a,b}".repeat(30)).is_err());
    }

    #[test]
    fn files_are_found_from_the_folder_of_the_file_that_names_them() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("d1/b.conf", "b"), ("d1/a.conf", "a"), ("d2/c.conf", "c"), ("d2/.h.conf", "h")]
        {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let from = dir.path().join("keepalived.conf").display().to_string();
        let mut disk = Disk::new(Some("lb1"));
        let mut read = |pattern: &str| {
            let all = disk.read(&from, pattern)?;
            Ok::<_, String>(all.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(""))
        };
        assert_eq!(read("d?/*.conf").unwrap(), "abc");
        assert_eq!(read("{d2,d1}/[a-b]*").unwrap(), "ab");
        assert_eq!(read("d1/b.conf").unwrap(), "b");
        assert!(read("d3/*").is_err() && read("none").is_err());
        assert_eq!(disk.instance(), "lb1");
        assert!(!Disk::new(None).instance.contains('.'));
    }
}
