//! `vswitchd bench` as a user runs it. No test asks how fast anything is, only that it was measured.
//!
//! What this machine forbids the program says in its own words; with `CI=true` that is a failure.

mod processes;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

use processes::{family, is_alive, wait_until};

const BENCH: &str = env!("CARGO_BIN_EXE_vswitchd");
/// `nobody`'s, on most systems; any user but root will do.
const ORDINARY: u32 = 65_534;
/// The parts of a report and figures of each.
const PARTS: [(&str, &[&str]); 5] = [
    (
        "tap",
        &[
            "read_small_ns",
            "write_small_ns",
            "read_bulk_gbit_s",
            "write_bulk_gbit_s",
            "bulk_frame_bytes",
            "stream_gbit_s",
        ],
    ),
    ("udp", &["datagrams_per_message", "receive_buffer_bytes", "receive_buffer_asked_bytes"]),
    ("memory", &["out_small_ns", "in_small_ns", "out_bulk_gbit_s", "in_bulk_gbit_s"]),
    ("aead", &["seal_gb_s", "open_gb_s"]),
    ("stream", &["gbit_s"]),
];

fn bench() -> Command {
    let mut command = Command::new(BENCH);
    command.args(["bench", "--seconds", "0.1"]).stdin(Stdio::null());
    command
}

fn report(output: &Output) -> Result<Value> {
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{:?}: {}", output.status, said());
    ensure!(output.stderr.is_empty(), "to the standard error, which is no terminal: {}", said());
    serde_json::from_slice(&output.stdout).context("JSON")
}

/// The part has every figure, and each is more than nothing.
fn is_measured(report: &Value, part: &str) -> Result<()> {
    let (_, figures) = PARTS.iter().find(|(name, _)| *name == part).context("a part")?;
    for figure in *figures {
        ensure!(report[part][figure].as_f64() > Some(0.0), "{part}.{figure}: {report}");
    }
    if part == "udp" {
        for pointer in ["singles/send_ns", "singles/receive_ns", "singles/arrived_per_s"]
            .into_iter()
            .chain([
                "batches/send_ns",
                "batches/receive_ns",
                "equal/send_ns",
                "equal/receive_ns",
                "equal/arrived_per_s",
            ])
            .chain(["runs/send_gbit_s", "runs/receive_gbit_s", "runs/arrived_gbit_s"])
        {
            let figure = report.pointer(&format!("/udp/{pointer}")).and_then(Value::as_f64);
            ensure!(figure > Some(0.0), "udp/{pointer}: {report}");
        }
    }
    Ok(())
}

/// Every part is measured, or says why not in one line, which with `CI=true` may not be.
fn is_complete(report: &Value) -> Result<()> {
    for figure in ["cores", "cores_usable"] {
        ensure!(report["machine"][figure].as_u64() > Some(0), "{report}");
    }
    ensure!(report["limits"].is_array(), "{report}");
    for (part, _) in PARTS {
        match report[part]["missing"].as_str() {
            None => is_measured(report, part)?,
            Some(reason) => {
                ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{part}: {reason}");
                ensure!(reason.lines().count() == 1, "{part}: {reason:?}");
                eprintln!("\nBENCH CAN'T MEASURE {part} HERE: {reason}\n");
            }
        }
    }
    is_measured_anywhere(report)
}

/// What nothing can forbid.
fn is_measured_anywhere(report: &Value) -> Result<()> {
    ["memory", "udp", "aead"].into_iter().try_for_each(|part| is_measured(report, part))
}

#[test]
fn json_has_every_part_with_its_figures() -> Result<()> {
    is_complete(&report(&bench().args(["--format", "json"]).output()?)?)
}

#[test]
fn an_ordinary_user_measures_what_the_devices_mode_allows() -> Result<()> {
    if !geteuid().is_root() {
        // The other tests are run by one.
        return Ok(());
    }
    // Where the program was built may be closed to others.
    let folder = Folder::new()?;
    let program = folder.0.join("vswitchd");
    fs::copy(BENCH, &program)?;
    let mut command = Command::new(program);
    command.args(["bench", "--seconds", "0.1", "--format", "json"]).stdin(Stdio::null());
    let report = report(&command.uid(ORDINARY).gid(ORDINARY).current_dir("/").output()?)?;
    is_measured_anywhere(&report)?;
    let open = fs::metadata("/dev/net/tun").is_ok_and(|meta| meta.permissions().mode() & 0o006 == 0o006);
    for part in ["tap", "stream"] {
        match report[part]["missing"].as_str() {
            None => is_measured(&report, part)?,
            Some(reason) => {
                ensure!(!open || reason.contains("sudo") || reason.contains("namespace"), "{reason}")
            }
        }
    }
    Ok(())
}

