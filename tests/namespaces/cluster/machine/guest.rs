//! A guest: Debian's kernel, busybox and a script, in QEMU without hardware's help.
//!
//! KVM in a virtual machine may be there and not work, and the boot takes seconds without it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::archive::Archive;

/// What runs it.
const QEMU: &str = "qemu-system-x86_64";
/// Where Debian's packages put it.
const BUSYBOX: &str = "/bin/busybox";
/// What a machine's network device needs, in an order in which each finds what it stands on.
const MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];
/// From power on to the last word, on cores that others want too; some seconds where they don't.
const PATIENCE: Duration = Duration::from_secs(150);

/// What guests are made of.
pub(super) struct Parts {
    kernel: PathBuf,
    busybox: Vec<u8>,
    /// Names and contents.
    modules: Vec<(String, Vec<u8>)>,
}

impl Parts {
    /// What this machine has; none, and a word about what is missing, where that may be.
    pub(super) fn find() -> Result<Option<Self>> {
        match Self::look() {
            Ok(parts) => Ok(Some(parts)),
            Err(missing) => {
                let required = std::env::var_os("CI").is_some_and(|ci| ci == "true");
                ensure!(!required, "with CI=true a guest must start: {missing:#}");
                eprintln!(
                    "\nTHIS TEST CAN'T RUN HERE: {missing:#}; docs/operations.md says what guests need\n"
                );
                Ok(None)
            }
        }
    }

    fn look() -> Result<Self> {
        let version = Command::new(QEMU).arg("--version").output();
        version.with_context(|| format!("{QEMU} is not installed"))?;
        let busybox = fs::read(BUSYBOX).with_context(|| format!("{BUSYBOX} is not installed"))?;
        ensure!(is_static(&busybox) == Some(true), "{BUSYBOX} is not static: install busybox-static");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
        let no_kernel = || format!("no kernel for guests is unpacked in {}", folder.display());
        let kernel = only(&folder.join("boot"), "vmlinuz-").with_context(no_kernel)?;
        let drivers = only(&folder.join("lib/modules"), "").with_context(no_kernel)?.join("kernel");
        let files = walk(&drivers)?;
        let module = |name: &&str| {
            let is_it = |path: &&PathBuf| {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko"))
            };
            let path =
                files.iter().find(is_it).with_context(|| format!("the kernel has no module {name}"))?;
            Ok((path.file_name().context("a name")?.to_string_lossy().into_owned(), fs::read(path)?))
        };
        Ok(Self { kernel, busybox, modules: MODULES.iter().map(module).collect::<Result<_>>()? })
    }

    /// The first file system: a script for a shell is run once the network device is there, then the power goes
    /// off.
    fn file_system(&self, script: &str) -> Vec<u8> {
        let mut archive = Archive::default();
        for directory in ["bin", "lib", "dev", "proc", "sys"] {
            archive.directory(directory);
        }
        archive.program("bin/busybox", &self.busybox);
        let mut init = "#!/bin/busybox sh\nexport PATH=/bin\n/bin/busybox --install /bin\n".to_owned();
        init += "mount -t devtmpfs none /dev; mount -t proc none /proc; mount -t sysfs none /sys\n";
        for (name, bytes) in &self.modules {
            archive.program(&format!("lib/{name}"), bytes);
            init += &format!("insmod /lib/{name}\n");
        }
        init += &format!("{script}\necho guest: END\npoweroff -f\n");
        archive.program("init", init.as_bytes());
        archive.finish()
    }

    /// Runs a guest to its end, with what QEMU is to be told about its network. Gives what its script has said:
    /// lines that begin with `guest: `, without that.
    pub(super) fn run(&self, folder: &Path, network: &[String], script: &str) -> Result<Vec<String>> {
        let first = folder.join("guest.cpio");
        fs::write(&first, self.file_system(script))?;
        let mut command = Command::new(QEMU);
        command.args(["-accel", "tcg", "-m", "128", "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-serial", "stdio"]).args(network);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(first);
        command.args(["-append", "console=ttyS0 quiet panic=-1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Guest::start(command)?.finish()
    }
}

/// Whether a 64-bit program asks for no interpreter (elf(5): no program header of type `PT_INTERP`).
fn is_static(program: &[u8]) -> Option<bool> {
    let number = |at: usize, len: usize| {
        let bytes = program.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    };
    let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let types = (0..count).map(|header| number(start + header * size, 4));
    Some(types.collect::<Option<Vec<_>>>()?.iter().all(|&of| of != 3))
}

/// The only file of a directory whose name begins so.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let all = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut fit = all.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    match (fit.next(), fit.next()) {
        (Some(only), None) => Ok(only.path()),
        _ => bail!("{} has not one {prefix}*", folder.display()),
    }
}

/// Every file below a directory.
fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(walk(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// A running guest; it ends with this.
struct Guest {
    child: Child,
    lines: Receiver<String>,
}

impl Guest {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.spawn()?;
        let (sender, lines) = channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().context("standard output is piped")?),
            Box::new(child.stderr.take().context("standard error is piped")?),
        ];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
                for line in lines {
                    // Nobody listens once the test has failed.
                    let _ = sender.send(String::from_utf8_lossy(&line).trim().to_owned());
                }
            });
        }
        Ok(Self { child, lines })
    }

    fn finish(mut self) -> Result<Vec<String>> {
        let (deadline, mut all) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => all.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest is still at it after {PATIENCE:?}: {all:#?}")
                }
            }
        }
        let status = self.child.wait()?;
        let said: Vec<String> =
            all.iter().filter_map(|line| line.strip_prefix("guest: ").map(Into::into)).collect();
        let ended = status.success() && said.last().is_some_and(|last| last == "END");
        ensure!(ended, "the guest has ended early, {status}: {all:#?}");
        Ok(said)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has ended by itself unless something has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
