//! Which open turns belong together.

use std::borrow::Cow;

use super::text::text_of;

/// A turn that has started and not ended, as the rule sees it.
#[derive(Clone, Copy, Debug)]
pub struct OpenTurn<'a> {
    /// Text of its id.
    pub id: &'a [u8],
    /// The turn for which it works, see [`root_turn`].
    pub root: Option<&'a [u8]>,
    /// Whether its thread is a sub-agent's, which no client has started.
    pub sub_agent: bool,
}

/// Returns the id of the client's turn for which a turn works: the text of `rootTurnId` in the turn object. The
/// turn of a client names itself. Versions of codex before 0.169 name none (measured).
pub fn root_turn(object: &[u8]) -> Option<Cow<'_, [u8]>> {
    text_of(object, 0, b"rootTurnId")
}

/// Returns whether another open turn works for the turn with these `names`, or can do so: a sub-agent's turn that
/// does not name its root can belong to any turn.
///
/// `names` are the ids of the turn and of its own root. Two sub-agents with the same root count as working for each
/// other, since it is not known which of them started the other.
pub fn works_for(other: OpenTurn<'_>, names: &[&[u8]]) -> bool {
    match other.root {
        Some(root) => names.contains(&root) && root != other.id,
        None => other.sub_agent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_belongs_to_its_root_or_to_nobody_known() {
        let open = |id: &'static str, root: Option<&'static str>, sub_agent| OpenTurn {
            id: id.as_bytes(),
            root: root.map(str::as_bytes),
            sub_agent,
        };
        let own: &[&[u8]] = &[b"own"];
        assert!(works_for(open("child", Some("own"), true), own));
        assert!(!works_for(open("child", Some("other"), true), own));
        assert!(!works_for(open("other", Some("other"), false), own));
        // The root does not work for its sub-agents, and these may work for one another.
        let child: &[&[u8]] = &[b"child", b"own"];
        assert!(!works_for(open("own", Some("own"), false), child));
        assert!(works_for(open("sister", Some("own"), true), child));
        // Where no root is named, a sub-agent may work for anybody.
        assert!(works_for(open("x", None, true), own));
        assert!(!works_for(open("x", None, false), own));
    }

    #[test]
    fn the_root_is_read_from_the_turn_object() {
        assert_eq!(root_turn(br#"{"id":"a","rootTurnId":"\u0062"}"#).as_deref(), Some(&b"b"[..]));
        assert_eq!(root_turn(br#"{"id":"a","rootTurnId":null}"#), None);
        assert_eq!(root_turn(br#"{"id":"a"}"#), None);
    }
}
