//! The thread book: the permissions of threads, so that a resume in a new codex does not change them.
//!
//! Codex 0.169 keeps most settings of a thread in its history, and not the sandbox policy `workspaceWrite`: a resume by
//! id alone, in a new process, gives the thread the default of the configuration, which may be `dangerFullAccess`
//! (measured; openai/codex#40149). codexd remembers what was in force, and the router restores it.
//!
//! Only permissions are kept: no prompt, no path but those of the policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::ThreadId;

/// Threads that are remembered at the most; the one that was changed longest ago is forgotten first.
pub const MAX_THREADS: usize = 2_000;

/// Different permissions that are kept once for all threads that have them. A person has few; those of further threads are
/// kept with each.
const SHARED: usize = 32;

/// Keys of `config`, also as the beginning of dotted ones, that give permissions.
const CONFIG_KEYS: [&str; 4] =
    ["sandbox_mode", "sandbox_workspace_write", "permissions", "default_permissions"];

/// Returns whether a key of `config` gives permissions.
pub(crate) fn gives_permissions(key: &[u8]) -> bool {
    CONFIG_KEYS.iter().any(|known| {
        let rest = key.strip_prefix(known.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'.')
    })
}

/// What a thread is permitted to do, in the upstream's own form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Permissions {
    /// The sandbox policy: an object with a `type`.
    pub sandbox_policy: Value,
    /// When a person is asked.
    pub approval_policy: Value,
    /// The permission profile in force; null for none.
    #[serde(default)]
    pub profile: Value,
}

impl Permissions {
    /// Returns the value of `sandbox` with which a thread is resumed that has this policy, as far as it can say it.
    pub fn sandbox_mode(&self) -> Option<&'static str> {
        match self.sandbox_policy["type"].as_str()? {
            "workspaceWrite" => Some("workspace-write"),
            "readOnly" => Some("read-only"),
            "dangerFullAccess" => Some("danger-full-access"),
            _ => None,
        }
    }
}

/// One line of the book's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The thread.
    pub thread_id: String,
    /// Its permissions; `None` when it was deleted.
    pub permissions: Option<Permissions>,
}

/// What is known of one thread.
#[derive(Clone, Debug)]
struct Known {
    permissions: Arc<Permissions>,
    /// Order of the last change.
    changed: u64,
    /// This codex has not loaded the thread: an earlier one had.
    earlier: bool,
}

/// See the [module's documentation](self).
#[derive(Clone, Debug, Default)]
pub struct ThreadBook {
    threads: FxHashMap<ThreadId, Known>,
    by_change: BTreeMap<u64, ThreadId>,
    changes: u64,
    /// Permissions that threads share: as a tree of values they take ten times what the rest of an entry does.
    shared: Vec<Arc<Permissions>>,
}

impl ThreadBook {
    /// Creates the book from what earlier daemons have written, oldest first.
    pub fn of_earlier(entries: impl IntoIterator<Item = Entry>) -> ThreadBook {
        let mut book = ThreadBook::default();
        for Entry { thread_id, permissions } in entries {
            let thread = ThreadId::new(thread_id.as_bytes());
            match permissions {
                Some(permissions) => {
                    book.put(&thread, permissions, true);
                }
                None => {
                    book.forget(&thread);
                }
            }
        }
        book
    }

