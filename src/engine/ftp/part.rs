//! What the helper remembers of a few connections, for a twin that has only those.

use super::{Ftp, Key};

impl Ftp {
    /// The control connection of a data connection.
    pub(in crate::engine) fn parent(&self, child: Key) -> Option<Key> {
        self.parents.get(&child).copied()
    }

    /// The memory of these connections under other names: each as it is called here and there.
    pub(in crate::engine) fn part(&self, moved: &[(Key, Key)]) -> Ftp {
        let there = |here: Key| moved.iter().find(|(h, _)| *h == here).map(|(_, t)| *t);
        let mut part = Ftp { awaited: self.awaited, ..Ftp::default() };
        for (here, to) in moved {
            if let Some(control) = self.controls.get(here) {
                part.controls.insert(*to, control.clone());
            }
            if let Some(parent) = self.parent(*here).and_then(there) {
                part.parents.insert(*to, parent);
            }
        }
        part
    }
}
