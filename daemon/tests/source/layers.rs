//! Which module of the daemon can use which: a dependency that points upward, or a cycle, fails here with the reason,
//! not in a review.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::files;

/// The layers from the top to the bottom, each with the reason why it does not use those above it. A layer is a
/// directory or a file at the top of `src`; it can use itself and what comes later here.
const LAYERS: [(&str, &str); 13] = [
    ("main", "it is the top: no module can use it"),
    ("commands", "commands are called from the command line only"),
    ("serve", "the daemon does not know the commands that talk to it"),
    (
        "control",
        "the control socket has a client and a server, and its server gets what it serves as arguments",
    ),
    ("start", "the process that starts a daemon is not that daemon, and does not use its control socket"),
    ("ledger", "the modules that run a turn record it, and those that want to know read it"),
    ("instance", "a lock and a record are files; their holder is asked by the modules above"),
    ("settings", "settings are values; the modules that apply them read them"),
    ("turn", "a turn is run over a connection that the modules above have made"),
    ("logging", "the log starts before everything else, and gets what it needs as arguments"),
    ("os", "calls of the system know nothing of codexd"),
    ("terminal", "the modules that know what happened write the text for people"),
    ("error", "an error is a value that every module can return"),
];

/// The command line is a part of the settings, in a file of its own.
const CLI: &str = "cli";

/// Layers whose files depend on each other: they share the values of their `mod.rs`, which uses them in turn.
const WHOLE: [&str; 2] = ["control", "start"];

/// The path of a module below `crate`.
type Module = Vec<String>;

/// A file of the sources: the module it is, and the modules and items that its code names.
struct Source {
    module: Module,
    names: BTreeSet<Module>,
}

/// What refers to what, each with a file that does.
type Dependencies = BTreeMap<(String, String), String>;

/// Returns the module of a file, given by its path below `src`; `main.rs` is the layer `main`.
fn module_of(file: &Path) -> Module {
    let mut module: Module =
        file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().unwrap() == "mod" {
        module.pop();
    }
    if module == [CLI] {
        module.insert(0, "settings".to_owned());
    }
    module
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    files(&root)
        .iter()
        .map(|file| {
            let module = module_of(file.strip_prefix(&root).unwrap());
            let names = names(&module, &std::fs::read_to_string(file).unwrap());
            Source { module, names }
        })
        .collect()
}

/// Returns what the code of a file names of this crate, as paths below `crate`. Comments may name anything.
fn names(module: &Module, text: &str) -> BTreeSet<Module> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap()).collect();
    let tests = code.iter().position(|line| line.starts_with("mod tests {")).unwrap_or(code.len());
    let (own, tests) = code.split_at(tests);
    let mut found = names_in(module, &own.join("\n"));
    found.extend(names_in(&[module.as_slice(), &["tests".to_owned()]].concat(), &tests.join("\n")));
    found
}

fn names_in(module: &Module, code: &str) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    let mut add = |start: &Module, rest: &str| {
        for path in tree(rest) {
            let mut whole = start.clone();
            for part in path {
                match part.as_str() {
                    "super" => drop(whole.pop()),
                    _ => whole.push(part),
                }
            }
            if whole.first().is_some_and(|first| first == CLI) {
                whole.insert(0, "settings".to_owned());
            }
            found.insert(whole);
        }
    };
    let children: Vec<&str> = code
        .lines()
        .filter_map(|line| line.trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    for (at, _) in code.match_indices("::") {
        let before = &code[..at];
        let begin = before.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |i| i + 1);
        // The middle of a path, or a macro's `$crate`.
        if before[..begin].ends_with([':', '$']) {
            continue;
        }
        let rest = &code[at + 2..];
        match &before[begin..] {
            "crate" => add(&Vec::new(), rest),
            "super" => add(&module[..module.len() - 1].to_vec(), rest),
            child if children.contains(&child) => {
                add(&if module == &["main"] { Vec::new() } else { module.clone() }, &code[begin..]);
            }
            _ => {}
        }
    }
    found
}

/// Returns the paths that a `use` tree, or the path at the beginning of some code, stands for.
fn tree(code: &str) -> Vec<Module> {
    let code = code.trim_start();
    if let Some(group) = code.strip_prefix('{') {
        return items(group).into_iter().flat_map(tree).collect();
    }
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    let (name, rest) = code.split_at(end);
    let part = if name == "self" { Vec::new() } else { vec![name.to_owned()] };
    match rest.strip_prefix("::") {
        Some(rest) => tree(rest).into_iter().map(|path| [part.clone(), path].concat()).collect(),
        None => vec![part],
    }
}

/// Splits what follows an opening brace at the commas that are not inside another one.
fn items(group: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(&group[begin..at]);
                begin = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|item| !item.trim().is_empty());
    found
}

fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|(name, _)| *name == layer)
}

/// Returns what is wrong with a layer that names another one.
fn upward(layer: &str, named: &str) -> Option<&'static str> {
    let own = rank(layer).unwrap();
    (rank(named)? < own).then(|| LAYERS[own].1)
}

