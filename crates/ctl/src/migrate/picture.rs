//! What a migration looks like: a line for people, or an object for programs.

use serde::Serialize;

use super::shard::{Place, Seen};

/// A moment of a migration.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Picture {
    /// What is done now.
    pub(crate) phase: &'static str,
    /// Shards, by where they are.
    pub(crate) shards: Shards,
    /// Entries of logs that this process has copied.
    pub(crate) entries_copied: u64,
    /// Entries that the data centre does not have yet.
    pub(crate) entries_left: u64,
    /// Entries copied in the last second.
    pub(crate) entries_per_second: u64,
    /// Posts that were passed on and accepted.
    pub(crate) posts_passed_on: u64,
    /// Who uses the supernode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<Users>,
    /// What is wrong, and is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
}

/// Who uses the supernode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Users {
    pub(crate) connections: u32,
    pub(crate) attachments: u32,
    pub(crate) passing: u32,
}

/// Shards, by where they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Shards {
    pub(crate) waiting: usize,
    pub(crate) copying: usize,
    pub(crate) sealed: usize,
    pub(crate) owned: usize,
    pub(crate) moved: usize,
    pub(crate) gone: usize,
}

impl Shards {
    fn of(seen: &[Seen]) -> Self {
        let mut shards = Self::default();
        for seen in seen {
            *match seen.place() {
                Place::Waiting => &mut shards.waiting,
                Place::Copying => &mut shards.copying,
                Place::Sealed => &mut shards.sealed,
                Place::Owned => &mut shards.owned,
                Place::Moved => &mut shards.moved,
                Place::Gone => &mut shards.gone,
            } += 1;
        }
        shards
    }
}

impl Picture {
    pub(crate) fn of(phase: &'static str, seen: &[Seen]) -> Self {
        Self {
            phase,
            shards: Shards::of(seen),
            entries_copied: seen.iter().map(|seen| seen.copied).sum(),
            entries_left: seen.iter().map(Seen::left).sum(),
            ..Self::default()
        }
    }

    /// As it is printed, with its line's end.
    pub(crate) fn text(&self, json: bool) -> String {
        if json {
            let line = serde_json::to_string(self).expect("JSON can be written");
            return format!("{line}\n");
        }
        let Shards { waiting, copying, sealed, owned, moved, gone } = self.shards;
        let mut line = format!("{}:", self.phase);
        let counts = [
            (waiting, "waiting"),
            (copying, "copying"),
            (sealed, "sealed"),
            (owned, "owned"),
            (moved, "moved"),
            (gone, "gone"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            line.push_str(&format!(" {count} {what},"));
        }
        line.push_str(&format!(
            " {} entries copied ({}/s), {} left, {} posts passed on",
            self.entries_copied, self.entries_per_second, self.entries_left, self.posts_passed_on
        ));
        if let Some(users) = self.users {
            line.push_str(&format!(
                "; at the supernode {} connections, {} attachments",
                users.connections, users.attachments
            ));
        }
        if let Some(trouble) = &self.trouble {
            line.push_str(&format!("; {trouble}"));
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs_can_read_it() {
        let seen = vec![Seen::default(); 256];
        let picture = Picture { trouble: Some("x".into()), ..Picture::of("copying", &seen) };
        let line = "copying: 256 waiting, 0 entries copied (0/s), 0 left, 0 posts passed on; x\n";
        assert_eq!(picture.text(false), line);
        let read: serde_json::Value = serde_json::from_str(&picture.text(true)).expect("JSON");
        assert_eq!(read["shards"]["waiting"], 256);
        assert_eq!(read["phase"], "copying");
    }
}
