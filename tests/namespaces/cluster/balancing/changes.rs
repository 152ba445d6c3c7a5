//! Tasks that come, go, and are replaced: what becomes of connections, old and new.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitchd::namespace::netns::NetNs;

use super::held::{Held, Served};
use super::{HTTP, NETWORKS, create, prepare, spread, tasks, vips, wait_until_spread, who};
use crate::cluster::daemons::{Daemons, wait_until, with_daemons};
use crate::cluster::overlay::{endpoint, plug};
use crate::fixture::tool;

pub(in crate::cluster) fn changed() -> Result<()> {
    with_daemons("balancingchanged", 3, |daemons| {
        if tool(&daemons.hosts[0].netns, "busybox true")?.is_none() {
            return Ok(());
        }
        prepare(daemons, 3, 1)?;
        // Tasks that publish a port run once they listen at it.
        create(daemons, &["--replicas", "3", "--network", "bilberry", "-p", "80"])?;
        plug(daemons, 0, 0, NETWORKS[0])?;
        let vip = vips(daemons, "web")?[0];
        let from = endpoint(daemons, 0, 0).netns().clone();
        killed(daemons, &from, vip)?;
        tasks(daemons, 3)?;
        more(daemons, &from, vip)?;
        fewer(daemons, &from, vip)?;
        replaced(daemons, &from, vip)?;
        left(daemons, &from, vip)
    })
}

/// A task that is killed takes its connections with it, and no other's.
fn killed(daemons: &Daemons, from: &NetNs, vip: IpAddr) -> Result<()> {
    let tasks = tasks(daemons, 3)?;
    wait_until_spread(from, SocketAddr::new(vip, HTTP), &tasks)?;
    let servers = tasks.iter().map(Served::start).collect::<Result<Vec<_>>>()?;
    let mut held = Held::all(from, vip, &servers)?;
    held.iter_mut().try_for_each(Held::echo)?;
    let away = held.iter().position(|held| held.task.host != 0).context("one is elsewhere")?;
    let gone = held.swap_remove(away);
    let started = Instant::now();
    daemons.hosts[gone.task.host].say(&["kill", &gone.task.id])?;
    gone.wait_for_reset()?;
    eprintln!("balancing: a connection is reset {:.0?} after its task was to be killed", started.elapsed());
    held.iter_mut().try_for_each(Held::echo)
}

fn now_ms() -> Result<u128> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis())
}

/// Who has answered, and when for the first time, in milliseconds since 1970.
type Answered = Mutex<BTreeMap<String, u128>>;

/// Connects again and again while something changes: none of that may fail.
fn under_load<T>(
    from: &NetNs,
    vip: IpAddr,
    change: impl FnOnce(&Answered) -> Result<T>,
) -> Result<(T, BTreeMap<String, u128>)> {
    let answered = Answered::default();
    let connect = |stop: &Receiver<()>| -> Result<usize> {
        let mut count = 0;
        while stop.try_recv() == Err(TryRecvError::Empty) {
            let name = who(from, SocketAddr::new(vip, HTTP)).with_context(|| format!("after {count}"))?;
            answered.lock().expect("nobody panics with it").entry(name).or_insert(now_ms()?);
            count += 1;
        }
        Ok(count)
    };
    let (changed, count) = thread::scope(|scope| {
        let (running, stop) = channel();
        let client = scope.spawn(move || connect(&stop));
        let changed = change(&answered);
        drop(running);
        (changed, client.join().expect("it returns its errors"))
    });
    eprintln!("balancing: {} connections meanwhile, none failed", count?);
    Ok((changed?, answered.into_inner().expect("nobody panics with it")))
}