/// A folder that everybody may enter; gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("vswitchd-bench-{}", std::process::id()));
        fs::create_dir(&path)?;
        let folder = Self(path);
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755))?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A test that failed before may have left nothing to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// In a user namespace of its own, whose root may set its limits: no more network namespaces.
#[test]
fn a_refused_sandbox_is_one_line_and_the_rest_is_measured() -> Result<()> {
    let script = "ip link set lo up && echo 0 > /proc/sys/user/max_net_namespaces && exec \"$0\" \"$@\"";
    let refused = |format: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", script, BENCH]);
        command.args(["bench", "--seconds", "0.1", "--format", format]).stdin(Stdio::null()).output()
    };
    let json = match refused("json") {
        Ok(output) if output.stderr.is_empty() => output,
        unable => {
            ensure!(
                std::env::var_os("CI").is_none_or(|ci| ci != "true"),
                "with CI=true it must run: {unable:?}"
            );
            eprintln!("\nA REFUSED SANDBOX CAN'T BE TESTED HERE: unshare and ip: {unable:?}\n");
            return Ok(());
        }
    };
    let report = report(&json)?;
    for part in ["tap", "stream"] {
        let reason = report[part]["missing"].as_str().context("it must be missing")?;
        ensure!(
            reason.starts_with("user.max_net_namespaces is 0") && reason.lines().count() == 1,
            "{reason}"
        );
    }
    ensure!(report["udp"]["path"] == "loopback", "{report}");
    is_measured_anywhere(&report)?;
    let text = String::from_utf8(refused("text")?.stdout)?;
    let told: Vec<&str> = text.lines().filter(|line| line.contains("max_net_namespaces is 0")).collect();
    ensure!(told.len() == 1 && told[0].starts_with("not measured: TAP, two switches: "), "{text}");
    Ok(())
}

#[test]
fn people_get_one_screen() -> Result<()> {
    let output = bench().output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    for part in ["machine ", "one core", "switch, out", "UDP, runs (UDP_SEGMENT)", "what limits it"] {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    ensure!(text.lines().count() <= 40, "{} lines: {text}", text.lines().count());
    // The processor's name and reasons are as long as they are.
    let free = |line: &&str| !line.starts_with("machine ") && !line.starts_with("not measured: ");
    let longest = text.lines().filter(free).map(|line| line.chars().count()).max();
    ensure!(longest <= Some(100), "{text}");
    Ok(())
}

#[test]
fn a_full_disk_is_an_error() -> Result<()> {
    let full = fs::File::options().write(true).open("/dev/full")?;
    let refused = bench().stdout(full).stderr(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1) && said.lines().count() == 1, "{:?} {said}", refused.status);
    Ok(())
}

/// Interfaces of this namespace.
fn devices() -> Result<BTreeSet<String>> {
    let names = fs::read_dir("/sys/class/net")?;
    names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// The network namespace that a process is in, if it is there and ours to ask.
fn netns(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// The network namespaces that any process is in.
fn all_netns() -> Result<BTreeSet<PathBuf>> {
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(netns).collect())
}

/// Interrupted early, or late with its two switches running: everything ends, at once and for good.
#[test]
fn an_interruption_leaves_nothing() -> Result<()> {
    let before = devices()?;
    let ours = netns(std::process::id()).context("our namespace")?;
    for processes in [3, 5] {
        let mut child = Command::new(BENCH)
            .args(["bench", "--seconds", if processes == 3 { "10" } else { "0.3" }])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut all = Vec::new();
        let mut over = None;
        wait_until("its processes run", || {
            all = family(child.id())?;
            over = child.try_wait()?;
            Ok(all.len() >= processes || over.is_some())
        })?;
        if let Some(status) = over {
            ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "it ended first: {status:?}");
            eprintln!("\nBENCH HAS FEWER THAN {processes} PROCESSES HERE: nothing to interrupt\n");
            return Ok(());
        }
        let theirs: BTreeSet<PathBuf> =
            all.iter().filter_map(|&pid| netns(pid)).filter(|of| *of != ours).collect();
        ensure!(!theirs.is_empty(), "they are in namespaces of their own");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a pid")?;
        kill_process(pid, Signal::INT)?;
        let status = child.wait()?;
        ensure!(status.code() == Some(130), "{status:?}");
        ensure!(!all.into_iter().any(is_alive), "a process is left");
        ensure!(all_netns()?.is_disjoint(&theirs), "a namespace is left");
    }
    ensure!(devices()? == before, "a device is left");
    Ok(())
}
