//! Watches of files.

use std::fs;

use serde_json::json;

use crate::differential;
use crate::stage::{Stage, Who};
use crate::world::Setup;

fn changed(it: &mut Stage<'_>, who: Who, id: &str, name: &str) {
    it.see_where(who, "a change", |it| {
        it["method"] == "fs/changed"
            && it["params"]["watchId"] == id
            && it["params"]["changedPaths"].to_string().contains(name)
    });
}

fn write(it: &Stage<'_>, name: &str) {
    fs::write(it.world().home().project().join(name), "x").unwrap();
}

#[test]
fn odd_watch_ids() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let ids = [" ", "1:w", "\"", "\\", "\u{0}\n", "\u{7f}\u{85}", "\u{2028}", "e\u{301}'`"];
        for id in ids {
            let watch = json!({"watchId": id, "path": it.project()});
            it.call(a, "fs/watch", watch.clone());
            it.call(a, "fs/watch", watch);
            it.call(b, "fs/unwatch", json!({"watchId": id}));
        }
        write(it, "made.txt");
        for id in ids {
            changed(it, a, id, "made.txt");
        }
        for id in ids {
            it.call(a, "fs/unwatch", json!({"watchId": id}));
        }
        it.call(b, "fs/watch", json!({"watchId": 5, "path": it.project()}));
        it.call(b, "fs/watch", json!({"watchId": null, "path": it.project()}));
        it.call(b, "fs/watch", json!({"path": it.project()}));
    });
}

#[test]
fn a_watch_of_a_file_and_of_a_directory() {
    let setup = Setup { files: &[("alpha.txt", "alpha\n")], ..Setup::default() };
    differential(&setup, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let file = format!("{}/alpha.txt", it.project());
        it.call(a, "fs/watch", json!({"watchId": "file", "path": file}));
        it.call(b, "fs/watch", json!({"watchId": "directory", "path": it.project()}));
        it.call(a, "fs/writeFile", json!({"path": file, "dataBase64": "YmV0YQo="}));
        changed(it, a, "file", "alpha.txt");
        changed(it, b, "directory", "alpha.txt");
        it.call(a, "fs/unwatch", json!({"watchId": "file"}));
        it.call(a, "fs/unwatch", json!({"watchId": "file"}));
        // An id is free again, for another path.
        it.call(a, "fs/watch", json!({"watchId": "file", "path": it.project()}));
        it.call(b, "fs/unwatch", json!({"watchId": "directory"}));
        write(it, "beta.txt");
        changed(it, a, "file", "beta.txt");
    });
}
