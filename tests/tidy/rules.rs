//! The rules: each takes a file and says what is wrong with it, in one line per finding.

use super::source::{Source, parts, words};

/// What a rule found.
pub type Findings = Vec<String>;

/// One room of the relay and the rooms it may import.
pub struct Room {
    name: &'static str,
    /// Separated by white space.
    imports: &'static str,
}

/// A line of the table of rooms.
pub const fn room(name: &'static str, imports: &'static str) -> Room {
    Room { name, imports }
}

/// Anything may be imported.
pub const ANY: &str = "*";

/// A room imports only what its line in the table allows.
pub fn imports(rooms: &[Room], file: &Source) -> Findings {
    let Some(name) = file.room() else { return Vec::new() };
    let Some(room) = rooms.iter().find(|room| room.name == name) else {
        return vec![format!("{}: the room {name} is not in the table of rooms", file.path)];
    };
    let code = file.code();
    let mut findings = Vec::new();
    for imported in imported_rooms(&code) {
        let allowed = room.imports == ANY
            || imported == name
            || room.imports.split_whitespace().any(|room| room == imported);
        if !allowed {
            findings.push(format!("{}: {name} must not import {imported}", file.path));
        }
    }
    // From a room's front door `super` is the crate: a way around the table.
    let front_door = file.path.matches('/').count() == 1 || file.path.ends_with("/mod.rs");
    if (front_door && code.contains("super::")) || code.contains("super::super::") {
        findings.push(format!("{}: name other rooms by crate::, not by super::", file.path));
    }
    findings
}

/// The table itself: every room is there, and the rooms have an order from the outside in.
pub fn table(rooms: &[Room], files: &[Source]) -> Findings {
    let mut findings: Findings = rooms
        .iter()
        .filter(|room| !files.iter().any(|file| file.room() == Some(room.name)))
        .map(|room| format!("the room {} is in the table and not in src", room.name))
        .collect();
    // Rooms whose imports are all placed are placed, until nothing changes.
    let mut placed: Vec<&str> = Vec::new();
    loop {
        let ready = |room: &&Room| {
            let mut imports = room.imports.split_whitespace();
            !placed.contains(&room.name) && imports.all(|r| r == ANY || placed.contains(&r))
        };
        let Some(next) = rooms.iter().find(ready) else { break };
        placed.push(next.name);
    }
    let circle = rooms.iter().filter(|room| !placed.contains(&room.name));
    findings.extend(circle.map(|room| format!("{} imports itself, or who does", room.name)));
    findings
}

/// The first segment of every `crate::` path.
fn imported_rooms(code: &str) -> Vec<&str> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let boundary = code[..at].chars().next_back();
        // `pub(crate)` has no `::`; `$crate::` and `other_crate::` are not ours.
        if boundary.is_some_and(|c| c == '$' || c == '_' || c.is_alphanumeric()) {
            continue;
        }
        let path = &code[at + "crate::".len()..];
        match path.strip_prefix('{') {
            None => rooms.extend(first_word(path)),
            Some(list) => rooms.extend(top_level_names(list)),
        }
    }
    rooms.retain(|room| room.starts_with(char::is_lowercase));
    rooms
}

fn first_word(path: &str) -> Option<&str> {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    (end > 0).then(|| &path[..end])
}

/// The first word of each element of `{a::b, c::{d, e}}`, after its opening brace.
fn top_level_names(list: &str) -> Vec<&str> {
    let (mut depth, mut from, mut names) = (1, 0, Vec::new());
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            names.extend(first_word(list[from..i].trim_start()));
            from = i + 1;
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Code that must be a function of its inputs: no await, no clock, no changing global.
pub fn purity(file: &Source) -> Findings {
    let code = file.code();
    let banned = [
        ".await",
        "async ",
        "Instant::now",
        "SystemTime",
        ".elapsed()",
        "static mut",
        "thread_local!",
        "OnceLock",
        "OnceCell",
        "Atomic",
        "Mutex",
        "RwLock",
        "std::env",
        "rand::",
    ];
    let mut findings = Vec::new();
    for (i, line) in code.lines().enumerate() {
        for word in banned.iter().filter(|word| line.contains(**word)) {
            let path = &file.path;
            findings.push(format!("{path}:{}: {} in code that must be pure", i + 1, word.trim()));
        }
    }
    findings
}

/// What a name may only be used by.
pub struct Confined {
    pub name: &'static str,
    pub why: &'static str,
    /// Beginnings of paths.
    pub to: &'static [&'static str],
}

/// A confined name stands nowhere else.
pub fn confinement(confined: &[Confined], file: &Source) -> Findings {
    let code = file.code();
    let mut findings = Vec::new();
    for rule in confined {
        if rule.to.iter().any(|path| file.path.starts_with(path)) {
            continue;
        }
        if let Some((line, _)) = words(&code).find(|(_, word)| *word == rule.name) {
            findings.push(format!("{}:{line}: {}: {}", file.path, rule.name, rule.why));
        }
    }
    findings
}

/// At most one file names this.
pub fn in_one_file(name: &str, files: &[Source]) -> Findings {
    let users: Vec<&str> = files
        .iter()
        .filter(|file| words(&file.code()).any(|(_, word)| word == name))
        .map(|file| file.path.as_str())
        .collect();
    if users.len() <= 1 { Vec::new() } else { vec![format!("{name} is named in {users:?}")] }
}