/// New tasks get connections as soon as they are known.
fn more(daemons: &Daemons, from: &NetNs, vip: IpAddr) -> Result<()> {
    let before = daemons.hosts[0].json(&["service", "ps", "web"])?;
    let (after, first) = under_load(from, vip, |answered| {
        daemons.hosts[0].say(&["service", "scale", "web=6"])?;
        let mut after = Vec::new();
        wait_until("six answer", || {
            after = daemons.hosts[0].json(&["service", "ps", "web"])?;
            let answered = answered.lock().expect("nobody panics with it");
            let has_answered = |task: &Value| {
                task["id"].as_str().is_some_and(|id| id.len() > 12 && answered.contains_key(&id[..12]))
            };
            Ok(after.len() == 6 && after.iter().all(has_answered))
        })?;
        Ok(after)
    })?;
    // Some slots may have moved.
    for task in after.iter().filter(|task| before.iter().all(|old| old["id"] != task["id"])) {
        let (id, since) = (task["id"].as_str().context("an id")?, task["since_ms"].as_u64());
        let (seen, since) = (first.get(&id[..12]).context("it has answered")?, since.context("a time")?);
        let late = i128::try_from(*seen)? - i128::from(since);
        eprintln!("balancing: a task has answered {late} ms after it was said to run");
    }
    Ok(())
}

/// Those that go take their connections with them; new ones go to those that stay.
fn fewer(daemons: &Daemons, from: &NetNs, vip: IpAddr) -> Result<()> {
    let all = tasks(daemons, 6)?;
    let servers = all.iter().map(Served::start).collect::<Result<Vec<_>>>()?;
    let held = Held::all(from, vip, &servers)?;
    let (kept, _) = under_load(from, vip, |_| {
        daemons.hosts[0].say(&["service", "scale", "web=3"])?;
        tasks(daemons, 3)
    })?;
    let (stay, go): (Vec<Held<'_>>, Vec<Held<'_>>) =
        held.into_iter().partition(|held| kept.iter().any(|task| task.id == held.task.id));
    ensure!(go.len() >= 3, "three slots have gone");
    go.into_iter().try_for_each(Held::wait_for_reset)?;
    for mut held in stay {
        held.echo()?;
    }
    spread(from, SocketAddr::new(vip, HTTP), &kept).map(drop)
}

/// All are replaced one after the other.
fn replaced(daemons: &Daemons, from: &NetNs, vip: IpAddr) -> Result<()> {
    let before = tasks(daemons, 3)?;
    let (after, _) = under_load(from, vip, |_| {
        daemons.hosts[0].say(&["service", "update", "--force", "web"])?;
        let mut after = Vec::new();
        wait_until("all are others", || {
            after = tasks(daemons, 3)?;
            Ok(after.iter().all(|task| before.iter().all(|old| old.id != task.id)))
        })?;
        Ok(after)
    })?;
    spread(from, SocketAddr::new(vip, HTTP), &after).map(drop)
}

/// With a node its tasks' connections end, as soon as it is heard no more.
fn left(daemons: &mut Daemons, from: &NetNs, vip: IpAddr) -> Result<()> {
    let tasks = tasks(daemons, 3)?;
    let servers = tasks.iter().map(Served::start).collect::<Result<Vec<_>>>()?;
    let gone = tasks.iter().map(|task| task.host).find(|&host| host != 0).context("one is elsewhere")?;
    let (go, stay): (Vec<Held<'_>>, Vec<Held<'_>>) =
        Held::all(from, vip, &servers)?.into_iter().partition(|held| held.task.host == gone);
    let started = Instant::now();
    daemons.kill(gone)?;
    let heard = wait_until("it is heard no more", || {
        Ok(!daemons.hosts[0].ready()?.contains(&daemons.hosts[gone].name.to_owned()))
    })?;
    go.into_iter().try_for_each(Held::wait_for_reset)?;
    eprintln!(
        "balancing: a node that was killed is known to be gone after {heard:.1?}, its connections have ended after {:.1?}",
        started.elapsed()
    );
    for mut held in stay {
        held.echo()?;
    }
    Ok(())
}
