//! Two halves of a cluster that can't hear each other, each with a manager that goes on writing.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::daemons::{wait_until, with_daemons};

/// Managers and workers of the two halves.
const HALVES: [[usize; 2]; 2] = [[0, 2], [1, 3]];

pub(super) fn merges() -> Result<()> {
    with_daemons("partition", 4, |daemons| {
        daemons.form(4, 2)?;
        let [one, other] = HALVES;
        daemons.split(&other)?;
        daemons.wait_until_see(&one, &other, false)?;
        daemons.wait_until_see(&other, &one, false)?;
        for half in HALVES {
            daemons.wait_until_see(&half, &half, true)?;
        }
        // Different records on each side, and one that both write: the later one holds.
        let before = daemons.hosts[0].token("worker")?;
        daemons.hosts[0].say(&["network", "create", "redcurrant"])?;
        daemons.hosts[1].say(&["network", "create", "gooseberry", "--opt", "encrypted"])?;
        daemons.hosts[0].say(&["token", "worker", "--rotate"])?;
        daemons.hosts[1].say(&["token", "worker", "--rotate"])?;
        daemons.hosts[1].say(&["token", "manager", "--rotate"])?;
        // Keys of which the other half knows nothing, so that neither understands the other any more.
        daemons.hosts[0].say(&["keys", "rotate"])?;
        daemons.hosts[1].say(&["keys", "rotate"])?;
        let [worker, manager] = ["worker", "manager"].map(|role| daemons.hosts[1].token(role));
        let (worker, manager) = (worker?, manager?);
        ensure!(
            daemons.hosts[0].networks()? == ["redcurrant"] && daemons.hosts[3].networks()? == ["gooseberry"]
        );
        let united = Instant::now();
        daemons.unite(&other)?;
        daemons.wait_until_all_see_all()?;
        let seen = united.elapsed();
        wait_until("all know the same", || {
            let networks = daemons.hosts.iter().map(|host| host.networks()).collect::<Result<Vec<_>>>()?;
            Ok(networks.iter().all(|names| names == &["gooseberry", "redcurrant"]) && daemons.agree()?)
        })?;
        wait_until("both managers let nodes in by the tokens rotated last", || {
            let tokens = [0, 1].map(|host| {
                Ok([daemons.hosts[host].token("worker")?, daemons.hosts[host].token("manager")?])
            });
            let [one, other]: [Result<[String; 2]>; 2] = tokens;
            let wanted = [worker.clone(), manager.clone()];
            Ok(one? == wanted && other? == wanted)
        })?;
        ensure!(worker != before);
        eprintln!(
            "partition: all heard each other after {seen:.1?}, knew the same after {:.1?}",
            united.elapsed()
        );
        Ok(())
    })
}