/// No names of what the relay has no place for, and no empty names.
pub fn names(file: &Source) -> Findings {
    const NO_HOOK: [&str; 5] = ["tap", "mirror", "middleware", "plugin", "observer"];
    const EMPTY: [&str; 4] = ["manager", "helper", "util", "impl"];
    let code = file.code();
    let mut findings = Vec::new();
    for (line, word) in words(&code) {
        let parts = parts(word);
        if parts.iter().any(|part| NO_HOOK.contains(&part.trim_end_matches('s'))) {
            findings.push(format!("{}:{line}: {word}: nothing here may be one", file.path));
        }
        let is_type = word.starts_with(char::is_uppercase);
        if is_type && parts.iter().any(|part| EMPTY.contains(&part.trim_end_matches('s'))) {
            findings.push(format!("{}:{line}: {word}: say what it is", file.path));
        }
    }
    findings
}

/// Nothing unfinished, and nothing that prints but where printing is the purpose.
pub fn unfinished(printing: &[&str], file: &Source) -> Findings {
    let code = file.code();
    let mut findings = Vec::new();
    let may_print = printing.iter().any(|path| file.path.starts_with(path));
    for (i, line) in code.lines().enumerate() {
        let mut found = |what: &str| findings.push(format!("{}:{}: {what}", file.path, i + 1));
        ["todo!", "unimplemented!", "dbg!"]
            .iter()
            .filter(|m| line.contains(**m))
            .for_each(|m| found(m));
        // print!, println!, eprint!, eprintln!
        if !may_print && (line.contains("print!") || line.contains("println!")) {
            found("prints");
        }
    }
    for (i, line) in file.text.lines().enumerate() {
        for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
            if words(line).any(|(_, word)| word == mark) {
                findings.push(format!("{}:{}: {mark}", file.path, i + 1));
            }
        }
        if line.trim_start().starts_with("#[ignore") {
            findings.push(format!("{}:{}: an ignored test", file.path, i + 1));
        }
    }
    findings
}

/// No log line receives a frame, a payload or a packet; a packet's name it may.
pub fn logs(file: &Source) -> Findings {
    const MACROS: [&str; 10] = [
        "trace!",
        "debug!",
        "info!",
        "warn!",
        "error!",
        "event!",
        "span!",
        "format!",
        "println!",
        "instrument",
    ];
    const KEPT_OUT: [&str; 5] = ["payload", "payloads", "frame", "frames", "packet"];
    let (shipped, code) = (file.shipped(), file.code());
    let mut findings = Vec::new();
    for name in MACROS {
        for (at, _) in code.match_indices(name) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let open = at + name.len();
            let len = arguments_len(&code[open..]);
            let line = code[..at].lines().count().max(1);
            // Names in code, and names that the format string itself takes.
            let in_code = &code[open..open + len];
            let passed = kept_out_words(in_code, &KEPT_OUT);
            let inlined = inlined_words(&shipped[open..open + len], &KEPT_OUT);
            if let Some(word) = passed.or(inlined) {
                findings.push(format!("{}:{line}: {name} receives {word}", file.path));
            }
        }
    }
    findings
}

/// The length of a parenthesised list at the start of the text; 0 if there is none.
fn arguments_len(code: &str) -> usize {
    let mut depth = 0;
    for (i, c) in code.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return if i == 0 { 0 } else { i + 1 };
        }
    }
    0
}

/// A kept-out word that is passed as a value: not as a field's name, and not only for its name or
/// length.
fn kept_out_words(arguments: &str, kept_out: &[&str]) -> Option<String> {
    for word in kept_out {
        for (at, _) in arguments.match_indices(word) {
            let is_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
            let after = &arguments[at + word.len()..];
            if arguments[..at].ends_with(is_of_a_word) || after.starts_with(is_of_a_word) {
                continue;
            }
            let after = after.trim_start();
            let a_field = after.starts_with('=') && !after.starts_with("==");
            let harmless = [".name()", ".len()", "."].iter().take(2).any(|m| after.starts_with(m));
            if !a_field && !harmless {
                return Some((*word).to_owned());
            }
        }
    }
    None
}

/// A kept-out word in the braces of a format string.
fn inlined_words(arguments: &str, kept_out: &[&str]) -> Option<String> {
    kept_out
        .iter()
        .find(|word| {
            [format!("{{{word}}}"), format!("{{{word}:")]
                .iter()
                .any(|p| arguments.contains(p.as_str()))
        })
        .map(|word| (*word).to_owned())
}

/// Files one can read in one go.
pub fn length(max: usize, longer: &[(&str, &str)], file: &Source) -> Findings {
    let lines = file.shipped().lines().count();
    let excused = longer.iter().any(|(path, _)| *path == file.path);
    if lines <= max || excused {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines without its tests; the limit is {max}", file.path)]
}

/// Nothing that is true on one machine only.
pub fn places(file: &Source) -> Findings {
    let places = [
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/wo", "rk/"),
        concat!("py", "pi.org"),
        concat!("pythonho", "sted.org"),
        concat!("index.cra", "tes.io"),
        concat!("static.cra", "tes.io"),
        concat!("registry.np", "mjs.org"),
    ];
    let mut findings = Vec::new();
    for (i, line) in file.text.lines().enumerate() {
        for place in places.iter().filter(|place| line.contains(**place)) {
            findings.push(format!("{}:{}: {place}", file.path, i + 1));
        }
    }
    findings
}
