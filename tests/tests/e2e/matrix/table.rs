//! The cells of the matrix, those that cannot exist, and the selection that runs by default.

use std::collections::HashSet;
use std::fmt;

/// What ends the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Death {
    CodexKilled,
    CodexdKilled,
    /// `codexd ctl upgrade` to another program as codex: what runs is finished first.
    CodexUpgraded,
    /// `codexd ctl stop --now`, and a start.
    Stopped,
}

/// What there is when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scene {
    /// A thread on which a turn has run, and a client that only listens.
    Idle,
    /// A turn that has said something.
    Streaming,
    /// A turn whose command runs, and a command beside turns.
    Command,
    /// A turn that waits for an approval.
    Approval,
    /// A thread without a prompt.
    NeverRan,
    /// A turn that runs, and a prompt that waits for its end.
    Queued,
    /// A goal that is paused.
    PausedGoal,
    /// A goal for which codex starts turns of its own, one of which runs.
    ActiveGoal,
    /// A sub-agent whose turn runs.
    SubAgent,
    /// A thread that codex keeps in memory only, and another one.
    Ephemeral,
}

/// How a client reaches the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    Lines,
    WebSocket,
    /// `codexd connect`.
    Connect,
    /// The Python SDK of codex, with `codexd app-server` in the place of codex.
    Sdk,
    /// The dialect of the companion plugin, on the socket.
    Plugin,
    /// The terminal interface of codex, on the socket.
    Terminal,
}

/// Who starts the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Manager {
    /// The clients.
    AutoSpawn,
    /// The user manager, by the units of `codexd install`.
    Systemd,
}

pub(super) const DEATHS: [Death; 4] =
    [Death::CodexKilled, Death::CodexdKilled, Death::CodexUpgraded, Death::Stopped];

pub(super) const SCENES: [Scene; 10] = [
    Scene::Idle,
    Scene::Streaming,
    Scene::Command,
    Scene::Approval,
    Scene::NeverRan,
    Scene::Queued,
    Scene::PausedGoal,
    Scene::ActiveGoal,
    Scene::SubAgent,
    Scene::Ephemeral,
];

pub(super) const WAYS: [Way; 6] =
    [Way::Lines, Way::WebSocket, Way::Connect, Way::Sdk, Way::Plugin, Way::Terminal];

pub(super) const MANAGERS: [Manager; 2] = [Manager::AutoSpawn, Manager::Systemd];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cell {
    pub(super) death: Death,
    pub(super) scene: Scene,
    pub(super) way: Way,
    pub(super) manager: Manager,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}+{:?}+{:?}+{:?}", self.death, self.scene, self.way, self.manager)
    }
}

impl Way {
    /// Whether the client keeps its connection when the daemon ends.
    pub(super) fn is_kept(self) -> bool {
        matches!(self, Way::Connect | Way::Sdk)
    }
}

impl Cell {
    /// Returns why there is no such cell; `None` if there is one.
    fn impossible(self) -> Option<&'static str> {
        match (self.way, self.scene) {
            (Way::Terminal, Scene::Ephemeral) => Some("the terminal interface starts no ephemeral thread"),
            (Way::Sdk, Scene::Queued) => Some("the SDK has no method for the queue of a thread"),
            (Way::Plugin, Scene::Queued | Scene::PausedGoal | Scene::ActiveGoal) => {
                Some("these methods are experimental, and the plugin does not ask for the experimental API")
            }
            _ => None,
        }
    }

    /// The pairs of values of which each is in the default selection.
    fn pairs(self) -> [Pair; 3] {
        let Cell { death, scene, way, manager } = self;
        [Pair::Scene(death, scene), Pair::Way(death, way), Pair::Manager(death, manager)]
    }

    /// The pairs that the default selection has as far as that costs no more cells.
    fn more_pairs(self) -> [(Way, Result<Scene, Manager>); 2] {
        [(self.way, Ok(self.scene)), (self.way, Err(self.manager))]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pair {
    Scene(Death, Scene),
    Way(Death, Way),
    Manager(Death, Manager),
}

/// Returns every cell that can exist.
pub(super) fn all() -> Vec<Cell> {
    let mut all = Vec::new();
    for scene in SCENES {
        for death in DEATHS {
            for way in WAYS {
                let cells = MANAGERS.map(|manager| Cell { death, scene, way, manager });
                all.extend(cells.into_iter().filter(|cell| cell.impossible().is_none()));
            }
        }
    }
    all
}

/// Returns cells that have every [pair](Cell::pairs), each time the one that adds most.
fn selection() -> Vec<Cell> {
    let all = all();
    let (mut missing, mut more): (HashSet<Pair>, HashSet<_>) =
        (all.iter().flat_map(|cell| cell.pairs()).collect(), HashSet::new());
    let mut selected = Vec::new();
    while !missing.is_empty() {
        let adds = |cell: &&Cell| {
            let pairs = cell.pairs().into_iter().filter(|pair| missing.contains(pair)).count();
            (pairs, cell.more_pairs().into_iter().filter(|pair| !more.contains(pair)).count())
        };
        // Of equal ones, the first: `max_by_key` has the last.
        let Some(best) = all.iter().rev().max_by_key(adds) else { break };
        for pair in best.pairs() {
            missing.remove(&pair);
        }
        more.extend(best.more_pairs());
        selected.push(*best);
    }
    selected
}

/// Returns the cells that are to run: the selection, or those that the environment names. `CODEXD_MATRIX=all` has all
/// cells, and `CODEXD_MATRIX=Sdk,Systemd` those with these words in their names.
pub(super) fn chosen() -> Vec<Cell> {
    match std::env::var("CODEXD_MATRIX") {
        Err(_) => selection(),
        Ok(words) if words == "all" => all(),
        Ok(words) => {
            let mut cells = all();
            cells.retain(|cell| words.split(',').all(|word| cell.to_string().contains(word)));
            assert!(!cells.is_empty(), "CODEXD_MATRIX={words}: no cell has these words in its name");
            cells
        }
    }
}

#[test]
fn every_cell_is_there_or_has_a_reason() {
    let mut reasons = 0;
    for (scene, way) in SCENES.into_iter().flat_map(|scene| WAYS.map(|way| (scene, way))) {
        let cell = Cell { death: Death::Stopped, scene, way, manager: Manager::Systemd };
        let expected = if cell.impossible().is_some() { 0 } else { DEATHS.len() * MANAGERS.len() };
        assert_eq!(all().iter().filter(|it| (it.scene, it.way) == (scene, way)).count(), expected);
        reasons += usize::from(cell.impossible().is_some());
    }
    assert_eq!((reasons, all().len()), (5, 440));
}

#[test]
fn the_selection_has_every_value_and_every_pair_with_a_death() {
    let selected = selection();
    let has = |what: &dyn Fn(&Cell) -> bool| selected.iter().any(what);
    for death in DEATHS {
        assert!(SCENES.iter().all(|scene| has(&|it| (it.death, it.scene) == (death, *scene))));
        assert!(WAYS.iter().all(|way| has(&|it| (it.death, it.way) == (death, *way))));
        assert!(MANAGERS.iter().all(|manager| has(&|it| (it.death, it.manager) == (death, *manager))));
    }
    let distinct: HashSet<_> = selected.iter().collect();
    assert_eq!((distinct.len(), selected.len()), (40, 40), "one for each death and scene");
}
