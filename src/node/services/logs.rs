//! What the tasks of a service have written, from the nodes that have them.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::super::cluster::Cluster;
use super::super::life::internal;
use super::super::links::{Answer, LinkError, Request};
use super::lookup::find_service;
use crate::api::{LogMark, LogsRequest, Name, Refusal, ServiceLogs, ServiceTaskView, TaskLog};
use crate::crypto::identity::{NodeId, Role};
use crate::crypto::peer::Peer;
use crate::task::log;

/// Bytes of lines in an answer, of all tasks together: a quarter of what an answer may have, since lines are escaped.
const BYTES_MAX: usize = crate::api::ANSWER_MAX / 4;
/// The same of what has come: a line of each task may be longer than its part. What is beyond that is left out, since nodes
/// answer as they like.
const ROOM: usize = 2 * BYTES_MAX;
/// Nodes that are asked at a time.
const ASKED_AT_ONCE: usize = 16;

/// What is asked about one task.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct LogQuestion {
    /// The task's id.
    pub(crate) task: String,
    /// Where the asker is in its log.
    pub(crate) mark: Option<LogMark>,
    /// How many lines it wants of what was before; none: all.
    pub(crate) tail: Option<u64>,
    /// How many bytes at most, but for a single line.
    pub(crate) most: u32,
}

impl Cluster {
    /// What the tasks of a service have written since it was asked last; on a manager.
    pub(in crate::node) async fn service_logs(
        self: &Arc<Self>,
        wanted: &Name,
        request: &LogsRequest,
    ) -> Result<ServiceLogs, Refusal> {
        self.manages()?;
        let service = find_service(&self.service_views(), wanted)?.clone();
        let records = self.task_records().into_iter().filter(|(.., task)| task.service == service.id);
        let records: Vec<_> = records.collect();
        let most = BYTES_MAX / records.len().max(1);
        let (mut asked, mut all) = (JoinSet::new(), ServiceLogs::default());
        for (node, id, task) in records {
            if asked.len() >= ASKED_AT_ONCE {
                take(&mut all, asked.join_next().await);
            }
            let question = LogQuestion {
                task: id.clone(),
                mark: request.marks.get(&id).copied(),
                tail: request.tail,
                most: u32::try_from(most).map_err(internal)?,
            };
            let name = ServiceTaskView::name_of(service.spec.name.as_str(), task.slot);
            let (cluster, node_name) = (Arc::clone(self), self.node_name(node));
            asked.spawn(async move {
                match cluster.ask_log(node, question).await {
                    Ok((lines, mark, more)) => Ok(TaskLog { id, name, node: node_name, lines, mark, more }),
                    Err(error) => Err(format!("{name} on {node_name}: {error}")),
                }
            });
        }
        while let Some(answer) = asked.join_next().await {
            take(&mut all, Some(answer));
        }
        Ok(all)
    }

    async fn ask_log(
        &self,
        node: NodeId,
        question: LogQuestion,
    ) -> Result<(String, Option<LogMark>, bool), LinkError> {
        let answer = if node == self.id {
            self.read_log(&question).await
        } else {
            let place = self.peers().into_iter().find(|(known, _)| *known == node).map(|(_, peer)| peer.addr);
            let place = place.ok_or_else(|| LinkError::No("nobody knows where it is".into()))?;
            self.links.ask(Some(node), place, &Request::TaskLog(question)).await?.1
        };
        match answer {
            Answer::TaskLog(lines, mark, more) => Ok((lines, mark, more)),
            Answer::Refused(reason) => Err(LinkError::No(reason)),
            _ => Err(LinkError::Nonsense),
        }
    }

    /// Answers a manager.
    pub(in crate::node) async fn answer_log(&self, from: &Peer, question: &LogQuestion) -> Answer {
        match from.role {
            Role::Manager => self.read_log(question).await,
            Role::Worker => Answer::Refused("that is for managers".into()),
        }
    }

    /// Of a task that this node has said to have: others are nobody's business.
    async fn read_log(&self, question: &LogQuestion) -> Answer {
        let is_ours =
            self.task_records().iter().any(|(node, id, _)| *node == self.id && *id == question.task);
        if !is_ours {
            return Answer::Refused("it has no such task".into());
        }
        let directory = crate::task::directory(&self.state, &question.task);
        let most = usize::try_from(question.most).unwrap_or(BYTES_MAX).min(BYTES_MAX);
        let (mark, tail) = (question.mark, question.tail);
        // It is as long as the task has written: too much for a thread that has other things to do.
        let read = tokio::task::spawn_blocking(move || log::after(&directory, mark, tail, most)).await;
        match read {
            Ok(Ok(log::Passage { lines, mark, more })) => {
                Answer::TaskLog(String::from_utf8_lossy(&lines).into_owned(), mark, more)
            }
            Ok(Err(error)) => Answer::Refused(format!("its log can't be read: {error}")),
            Err(error) => Answer::Refused(format!("its log can't be read: {error}")),
        }
    }
}

type Asked = Option<Result<Result<TaskLog, String>, tokio::task::JoinError>>;

fn take(all: &mut ServiceLogs, answer: Asked) {
    match answer {
        Some(Ok(Ok(log))) => {
            let held: usize = all.logs.iter().map(|log| log.lines.len()).sum();
            if held + log.lines.len() <= ROOM {
                all.logs.push(log);
            } else {
                all.failures.push(format!("{} on {}: there is no room for its lines", log.name, log.node));
            }
        }
        Some(Ok(Err(failure))) => all.failures.push(failure),
        Some(Err(error)) => all.failures.push(error.to_string()),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_says_too_much_is_left_out() {
        let mut all = ServiceLogs::default();
        let log = |id: &str, len: usize| {
            let (id, name, node) = (id.into(), "web.1".into(), "node-1".into());
            Some(Ok(Ok(TaskLog { id, name, node, lines: "x".repeat(len), mark: None, more: false })))
        };
        take(&mut all, log("a", BYTES_MAX));
        take(&mut all, log("b", ROOM));
        take(&mut all, log("c", ROOM - BYTES_MAX));
        take(&mut all, log("d", 1));
        let kept: Vec<&str> = all.logs.iter().map(|log| log.id.as_str()).collect();
        assert_eq!((kept, all.failures.len()), (vec!["a", "c"], 2));
        assert_eq!(all.failures[0], "web.1 on node-1: there is no room for its lines");
    }
}