    /// Returns all entries, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.by_change.values().filter_map(|thread| {
            let permissions = Some(Permissions::clone(&self.threads.get(thread)?.permissions));
            Some(Entry { thread_id: thread.to_string(), permissions })
        })
    }

    /// Records the permissions of a thread that this codex has loaded; returns whether they are new.
    pub fn record(&mut self, thread: &ThreadId, permissions: Permissions) -> bool {
        if let Some(known) = self.threads.get_mut(thread)
            && *known.permissions == permissions
        {
            known.earlier = false;
            return false;
        }
        self.put(thread, permissions, false);
        true
    }

    /// Records that this codex has loaded a thread, with whatever permissions.
    pub fn loaded(&mut self, thread: &ThreadId) {
        if let Some(known) = self.threads.get_mut(thread) {
            known.earlier = false;
        }
    }

    fn put(&mut self, thread: &ThreadId, permissions: Permissions, earlier: bool) {
        self.changes += 1;
        let permissions = self.share(permissions);
        let known = Known { permissions, changed: self.changes, earlier };
        if let Some(before) = self.threads.insert(thread.clone(), known) {
            self.by_change.remove(&before.changed);
        }
        self.by_change.insert(self.changes, thread.clone());
        if self.threads.len() > MAX_THREADS
            && let Some((_, oldest)) = self.by_change.pop_first()
        {
            self.threads.remove(&oldest);
        }
    }

    /// Returns these permissions, those of another thread if they are equal.
    fn share(&mut self, permissions: Permissions) -> Arc<Permissions> {
        if let Some(same) = self.shared.iter().find(|shared| ***shared == permissions) {
            return Arc::clone(same);
        }
        let permissions = Arc::new(permissions);
        if self.shared.len() >= SHARED {
            self.shared.retain(|shared| Arc::strong_count(shared) > 1);
        }
        if self.shared.len() < SHARED {
            self.shared.push(Arc::clone(&permissions));
        }
        permissions
    }

    /// Forgets a thread; returns whether it was known.
    pub fn forget(&mut self, thread: &ThreadId) -> bool {
        let Some(known) = self.threads.remove(thread) else { return false };
        self.by_change.remove(&known.changed);
        true
    }

    /// Whether a thread is known.
    pub fn knows(&self, thread: &ThreadId) -> bool {
        self.threads.contains_key(thread)
    }

    /// Returns the permissions of a thread.
    pub fn of(&self, thread: &ThreadId) -> Option<&Permissions> {
        self.threads.get(thread).map(|known| &*known.permissions)
    }

    /// Whether there is a thread that an earlier codex had loaded, and this one has not.
    pub fn has_earlier(&self) -> bool {
        self.threads.values().any(|known| known.earlier)
    }

    /// Returns the permissions of a thread that an earlier codex had loaded, and this one has not.
    pub fn of_earlier_codex(&self, thread: &ThreadId) -> Option<&Permissions> {
        self.threads.get(thread).filter(|known| known.earlier).map(|known| &*known.permissions)
    }

    /// Returns the number of threads that are known.
    pub fn len(&self) -> usize {
        self.threads.len()
    }

    /// Whether no thread is known.
    pub fn is_empty(&self) -> bool {
        self.threads.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn permissions(kind: &str) -> Permissions {
        let sandbox_policy = json!({"type": kind});
        Permissions { sandbox_policy, approval_policy: json!("never"), profile: Value::Null }
    }

    fn thread(id: &str) -> ThreadId {
        ThreadId::new(id.as_bytes())
    }

    #[test]
    fn what_an_earlier_codex_had_loaded_is_to_be_restored_until_this_one_has_loaded_it() {
        let entry = |id: &str, kind: Option<&str>| Entry {
            thread_id: id.to_owned(),
            permissions: kind.map(permissions),
        };
        let entries = [
            entry("a", Some("readOnly")),
            entry("b", Some("readOnly")),
            entry("c", Some("readOnly")),
            entry("a", Some("workspaceWrite")),
            entry("b", None),
        ];
        let mut book = ThreadBook::of_earlier(entries);
        assert_eq!(book.of_earlier_codex(&thread("a")), Some(&permissions("workspaceWrite")));
        assert_eq!((book.of_earlier_codex(&thread("b")), book.len()), (None, 2));
        let left: Vec<String> = book.entries().map(|entry| entry.thread_id).collect();
        assert_eq!(left, ["c", "a"]);
        assert!(!book.record(&thread("a"), permissions("workspaceWrite")), "nothing is new");
        assert_eq!(book.of_earlier_codex(&thread("a")), None);
        assert!(book.record(&thread("c"), permissions("workspaceWrite")));
        assert_eq!(book.of_earlier_codex(&thread("c")), None);
        assert!(book.forget(&thread("c")) && !book.forget(&thread("c")) && !book.is_empty());
    }

    #[test]
    fn threads_with_the_same_permissions_share_them_and_the_rest_is_kept_too() {
        let mut book = ThreadBook::default();
        let name = |number: usize| thread(&number.to_string());
        for number in 0..3 * SHARED {
            book.record(&name(number), permissions("readOnly"));
            book.record(&name(3 * SHARED + number), permissions(&number.to_string()));
        }
        assert!(Arc::ptr_eq(&book.threads[&name(0)].permissions, &book.threads[&name(1)].permissions));
        assert_eq!(book.shared.len(), SHARED);
        for number in 0..3 * SHARED {
            assert_eq!(*book.threads[&name(number)].permissions, permissions("readOnly"));
            assert_eq!(
                *book.threads[&name(3 * SHARED + number)].permissions,
                permissions(&number.to_string())
            );
        }
        // What no thread has any more makes room.
        for number in 0..3 * SHARED {
            book.forget(&name(3 * SHARED + number));
        }
        book.record(&name(0), permissions("new"));
        assert_eq!(book.shared.len(), 2);
    }

    #[test]
    fn the_book_is_bounded_and_forgets_the_oldest() {
        let mut book = ThreadBook::default();
        for number in 0..MAX_THREADS {
            book.record(&thread(&number.to_string()), permissions("readOnly"));
        }
        book.record(&thread("0"), permissions("workspaceWrite"));
        book.record(&thread("new"), permissions("readOnly"));
        assert_eq!((book.len(), book.entries().count()), (MAX_THREADS, MAX_THREADS));
        assert!(book.knows(&thread("0")) && book.knows(&thread("new")) && !book.knows(&thread("1")));
    }

    #[test]
    fn an_entry_is_one_stable_object() {
        let entry = Entry { thread_id: "t".to_owned(), permissions: Some(permissions("readOnly")) };
        let text = r#"{"threadId":"t","permissions":{"sandboxPolicy":{"type":"readOnly"},"approvalPolicy":"never","profile":null}}"#;
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        assert_eq!(serde_json::from_str::<Entry>(text).unwrap(), entry);
        let deleted: Entry = serde_json::from_str(r#"{"threadId":"t","permissions":null}"#).unwrap();
        assert_eq!(deleted.permissions, None);
    }
}
