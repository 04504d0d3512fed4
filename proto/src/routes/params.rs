//! The members of `params` that codexd reads, of all client requests.

use super::{GatedValue, REQUESTS, Request, RequestEffect, Resource, Route};

/// Bytes of the longest name.
const LONGEST: usize = 40;

/// Names that are kept at most.
const MOST: usize = 96;

/// Names of members, to be found by their length and then by themselves.
struct Names {
    sorted: [&'static str; MOST],
    /// Where the names of each length begin.
    starts: [u8; LONGEST + 2],
}

static NAMES: Names = Names::of_table();

/// Returns the name of a member of `params` if codexd reads such members of some request.
#[inline]
pub(crate) fn param(name: &[u8]) -> Option<&'static str> {
    let start = *NAMES.starts.get(name.len())?;
    let end = *NAMES.starts.get(name.len() + 1)?;
    let same_length = &NAMES.sorted[usize::from(start)..usize::from(end)];
    same_length.iter().find(|known| known.as_bytes() == name).copied()
}

/// Bytes of the longest name that [`param`] may know.
pub(crate) const LONGEST_PARAM: usize = LONGEST;

/// How many parameters by position have a name, at most.
pub(crate) const LONGEST_ORDER: usize = {
    let (mut longest, mut row) = (0, 0);
    while row < REQUESTS.len() {
        if REQUESTS[row].order.len() > longest {
            longest = REQUESTS[row].order.len();
        }
        row += 1;
    }
    longest
};

impl Request {
    /// Returns the members of `params` that codexd reads beside those that the columns name.
    const fn implied(&self) -> [&'static [&'static str]; 3] {
        let by_effect: &[&str] = match self.effect {
            RequestEffect::Start => &["cwd"],
            RequestEffect::Resume => {
                &["path", "history", "excludeTurns", "sandbox", "permissions", "config", "sandboxPolicy"]
            }
            RequestEffect::Fork => &["excludeTurns"],
            RequestEffect::Read => &["includeTurns"],
            _ => &[],
        };
        let by_value: &[&str] = match self.value {
            Some(GatedValue::GranularApproval) => &["approvalPolicy"],
            Some(GatedValue::ChatgptAuthTokens) => &["type"],
            None => &[],
        };
        let by_route: &[&str] = match self.route {
            Route::Local => &["clientInfo", "capabilities", "codexd"],
            Route::Namespace { resource: Resource::Exec, opens: true, .. } => {
                &["cwd", "tty", "streamStdin", "streamStdoutStderr"]
            }
            _ => &[],
        };
        [by_effect, by_value, by_route]
    }
}

impl Names {
    /// Collects the names from the table when codexd is compiled.
    const fn of_table() -> Names {
        let mut names = [""; MOST];
        let mut count = 0;
        let mut row = 0;
        while row < REQUESTS.len() {
            let request = &REQUESTS[row];
            if let Some(name) = request.thread {
                count = add(&mut names, count, name);
            }
            match request.route {
                Route::Namespace { id, .. } => count = add(&mut names, count, id),
                Route::TranslateRequestId(name) => count = add(&mut names, count, name),
                _ => {}
            }
            count = add_all(&mut names, count, request.fields);
            let implied = request.implied();
            let mut kind = 0;
            while kind < implied.len() {
                count = add_all(&mut names, count, implied[kind]);
                kind += 1;
            }
            row += 1;
        }
        let mut sorted = [""; MOST];
        let mut starts = [0; LONGEST + 2];
        let (mut length, mut at) = (0, 0);
        while length <= LONGEST {
            starts[length] = at as u8;
            let mut name = 0;
            while name < count {
                if names[name].len() == length {
                    sorted[at] = names[name];
                    at += 1;
                }
                name += 1;
            }
            length += 1;
        }
        starts[LONGEST + 1] = at as u8;
        assert!(at == count, "a name is longer than `LONGEST`");
        Names { sorted, starts }
    }
}

/// Adds a name unless it is there; returns how many there are then.
const fn add(names: &mut [&'static str; MOST], count: usize, name: &'static str) -> usize {
    let mut at = 0;
    while at < count {
        if same(names[at].as_bytes(), name.as_bytes()) {
            return count;
        }
        at += 1;
    }
    names[count] = name;
    count + 1
}

const fn add_all(names: &mut [&'static str; MOST], mut count: usize, more: &[&'static str]) -> usize {
    let mut at = 0;
    while at < more.len() {
        count = add(names, count, more[at]);
        at += 1;
    }
    count
}

/// Whether two byte strings are equal, also when codexd is compiled.
const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_that_the_table_names_is_known() {
        for request in &REQUESTS {
            let ids = match request.route {
                Route::Namespace { id, .. } => Some(id),
                Route::TranslateRequestId(name) => Some(name),
                _ => None,
            };
            for name in request.fields.iter().chain(&request.thread).chain(&ids) {
                assert_eq!(param(name.as_bytes()), Some(*name), "{}", request.method);
            }
        }
        for name in ["threadId", "processId", "approvalPolicy", "type", "excludeTurns", "cwd"] {
            assert_eq!(param(name.as_bytes()), Some(name));
        }
        for name in ["", "threadid", "threadI", "threadIdx", "input", &"x".repeat(1000)] {
            assert_eq!(param(name.as_bytes()), None, "{name}");
        }
    }
}
