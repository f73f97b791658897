//! Body of the fuzz target `import`: bytes become a `keepalived.conf` (and, behind a zero byte, the file it
//! includes) or the output of `ipvsadm -S`. What comes out must be TOML, whatever came in.

use softlvs::config::check;
use softlvs::import::{self, Files};

struct Rest<'a>(&'a str);

impl Files for Rest<'_> {
    fn read(&mut self, _: &str, pattern: &str) -> Result<Vec<(String, String)>, String> {
        Ok(vec![(pattern.to_owned(), self.0.to_owned())])
    }
}

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (text, rest) = text.split_once('\0').unwrap_or((&text, ""));
    let imported = if import::is_ipvsadm(text) {
        import::from_ipvsadm(text, "fuzz")
    } else {
        import::from_keepalived(text, "fuzz", &mut Rest(rest))
    };
    for note in &imported.notes {
        assert!(!note.to_string().contains('\n'), "a note on several lines: {note:?}");
    }
    let whole = format!("{}{}", imported.port, imported.text);
    if let Err(all) = check(&whole, "fuzz") {
        for m in all {
            assert!(!m.help.contains("TOML"), "{m}\n{whole}");
        }
    }
}