/// Returns the dependencies between the parts of a layer: its files and directories, and its `mod.rs`.
fn dependencies_within(layer: &str, sources: &[Source]) -> Dependencies {
    let parts: BTreeSet<&str> = sources
        .iter()
        .filter(|source| source.module[0] == layer && source.module.len() > 1)
        .map(|source| source.module[1].as_str())
        .collect();
    let part = |path: &[String]| {
        path.get(1).filter(|part| parts.contains(part.as_str())).map_or("mod".to_owned(), Clone::clone)
    };
    let mut dependencies = Dependencies::new();
    for source in sources.iter().filter(|source| source.module[0] == layer) {
        let from = part(&source.module);
        for name in source.names.iter().filter(|name| name.first().is_some_and(|first| first == layer)) {
            let to = part(name);
            if from != to {
                dependencies.insert((from.clone(), to), source.module.join("::"));
            }
        }
    }
    dependencies
}

/// Returns a cycle of dependencies, if there is one: what is left when all that lead nowhere are removed.
fn cycle(dependencies: &Dependencies) -> Option<Vec<String>> {
    let mut left: BTreeSet<(&str, &str)> = dependencies.keys().map(|(from, to)| (&**from, &**to)).collect();
    loop {
        let begins: BTreeSet<&str> = left.iter().map(|(from, _)| *from).collect();
        let before = left.len();
        left.retain(|(_, to)| begins.contains(to));
        if left.len() == before {
            break;
        }
    }
    let mut way = vec![left.first()?.0];
    loop {
        let next = left.iter().find(|(from, _)| from == way.last().unwrap()).unwrap().1;
        if let Some(at) = way.iter().position(|part| *part == next) {
            way.push(next);
            return Some(way[at..].iter().map(|part| (*part).to_owned()).collect());
        }
        way.push(next);
    }
}

#[test]
fn every_layer_has_its_place() {
    let found: BTreeSet<String> = sources().into_iter().map(|source| source.module[0].clone()).collect();
    let known: BTreeSet<String> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, known, "a directory or file of `daemon/src` is not in `LAYERS`, or is gone");
}

#[test]
fn no_layer_uses_one_above_it() {
    let mut seen = 0;
    for source in sources() {
        let layer = &source.module[0];
        for name in &source.names {
            let Some(named) = name.first() else { continue };
            seen += usize::from(named != layer && rank(named).is_some());
            if let Some(reason) = upward(layer, named) {
                panic!(
                    "`{}` names `{}`, but `{named}` is above `{layer}`: {reason}. Hand in the value, or move the \
                     function to the layer that uses both.",
                    source.module.join("::"),
                    name.join("::")
                );
            }
        }
    }
    assert!(seen > 100, "{seen} dependencies: the sources were not read");
}

#[test]
fn the_parts_of_a_layer_form_no_cycle() {
    let sources = sources();
    for (layer, _) in LAYERS.iter().filter(|(layer, _)| !WHOLE.contains(layer)) {
        let dependencies = dependencies_within(layer, &sources);
        if let Some(cycle) = cycle(&dependencies) {
            let who: Vec<&String> =
                cycle.windows(2).map(|pair| &dependencies[&(pair[0].clone(), pair[1].clone())]).collect();
            panic!(
                "the layer `{layer}` contains a cycle: {} (named in {who:?}). None of its parts can be read without \
                 the others: move what both need into a file of its own.",
                cycle.join(" -> ")
            );
        }
    }
    assert!(
        dependencies_within("serve", &sources).contains_key(&("hub".to_owned(), "connection".to_owned()))
    );
    for layer in WHOLE {
        assert!(
            cycle(&dependencies_within(layer, &sources)).is_some(),
            "`{layer}` has no cycle; remove it from the list"
        );
    }
}

#[test]
fn names_are_seen_in_every_form_and_not_in_comments() {
    let named = |module: &[&str], text: &str| -> Vec<String> {
        let module = module.iter().map(|part| (*part).to_owned()).collect();
        names(&module, text).iter().map(|path| path.join("::")).collect()
    };
    assert_eq!(named(&["os", "peer"], "use crate::serve::hub::Hub;"), ["serve::hub::Hub"]);
    assert_eq!(
        named(&["os", "peer"], "use crate::{control::{self, api::X},\n    serve};\n"),
        ["control", "control::api::X", "serve"]
    );
    assert_eq!(
        named(&["os", "peer"], "let x = crate::start::Report::new(super::signals::A);"),
        ["os::signals::A", "start::Report::new"]
    );
    assert_eq!(
        named(&["os", "peer"], "x\nmod tests {\n    use super::*;\n    use super::super::y;\n}"),
        ["os::peer::", "os::y"]
    );
    assert_eq!(named(&["serve"], "mod hub;\nuse hub::Hub;\n"), ["serve::hub::Hub"]);
    assert_eq!(named(&["serve"], "let x = crate::cli::Cli;"), ["settings::cli::Cli"]);
    assert!(named(&["os", "peer"], "/// See [`x`](crate::serve).\nstd::fs::read()").is_empty());
}

#[test]
fn a_dependency_upward_and_a_cycle_are_found() {
    assert!(upward("os", "settings").is_some());
    assert!(upward("settings", "os").is_none());
    assert!(upward("settings", "settings").is_none());
    let dependencies = |pairs: &[(&str, &str)]| -> Dependencies {
        pairs.iter().map(|(a, b)| (((*a).to_owned(), (*b).to_owned()), String::new())).collect()
    };
    assert_eq!(cycle(&dependencies(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(cycle(&dependencies(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap(), ["b", "c", "b"]);
}
