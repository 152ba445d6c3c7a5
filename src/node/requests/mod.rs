//! Answers about the cluster, from facts: pure functions from what records and gossip say to what is shown, and to
//! why something can't be done. Who has the facts, and does what is asked, is not here.

mod nodes;
mod peers;

pub(super) use nodes::{
    Member, Said, find_node, list_nodes, may_demote, may_remove, must_be_manager, relabel,
};
pub(super) use peers::{PeerFacts, list_peers};

use crate::api::{Code, Name, Refusal};

/// Ids that an error names at most.
const NAMED_MAX: usize = 4;

/// The only thing of a `kind` that `wanted` names, as in Docker: by its id; or else by its name; or else by the
/// beginning of its id.
pub(crate) fn find<'a, T>(
    kind: &str,
    wanted: &Name,
    all: &'a [T],
    id_and_name: impl Fn(&T) -> (String, &str),
) -> Result<&'a T, Refusal> {
    match find_all(wanted, all, &id_and_name).as_slice() {
        [] => Err(Refusal::new(Code::NotFound, format!("there is no {kind} {wanted}"))),
        [one] => Ok(one),
        several => {
            let ids = several.iter().take(NAMED_MAX).map(|one| id_and_name(one).0).collect::<Vec<_>>();
            let more = if several.len() > NAMED_MAX { ", …" } else { "" };
            Err(Refusal::new(
                Code::Conflict,
                format!(
                    "{wanted} is not one {kind} but {}: give its id ({}{more})",
                    several.len(),
                    ids.join(", ")
                ),
            ))
        }
    }
}

/// All things that `wanted` names in the best way in which it names any.
pub(super) fn find_all<'a, T>(
    wanted: &Name,
    all: &'a [T],
    id_and_name: impl Fn(&T) -> (String, &str),
) -> Vec<&'a T> {
    let text = wanted.as_str();
    let by = |fits: &dyn Fn(&str, &str) -> bool| -> Vec<&'a T> {
        let fitting = |one: &&T| {
            let (id, name) = id_and_name(one);
            fits(&id, name)
        };
        all.iter().filter(fitting).collect()
    };
    let tries = [by(&|id, _| id == text), by(&|_, name| name == text), by(&|id, _| id.starts_with(text))];
    tries.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
}

pub(super) fn conflict(message: impl AsRef<str>) -> Refusal {
    Refusal::new(Code::Conflict, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(wanted: &str) -> Result<usize, Refusal> {
        let all = [("0aa1", "one"), ("0aa2", "two"), ("1bb1", "0aa1"), ("1bb2", "twin"), ("1bb3", "twin")];
        let all: Vec<_> = all.into_iter().enumerate().collect();
        let found = find("node", &wanted.parse().unwrap(), &all, |(_, (id, name))| ((*id).into(), name));
        found.map(|(index, _)| *index)
    }

    #[test]
    fn ids_go_before_names_and_names_before_beginnings() {
        assert_eq!(found("two"), Ok(1));
        assert_eq!(found("0aa1"), Ok(0), "another's name is this id");
        assert_eq!(found("1bb2"), Ok(3));
        assert_eq!(found("0aa2"), Ok(1));
    }

    #[test]
    fn what_names_none_or_several_is_refused() {
        let refused = |wanted: &str| found(wanted).unwrap_err();
        assert_eq!(refused("three").code, Code::NotFound);
        assert_eq!(refused("two2").message, "there is no node two2");
        let both = refused("twin");
        assert_eq!(
            (both.code, both.message.as_str()),
            (Code::Conflict, "twin is not one node but 2: give its id (1bb2, 1bb3)")
        );
        assert_eq!(refused("1").message, "1 is not one node but 3: give its id (1bb1, 1bb2, 1bb3)");
    }
}
