//! Who holds what a removed node held: found out by asking everybody, twice.
//!
//! An address is free for the taking if no member claims it, all at one moment. Answers come one after the
//! other, and while they do, addresses move. So all are asked again when all have answered: if nobody's claims
//! changed between, then the answers hold together for the moment between the two rounds (the double collect of
//! Afek et al., "Atomic snapshots of shared memory", 1993, §3). Before it answers, each member swears to take
//! nothing more of the removed node's. What is on its way belongs to its giver until it has arrived, which the
//! taker's answer tells.
//!
//! Any member may ask; by custom it is the one with the lowest id. Of two that ask at once the higher one gives
//! way, since it finds itself asked, or gets no answer. Whoever has asked, and whomever addresses were given to,
//! is named in the answers and asked as well, so it does no harm if the list of members was not complete.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::pool::{PEERS_MAX, Pool};
use super::range::{Range, RangeSet};
use crate::gossip::NodeId;

/// Asks a member what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Whose addresses are looked for. A member that has not heard of a removal yet doesn't answer.
    pub gone: BTreeSet<NodeId>,
    /// Which question it is: the answer repeats it.
    pub round: u64,
}

/// What a member holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The question's.
    pub round: u64,
    /// Changes whenever one of the following does.
    pub version: u64,
    /// What it holds.
    pub held: RangeSet,
    /// What it gave without knowing that it arrived: to whom, the gift's number, the addresses.
    pub underway: Vec<(NodeId, u64, Range)>,
    /// The number of the last gift it has from each.
    pub taken: BTreeMap<NodeId, u64>,
    /// Members that may hold something.
    pub knows: BTreeSet<NodeId>,
}

/// What comes of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// What this one holds.
    Holds(Statement),
    /// Not now: it asks itself, or has not heard of that removal. Ask again later.
    NotYet,
}

/// A survey under way. Not kept: after a restart it begins again.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    round: u64,
    members: BTreeSet<NodeId>,
    /// The versions of the round before, once that is complete; our own among them.
    first: Option<BTreeMap<NodeId, u64>>,
    statements: BTreeMap<NodeId, Statement>,
}

impl Survey {
    fn next_round(&mut self, first: Option<BTreeMap<NodeId, u64>>) {
        self.round = self.round.wrapping_add(1);
        self.first = first;
        self.statements.clear();
    }
}

impl Pool {
    /// Begins to look for what removed nodes held, if this has not been done and it is this node's turn among
    /// `members`. True if it began. `chance` is a random number: answers to a survey before a crash are told by
    /// it.
    pub fn begin_survey(&mut self, members: &BTreeSet<NodeId>, chance: u64) -> bool {
        let mut members: BTreeSet<NodeId> = members.union(&self.acquaintances()).copied().collect();
        members.retain(|node| !self.ledger.gone.contains(node));
        let turn = members.iter().all(|&node| self.me <= node);
        if !turn || self.survey.is_some() || self.ledger.gone == self.settled || self.is_set_back() {
            return false;
        }
        members.remove(&self.me);
        self.survey = Some(Survey { round: chance, members, first: None, statements: BTreeMap::new() });
        self.settle_round();
        true
    }

    /// Whom to ask what, as long as a survey is under way: those who have not answered yet.
    #[must_use]
    pub fn questions(&self) -> Vec<(NodeId, Question)> {
        let Some(survey) = &self.survey else { return Vec::new() };
        let question = Question { gone: self.ledger.gone.clone(), round: survey.round };
        let open = survey.members.iter().filter(|node| !survey.statements.contains_key(node));
        open.map(|&node| (node, question.clone())).collect()
    }

    /// Gives up a survey; it can be begun again.
    pub fn end_survey(&mut self) {
        self.survey = None;
    }

    /// Answers another member. The pool must be saved before the answer is sent.
    pub fn handle_question(&mut self, from: NodeId, question: &Question) -> Answer {
        let gone = &self.ledger.gone;
        // Both must know of the same removals: nothing may be taken any more from any of them.
        if gone.contains(&from) || from == self.me || *gone != question.gone {
            return Answer::NotYet;
        }
        if self.survey.is_some() && self.me < from {
            return Answer::NotYet;
        }
        self.survey = None;
        if self.ledger.surveyors.len() < PEERS_MAX && self.ledger.surveyors.insert(from) {
            self.version += 1;
        }
        Answer::Holds(self.statement(question.round))
    }

    fn statement(&self, round: u64) -> Statement {
        let given = self.ledger.given.iter();
        Statement {
            round,
            version: self.version,
            held: self.held.clone(),
            underway: given.filter_map(|(&to, given)| Some((to, given.last, given.outstanding?))).collect(),
            taken: self.ledger.taken.clone(),
            knows: self.acquaintances(),
        }
    }

    /// A member has answered. True if that was the last answer needed and addresses were found: this node holds
    /// them now. The pool must be saved before any of them is used.
    pub fn handle_answer(&mut self, from: NodeId, answer: &Answer) -> bool {
        let Answer::Holds(statement) = answer else { return false };
        let Some(survey) = &mut self.survey else { return false };
        if statement.round != survey.round || !survey.members.contains(&from) {
            return false;
        }
        survey.statements.insert(from, statement.clone());
        for &node in &statement.knows {
            let new = node != self.me && !self.ledger.gone.contains(&node);
            if new && survey.members.len() < PEERS_MAX && survey.members.insert(node) {
                // Nobody was asked before it was known whom to ask.
                survey.first = None;
            }
        }
        self.settle_round()
    }

    /// Goes on when all have answered: to the second round, to the end, or back to the beginning.
    fn settle_round(&mut self) -> bool {
        let own = self.statement(0);
        let Some(survey) = &mut self.survey else { return false };
        if !survey.members.iter().all(|node| survey.statements.contains_key(node)) {
            return false;
        }
        survey.statements.insert(self.me, own);
        let versions = survey.statements.iter().map(|(&node, statement)| (node, statement.version)).collect();
        if survey.first.as_ref() != Some(&versions) && !survey.members.is_empty() {
            survey.next_round(Some(versions));
            return false;
        }
        let mut found = RangeSet::from(self.space.bounds());
        found.subtract(&claims(&survey.statements));
        self.survey = None;
        self.settled.clone_from(&self.ledger.gone);
        found.iter().for_each(|range| self.hold(range));
        !found.is_empty()
    }

    /// Members that may hold something, as far as this one knows.
    fn acquaintances(&self) -> BTreeSet<NodeId> {
        let ledger = &self.ledger;
        let all = ledger.given.keys().chain(ledger.taken.keys()).chain(&ledger.surveyors);
        all.filter(|node| !ledger.gone.contains(node)).copied().collect()
    }
}

/// All that is held or under way, by statements that hold at one moment.
fn claims(statements: &BTreeMap<NodeId, Statement>) -> RangeSet {
    let mut claims = RangeSet::default();
    for (from, statement) in statements {
        claims.extend(&statement.held);
        for (to, number, range) in &statement.underway {
            // What has arrived may have been handed on since then, even to a node that was removed.
            let taken = statements.get(to).and_then(|other| other.taken.get(from));
            if taken.is_none_or(|taken| taken < number) {
                claims.insert(*range);
            }
        }
    }
    claims
}
