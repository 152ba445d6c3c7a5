//! The machine, as far as it bears on the figures; read, not measured.

use std::fs;
use std::thread;

use serde::Serialize;

/// What the figures were taken on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor's name, or its architecture where the kernel gives no name.
    pub cpu: String,
    /// Processors that are online.
    pub cores: usize,
    /// Processors that this process may use: its affinity, and its control group's quota in whole ones.
    pub cores_usable: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Whether this program was built without optimisation, which makes its own figures worthless.
    pub debug_build: bool,
}

/// Reads `/proc/cpuinfo`, the affinity and the kernel's name; what can't be read is replaced by what is sure.
#[must_use]
pub fn read() -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores_usable = thread::available_parallelism().map_or(1, usize::from);
    let (cpu, listed) = processors(&cpuinfo);
    Machine {
        cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.into()),
        cores: listed.max(cores_usable),
        cores_usable,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        debug_build: cfg!(debug_assertions),
    }
}

/// The first processor's name and how many are listed (proc(5)); not every architecture gives names.
fn processors(cpuinfo: &str) -> (Option<String>, usize) {
    let fields = || cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let named = |wanted: &'static str| fields().filter(move |(key, _)| key.trim_end() == wanted);
    let name = ["model name", "Model", "cpu model", "uarch"].into_iter().find_map(|key| named(key).next());
    (name.map(|(_, name)| name.trim().to_owned()), named("processor").count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_named_and_counted() {
        let x86 = "processor\t: 0\nmodel name\t: A B: C\n\nprocessor\t: 1\nmodel name\t: A B: C\n";
        assert_eq!(processors(x86), (Some("A B: C".into()), 2));
        let arm = "processor\t: 0\nBogoMIPS\t: 243.75\n\nprocessor\t: 1\n";
        assert_eq!(processors(arm), (None, 2));
        assert_eq!(processors(""), (None, 0));
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_core() {
        let machine = read();
        assert!(machine.cores >= machine.cores_usable && machine.cores_usable >= 1, "{machine:?}");
        assert!(!machine.cpu.is_empty() && !machine.kernel.is_empty(), "{machine:?}");
    }
}
