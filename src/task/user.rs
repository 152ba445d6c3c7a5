//! Who a program runs as: from a name or number, `/etc/passwd` and `/etc/group` (passwd(5), group(5)).

use std::fs;
use std::path::PathBuf;

use rustix::process::geteuid;

use super::kept::User;

/// Why a program can't run as that user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Not in the file.
    #[error("--user: there is no user {0} on this node")]
    NoUser(String),
    /// Not in the file.
    #[error("--user: there is no group {0} on this node")]
    NoGroup(String),
    /// Files are this host's, so what root's group may do is not for whoever has none.
    #[error("--user: this node's /etc/passwd has no group for user {0}: write {0}:GROUP")]
    NoGroupOf(String),
    /// There is only one user in a namespace that an ordinary user has made.
    #[error(
        "--user {0}: the daemon is not root, so its tasks run as its own user {1}, who appears as root: leave it out, or \
         say 0"
    )]
    NotOurs(String, u32),
}

/// The user that `wanted` names (`USER[:GROUP]`), for a daemon as this process, which is root or not.
///
/// # Errors
/// If there is none, or it can't be had.
pub fn find_user(wanted: Option<&str>, is_root: bool) -> Result<User, UserError> {
    // Without the files there are numbers.
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    find(wanted, (geteuid().as_raw(), is_root), &read("/etc/passwd"), &read("/etc/group"))
}

fn find(
    wanted: Option<&str>,
    (own, is_root): (u32, bool),
    passwd: &str,
    group: &str,
) -> Result<User, UserError> {
    let line = |id: u32| records(passwd).find(|record| record.get(2) == Some(&&*id.to_string()));
    let home_of = |record: Option<Vec<&str>>| {
        PathBuf::from(
            record.and_then(|record| record.get(5).copied()).filter(|home| !home.is_empty()).unwrap_or("/"),
        )
    };
    let Some(wanted) = wanted else {
        return Ok(User { ids: None, home: home_of(line(own)) });
    };
    let (name, group_name) =
        wanted.split_once(':').map_or((wanted, None), |(name, group)| (name, Some(group)));
    if !is_root {
        return match (name, group_name) {
            ("0" | "root", None | Some("0" | "root")) => Ok(User { ids: None, home: home_of(line(own)) }),
            _ => Err(UserError::NotOurs(wanted.into(), own)),
        };
    }
    let named = records(passwd).find(|record| record.first() == Some(&name));
    let number =
        |record: &Vec<&str>, field: usize| record.get(field).and_then(|text| text.parse::<u32>().ok());
    let (record, uid) = match (named, name.parse::<u32>()) {
        (Some(record), _) => {
            let uid = number(&record, 2).ok_or_else(|| UserError::NoUser(name.into()))?;
            (Some(record), uid)
        }
        (None, Ok(uid)) => (line(uid), uid),
        (None, Err(_)) => return Err(UserError::NoUser(name.into())),
    };
    let gid = match group_name {
        None => record
            .as_ref()
            .and_then(|record| number(record, 3))
            .ok_or_else(|| UserError::NoGroupOf(name.into()))?,
        Some(group_name) => records(group)
            .find(|record| record.first() == Some(&group_name))
            .and_then(|record| number(&record, 2))
            .or_else(|| group_name.parse().ok())
            .ok_or_else(|| UserError::NoGroup(group_name.into()))?,
    };
    Ok(User { ids: Some((uid, gid)), home: home_of(record) })
}

fn records(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines().map(|line| line.split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\nodd:x\neve:x:1001\n";
    const GROUP: &str = "wheel:x:10:\nusers:x:100:ann\n";

    fn found(wanted: &str) -> Result<(Option<(u32, u32)>, String), UserError> {
        let user = find(Some(wanted), (0, true), PASSWD, GROUP)?;
        Ok((user.ids, user.home.display().to_string()))
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(found("ann"), Ok((Some((1000, 100)), "/home/ann".into())));
        assert_eq!(found("1000"), found("ann"));
        assert_eq!(found("ann:wheel"), Ok((Some((1000, 10)), "/home/ann".into())));
        assert_eq!(found("ann:7").unwrap().0, Some((1000, 7)));
        assert_eq!(found("4000"), Err(UserError::NoGroupOf("4000".into())), "not root's");
        assert_eq!(found("4000:4000"), Ok((Some((4000, 4000)), "/".into())));
        assert_eq!([found("0"), found("eve")].map(Result::ok), [Some((Some((0, 0)), "/root".into())), None]);
        assert_eq!(found("bob"), Err(UserError::NoUser("bob".into())));
        assert_eq!(found("odd"), Err(UserError::NoUser("odd".into())));
        assert_eq!(found("ann:none"), Err(UserError::NoGroup("none".into())));
    }

    #[test]
    fn an_ordinary_users_daemon_has_one_user() {
        let of = |wanted| find(wanted, (1000, false), PASSWD, GROUP);
        let own = Ok(User { ids: None, home: "/home/ann".into() });
        assert_eq!([of(None), of(Some("0")), of(Some("root:0"))], [own.clone(), own.clone(), own]);
        assert_eq!(of(Some("1")), Err(UserError::NotOurs("1".into(), 1000)));
    }
}
