use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vswitchd-config-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("group"), "root:x:0:\nwheel:x:10:alice,bob\nbroken:x:many:\n").unwrap();
        Self(path)
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.0.join("vswitchd.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn user(&self, variables: &[(&'static str, &str)]) -> Surroundings {
        Surroundings {
            root: false,
            directory: "/work-dir".into(),
            variables: variables.iter().map(|&(name, value)| (name, value.into())).collect(),
            group_file: self.0.join("group"),
        }
    }

    /// What is wrong with a file, without its path.
    fn refused(&self, text: &str) -> String {
        let flags = Flags { config: Some(self.file(text)), values: vec![] };
        let error = resolve(&self.user(&[("HOME", "/home/a")]), &flags).unwrap_err().to_string();
        error.strip_prefix(&format!("{}/vswitchd.toml:", self.0.display())).unwrap_or(&error).into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn defaults_are_the_users_or_roots() {
    let scratch = Scratch::new("defaults");
    let user = scratch.user(&[("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "/run/user/7")]);
    let config = resolve(&user, &Flags::default()).unwrap();
    assert_eq!(config.state_dir, Path::new("/home/a/.local/state/vswitchd"));
    assert_eq!(config.socket, Path::new("/run/user/7/vswitchd/vswitchd.sock"));
    assert!(config.settings().iter().all(|setting| setting.origin == Origin::Default));
    let bare = resolve(&scratch.user(&[("HOME", "/home/a")]), &Flags::default()).unwrap();
    assert_eq!(bare.socket, Path::new("/home/a/.local/state/vswitchd/vswitchd.sock"));
    let root = Surroundings { root: true, variables: HashMap::new(), ..user };
    let flags = Flags { config: Some(scratch.file("")), values: vec![] };
    let config = resolve(&root, &flags).unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/vswitchd"));
    assert_eq!(config.socket, Path::new("/run/vswitchd/vswitchd.sock"));
    let homeless = resolve(&scratch.user(&[]), &Flags::default()).unwrap_err();
    assert_eq!(homeless.reason, Reason::NoHome);
}

#[test]
fn later_sources_win_and_are_named() {
    let scratch = Scratch::new("order");
    let path =
        scratch.file("# ours\nlog-level = \"warn\"\nsocket-group = \"wheel\"\nstate-dir = \"/srv/a\"\n");
    let variables = [
        ("VSWITCHD_CONFIG", path.to_str().unwrap()),
        ("VSWITCHD_STATE_DIR", "b"),
        ("VSWITCHD_SOCKET", "unix:///srv/s"),
    ];
    let flags = Flags { config: None, values: vec![(Key::Socket, "c.sock".into())] };
    let config = resolve(&scratch.user(&variables), &flags).unwrap();
    let shown: Vec<_> = config
        .settings()
        .into_iter()
        .map(|setting| (setting.value.unwrap_or_default(), setting.origin.to_string()))
        .collect();
    let line = |line| format!("{}:{line}", path.display());
    let expected = [
        ("/work-dir/b".into(), "VSWITCHD_STATE_DIR".into()),
        ("/work-dir/c.sock".into(), "--socket".into()),
        ("wheel".into(), line(3)),
        ("warn".to_owned(), line(2)),
        (String::new(), "default".into()),
        ("false".into(), "default".into()),
        (String::new(), "default".into()),
        (String::new(), "default".into()),
    ];
    assert_eq!(shown, expected);
    assert_eq!(config.socket_group.unwrap().gid, 10);
}

#[test]
fn errors_name_line_key_and_reason() {
    let scratch = Scratch::new("errors");
    for (text, expected) in [
        ("\nstate-dir = 7", "2: state-dir: want a string in quotes, not an integer"),
        ("socket = [\"/a\"]", "1: socket: want a string in quotes, not an array"),
        ("state-dir = \"var\"", "1: state-dir: \"var\" is no absolute path"),
        ("state-dir = \"\"", "1: state-dir: it is empty"),
        (
            "log-level = \"loud\"",
            "1: log-level: \"loud\" is no level: want error, warn, info, debug or trace",
        ),
        ("dns = \"192.0.2.53, there\"", "1: dns: \"there\" is no resolver: want an address, or ADDRESS:PORT"),
        ("allow-tasks = \"perhaps\"", "1: allow-tasks: \"perhaps\": want true or false"),
        ("task-user = \"\"", "1: task-user: it is empty"),
        ("task-commands = \"/bin/a,,/b\"", "1: task-commands: it is empty"),
        ("task-commands = \"/bin/a, b\"", "1: task-commands: \"b\" is no absolute path"),
        ("task-commands = \"bin/a\"", "1: task-commands: \"bin/a\" is no absolute path"),
        ("dns = \"::1,::2,::3,::4\"", "1: dns: more than 3 resolvers"),
        ("socket-group = \"nobody-here\"", "1: socket-group: this system has no group \"nobody-here\""),
        ("socket-group = \"broken\"", "1: socket-group: this system has no group \"broken\""),
        (
            "sokcet = \"/a\"",
            "1: unknown key \"sokcet\": there are state-dir, socket, socket-group, log-level, dns, allow-tasks, task-user, \
             task-commands",
        ),
        (
            "[api]\nsocket = \"/a\"",
            "1: unknown key \"api\": there are state-dir, socket, socket-group, log-level, dns, allow-tasks, task-user, \
             task-commands",
        ),
    ] {
        assert_eq!(scratch.refused(text), expected, "{text}");
    }
    let long = scratch.refused(&format!("socket = \"/{}\"", "x".repeat(107)));
    assert_eq!(long, "1: socket: a socket's path has at most 107 bytes, and this one 108");
    assert_eq!(scratch.refused(&"#".repeat(70_000)), "1: larger than 65536 bytes");
}

#[test]
fn what_is_no_toml_is_one_line_with_its_number() {
    let scratch = Scratch::new("syntax");
    for text in ["\n\nlog-level = ", "\n\nlog-level", "\n\n= \"a\"", "\n\nsocket = \"a", "\n\n\u{1}"] {
        let error = scratch.refused(text);
        assert!(error.starts_with("3: ") && error.lines().count() == 1, "{text:?}: {error}");
    }
    let twice = scratch.refused("socket = \"/a\"\nsocket = \"/b\"");
    assert!(twice.starts_with("2: "), "{twice}");
}

#[test]
fn what_is_overridden_is_checked_too() {
    let scratch = Scratch::new("overridden");
    let user = scratch.user(&[("HOME", "/home/a"), ("VSWITCHD_LOG_LEVEL", "loud")]);
    let flags = Flags { config: None, values: vec![(Key::LogLevel, "info".into())] };
    let error = resolve(&user, &flags).unwrap_err().to_string();
    assert!(error.starts_with("VSWITCHD_LOG_LEVEL: log-level: \"loud\""), "{error}");
}

#[test]
fn a_named_file_must_be_there() {
    let scratch = Scratch::new("named");
    let flags = Flags { config: Some("no-such.toml".into()), values: vec![] };
    let error = resolve(&scratch.user(&[("HOME", "/home/a")]), &flags).unwrap_err().to_string();
    assert!(error.starts_with("--config: can't be read: /work-dir/no-such.toml: "), "{error}");
}

#[test]
fn groups_may_be_numbers() {
    let scratch = Scratch::new("groups");
    let flags = Flags { config: None, values: vec![(Key::SocketGroup, "4711".into())] };
    let config = resolve(&scratch.user(&[("HOME", "/home/a")]), &flags).unwrap();
    assert_eq!(config.socket_group, Some(Group { name: "4711".into(), gid: 4711 }));
}

#[test]
fn resolvers_have_ports_if_others_than_dns_have() {
    let scratch = Scratch::new("resolvers");
    let given = "192.0.2.53, [2001:db8::53]:5353,2001:db8::54";
    let flags = Flags { config: None, values: vec![(Key::Dns, given.into())] };
    let config = resolve(&scratch.user(&[("HOME", "/home/a")]), &flags).unwrap();
    let mut settings = config.settings().into_iter();
    let shown = settings.find(|setting| setting.key == Key::Dns).unwrap();
    assert_eq!(shown.value.as_deref(), Some("192.0.2.53:53,[2001:db8::53]:5353,[2001:db8::54]:53"));
}

#[test]
fn tasks_are_allowed_by_the_operator() {
    let scratch = Scratch::new("tasks");
    let user = scratch.user(&[("HOME", "/home/a")]);
    assert_eq!(resolve(&user, &Flags::default()).unwrap().tasks, TaskPolicy::default());
    let values = [
        (Key::AllowTasks, "true"),
        (Key::TaskUser, "nobody:users"),
        (Key::TaskCommands, "/bin/busybox, /usr/bin/redis-server"),
    ];
    let values = values.map(|(key, value)| (key, value.to_owned()));
    let tasks = resolve(&user, &Flags { config: None, values: values.into() }).unwrap().tasks;
    assert_eq!((tasks.allowed, tasks.user.as_deref()), (true, Some("nobody:users")));
    assert_eq!(tasks.commands.unwrap(), ["/bin/busybox", "/usr/bin/redis-server"]);
}
