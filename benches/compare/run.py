#!/usr/bin/env python3
"""Compares overlays in one testbed: two namespaces, one veth pair, every round measures every system once.

    run.py [--rounds 5] [--systems vxlan-kernel,vswitchd@gro,...] [--metrics tcp1,...] [--out results.json]
    run.py --show results.json

Rounds interleave the systems and rotate their order, so that a machine's slow drift hits all alike. Printed are medians,
their ratios to the reference system with the same underlay profile, and min/median/max. README.md says more.
"""
import argparse
import fcntl
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PREFIX = os.environ.setdefault("BENCH_PREFIX", "vsb")
WORK = Path(os.environ.setdefault("BENCH_WORK", "/run/vswitchd-compare"))
NS_A, NS_B = PREFIX + "A", PREFIX + "B"
OV_B = "198.19.0.2"
PPS = HERE / "tools/bin/pps"
SECS = float(os.environ.get("BENCH_SECS", "10"))  # tcp1 and tcp4
SECS_SHORT = float(os.environ.get("BENCH_SECS_SHORT", "4"))  # the rest
UDP_LEN = int(os.environ.get("BENCH_UDP_LEN", "64"))
NDR_LOSS = float(os.environ.get("BENCH_NDR_LOSS", "0.005"))  # what is still called no loss
CC = os.environ.get("BENCH_CC", "cubic")  # TCP congestion control; empty: the machine's default
QUIET = float(os.environ.get("BENCH_QUIET", "0.25"))  # cores busy with other work that are let pass
QUIET_WAIT = float(os.environ.get("BENCH_QUIET_WAIT", "90"))  # seconds to wait for that
HZ = os.sysconf("SC_CLK_TCK")
CONNECTIONS = int(os.environ.get("BENCH_CONNECTIONS", "64"))  # cps: how many at once
WEB_PORT, IPERF_PORT, PPS_PORT, SOCKPERF_PORT = 80, 5201, 5300, 5400


def within(netns, *command):
    return ["ip", "netns", "exec", netns, *map(str, command)]


def bench(command, system):
    return subprocess.run([HERE / "bench.sh", command, system], capture_output=True, text=True, timeout=120)


def target(system):
    """What load goes to."""
    return (WORK / system / "target").read_text().strip()


# CPU time


def machine_cpu():
    """CPU seconds of the whole machine since its start: busy, and stolen by the hypervisor."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq) / HZ, steal / HZ


def switch_pids(system):
    try:
        return [int(line.split()[0]) for line in (WORK / system / "pids").read_text().splitlines()]
    except FileNotFoundError:
        return []  # kernel systems have no process


def processes_cpu(pids):
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except FileNotFoundError:
            raise RuntimeError(f"a process of the switch has ended ({pid}); its log is in {WORK}") from None
        ticks += int(fields[11]) + int(fields[12])
    return ticks / HZ


class Cpu:
    """What the machine and a system's processes spend within a `with` block."""

    def __init__(self, system):
        self.pids = switch_pids(system)

    def __enter__(self):
        self.start = (*machine_cpu(), processes_cpu(self.pids), time.monotonic())
        return self

    def __exit__(self, *_):
        end = (*machine_cpu(), processes_cpu(self.pids), time.monotonic())
        self.busy, self.steal, self.switch, self.wall = (b - a for a, b in zip(self.start, end))

    def figures(self, gigabytes=None):
        figures = {name: getattr(self, name) / self.wall for name in ("busy", "steal", "switch")}
        if gigabytes:
            figures |= {"cpu_s_per_gb": self.busy / gigabytes, "switch_cpu_s_per_gb": self.switch / gigabytes}
        return figures


def wait_quiet():
    """Waits until the machine does almost nothing; gives the cores it was still busy with."""
    end = time.monotonic() + QUIET_WAIT
    while True:
        before = machine_cpu()[0]
        time.sleep(0.5)
        busy = (machine_cpu()[0] - before) / 0.5
        if busy <= QUIET or time.monotonic() > end:
            return busy


# Load


class Server:
    """A process in namespace B, waited for until it listens at a port."""

    def __init__(self, protocol, port, *command, stdout=subprocess.DEVNULL):
        self.wanted, self.protocol = f":{port:04X} ", protocol
        self.process = subprocess.Popen(within(NS_B, *command), stdout=stdout, stderr=subprocess.DEVNULL, text=True)

    def listens(self):
        # /proc/PID/net is the process's own namespace; until `ip` has entered it, that of this program.
        inside = os.readlink(f"/proc/{self.process.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        tables = (f"/proc/{self.process.pid}/net/{self.protocol}{family}" for family in ("", "6"))
        return inside and any(self.wanted in Path(table).read_text() for table in tables if os.path.exists(table))

    def __enter__(self):
        end = time.monotonic() + 10
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise RuntimeError(f"{self.process.args[4]} does not listen")
            time.sleep(0.01)
        return self.process

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def client(seconds, *command):
    done = subprocess.run(within(NS_A, *command), capture_output=True, text=True, timeout=seconds + 25)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip()[-300:])
    return done.stdout


def iperf(system, seconds, *options):
    with Server("tcp", IPERF_PORT, "iperf3", "-s", "-1", "-p", IPERF_PORT):
        with Cpu(system) as cpu:
            output = client(seconds, "iperf3", "-c", target(system), "-p", IPERF_PORT, "-t", seconds, "-J",
                            *(["-C", CC] if CC else []), *options)
    end = json.loads(output)["end"]
    received = end["sum_received"]["bytes"]
    if "--bidir" in options:
        received += end["sum_received_bidir_reverse"]["bytes"]
    gbps = received * 8 / end["sum_received"]["seconds"] / 1e9
    return {"gbps": gbps, "retransmits": end["sum_sent"]["retransmits"], **cpu.figures(received / 1e9)}


def datagrams(system, rate, seconds):
    with Server("udp", PPS_PORT, PPS, "recv", PPS_PORT, 700, stdout=subprocess.PIPE) as receiver:
        with Cpu(system) as cpu:
            sent = json.loads(client(seconds, PPS, "send", target(system), PPS_PORT, UDP_LEN, rate, seconds))
        received = json.loads(receiver.communicate(timeout=30)[0])
    pps = received["packets"] / received["secs"] if received["secs"] else 0.0
    loss = 1 - received["packets"] / max(sent["packets"], 1)
    return {"offered_pps": sent["packets"] / sent["secs"], "pps": pps, "loss": loss, **cpu.figures()}


def no_drop_rate(system):
    """The highest offered rate that arrives but for NDR_LOSS: bisection on a logarithmic scale."""
    low, high, best = 2e3, 3e6, {"pps": 0.0, "loss": 1.0}
    for _ in range(8):
        rate = (low * high) ** 0.5
        trial = datagrams(system, rate, 0.8)
        if trial["loss"] <= NDR_LOSS and trial["offered_pps"] >= 0.9 * rate:
            low, best = rate, trial
        else:
            high = min(rate, max(trial["offered_pps"], low * 1.02))
        if high / low < 1.06:
            break
    return best


def connections(system):
    """New connections one after the other, each for one request of HTTP: how many, and how many of them failed."""
    web = ("nginx", "-e", "stderr", "-p", WORK / system, "-c", HERE / "tools/web.conf")
    load = ("wrk", "--threads", min(2, CONNECTIONS), "--connections", CONNECTIONS, "--duration", int(SECS_SHORT),
            "--header", "Connection: close", f"http://{target(system)}:{WEB_PORT}/")
    with Server("tcp", WEB_PORT, *web):
        with Cpu(system) as cpu:
            output = client(SECS_SHORT, *load)
    failed = sum(map(int, re.findall(r"(?:connect|read|write|timeout|responses:) (\d+)", output)))
    return {"per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]), "failed": failed, **cpu.figures()}


def ping_pong(system, *options):
    # Which of a service's addresses is asked, its balancer decides; datagrams have to be answered from the same.
    own = "0.0.0.0" if options else OV_B
    with Server(options[0][2:] if options else "udp", SOCKPERF_PORT, "sockperf", "server", "-i", own,
                "-p", SOCKPERF_PORT, *options):
        with Cpu(system) as cpu:
            output = client(SECS_SHORT, "sockperf", "ping-pong", "-i", target(system), "-p", SOCKPERF_PORT,
                            "-t", int(SECS_SHORT), "-m", UDP_LEN, "--full-rtt", *options)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    percentile = {key: float(value) for key, value in re.findall(r"percentile ([\d.]+)\s*=\s*([\d.]+)", plain)}
    return {"p50_us": percentile["50.000"], "p99_us": percentile["99.000"], **cpu.figures()}


def idle(system):
    """Memory and CPU of the switch processes of both hosts without traffic."""
    pids = switch_pids(system)
    if not pids:
        return {}
    with Cpu(system) as cpu:
        time.sleep(2)
    sizes = [re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M) for pid in pids]
    resident = [re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M) for pid in pids]
    return {"pss_mib": sum(int(size[1]) for size in sizes) / 1024 / 2,
            "rss_mib": sum(int(size[1]) for size in resident) / 1024 / 2, **cpu.figures()}


METRICS = {
    "idle": idle,
    "tcp1": lambda system: iperf(system, SECS),
    "tcp4": lambda system: iperf(system, SECS, "-P", "4"),
    "rev": lambda system: iperf(system, SECS_SHORT, "-R"),
    "bidir": lambda system: iperf(system, SECS_SHORT, "--bidir"),
    "udp": lambda system: datagrams(system, 0, SECS_SHORT),
    "ndr": no_drop_rate,
    "rr": ping_pong,
    "rrtcp": lambda system: ping_pong(system, "--tcp"),
    "cps": connections,
}
COLUMNS = [  # title, metric, figure, factor, decimals, whether a ratio to the reference makes sense
    ("TCP x1 Gbit/s", "tcp1", "gbps", 1, 2, True),
    ("TCP x4 Gbit/s", "tcp4", "gbps", 1, 2, True),
    ("reverse Gbit/s", "rev", "gbps", 1, 2, True),
    ("bidir Gbit/s", "bidir", "gbps", 1, 2, True),
    ("UDP flood kpps", "udp", "pps", 1e-3, 0, True),
    ("flood loss %", "udp", "loss", 100, 0, False),
    ("UDP no-drop kpps", "ndr", "pps", 1e-3, 0, True),
    ("RR p50 us", "rr", "p50_us", 1, 1, True),
    ("RR p99 us", "rr", "p99_us", 1, 1, True),
    ("TCP RR p50 us", "rrtcp", "p50_us", 1, 1, True),
    ("TCP RR p99 us", "rrtcp", "p99_us", 1, 1, True),
    ("connections/s", "cps", "per_second", 1, 0, True),
    ("failed", "cps", "failed", 1, 0, False),
    ("CPU s/GB", "tcp1", "cpu_s_per_gb", 1, 2, True),
    ("switch CPU s/GB", "tcp1", "switch_cpu_s_per_gb", 1, 2, False),
    ("cores busy", "tcp1", "busy", 1, 2, False),
    ("retransmits", "tcp1", "retransmits", 1, 0, False),
    ("idle RSS MiB", "idle", "rss_mib", 1, 1, False),
    ("idle PSS MiB", "idle", "pss_mib", 1, 1, False),
    ("idle CPU %", "idle", "switch", 100, 1, False),
]


# Tables


def spread(data, system, column):
    """min, median, max of a column over the rounds, or None."""
    _, metric, figure, factor, *_ = column
    values = [run["m"][metric][figure] * factor for run in data["runs"]
              if run["system"] == system and run["m"].get(metric, {}).get(figure) is not None]
    return (min(values), statistics.median(values), max(values)) if values else None


def reference_of(system, reference):
    return reference + "@" + system.split("@")[1] if "@" in system else reference


def cell(data, system, column, kind, reference):
    values = spread(data, system, column)
    if values is None:
        return "-"
    if kind == "all":
        return "/".join(f"{value:.{column[4]}f}" for value in values)
    if kind == "ratio":
        base = spread(data, reference_of(system, reference), column)
        return f"{values[1] / base[1]:.2f}" if base and base[1] else "-"
    return f"{values[1]:.{column[4]}f}"


def table(data, kind, reference=None):
    columns = [column for column in COLUMNS if any(spread(data, system, column) for system in data["order"])]
    if kind == "ratio":
        columns = [column for column in columns if column[5]]
    rows = [["system", "encryption", "MTU"] + [re.sub(" [^ ]*$", "", c[0]) if kind == "ratio" else c[0] for c in columns]]
    for system in data["order"]:
        mtu = next((run.get("mtu") for run in data["runs"] if run["system"] == system), None)
        rows.append([system, data["info"][system].get("enc", ""), str(mtu or "-")]
                    + [cell(data, system, column, kind, reference) for column in columns])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join(text.ljust(width) if place < 2 else text.rjust(width)
                               for place, (text, width) in enumerate(zip(row, widths))) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) if place < 2 else "-" * (width + 1) + ":"
                          for place, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def show(data, reference):
    print("\nMedians\n\n" + table(data, "median"))
    print(f"\nMedians as ratios to {reference} with the same profile\n\n" + table(data, "ratio", reference))
    print("\nmin/median/max\n\n" + table(data, "all"))
    for failure in data["errors"]:
        print("failed:", *failure, file=sys.stderr)


# Rounds


def overlay_mtu():
    route = subprocess.run(["ip", "-n", NS_A, "-j", "route", "get", OV_B], capture_output=True, text=True, check=True)
    device = json.loads(route.stdout)[0]["dev"]
    link = subprocess.run(["ip", "-n", NS_A, "-j", "link", "show", "dev", device], capture_output=True, text=True,
                          check=True)
    return json.loads(link.stdout)[0]["mtu"]


def measure(system, round_, metrics, errors):
    """One system in one round; a metric that fails doesn't lose the others."""
    run = {"round": round_, "system": system, "m": {}, "foreign_busy": wait_quiet()}
    try:
        up = bench("up", system)
        if up.returncode:
            raise RuntimeError("up: " + (up.stderr or up.stdout).strip()[-400:])
        run["mtu"] = overlay_mtu()
        for metric in metrics:
            try:
                run["m"][metric] = METRICS[metric](system)
            except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
                errors.append([round_, system, metric, repr(error)[:300]])
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        errors.append([round_, system, "up", repr(error)[:500]])
    finally:
        bench("down", system)
    return run


def progress(run):
    picks = [("tcp1", "gbps"), ("tcp4", "gbps"), ("ndr", "pps"), ("rr", "p50_us"), ("rrtcp", "p50_us"),
             ("cps", "per_second")]
    figures = [f"{metric} {run['m'][metric][figure]:.4g}" for metric, figure in picks if figure in run["m"].get(metric, {})]
    print(time.strftime("%T"), f"round {run['round']} {run['system']:24}", *figures,
          f"foreign {run['foreign_busy']:.2f}", flush=True)


def usable(systems):
    for system in systems:
        if bench("check", system).returncode:
            print(f"skipping {system}: its programs are not installed", file=sys.stderr)
        else:
            yield system


def run_rounds(arguments, systems, metrics):
    with open("/proc/cpuinfo") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "")
    order = list(usable(systems))
    info = {system: dict(line.split("=", 1) for line in bench("info", system).stdout.splitlines()) for system in order}
    data = {"order": order, "info": info, "runs": [], "errors": [], "kernel": os.uname().release, "cpu": cpu,
            "cores": os.cpu_count(), "started": time.strftime("%F %T"), "mtu": os.environ.get("UL_MTU", "1500"),
            "congestion_control": CC, "seconds": SECS, "seconds_short": SECS_SHORT}
    for round_ in range(arguments.rounds):
        turn = round_ * 3 % max(1, len(order))
        for system in order[turn:] + order[:turn]:
            run = measure(system, round_, metrics, data["errors"])
            data["runs"].append(run)
            progress(run)
            Path(arguments.out).write_text(json.dumps(data, indent=1))
    return data


def list_of(text, known, what):
    # Ways out and services are compared among themselves.
    overlays = [name for name in known if not name.startswith(("nat-", "svc-"))]
    chosen = [name for name in text.split(",") if name] or overlays
    for name in chosen:
        if name.split("@")[0] not in known:
            sys.exit(f"no {what} {name}; there are: {', '.join(known)}")
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--systems", default="", help="NAME or NAME@PROFILE, separated by commas [all overlays]")
    parser.add_argument("--metrics", default="idle,tcp1,tcp4,bidir,udp,ndr,rr", help="of " + ",".join(METRICS))
    parser.add_argument("--reference", default="vxlan-kernel", help="system that ratios are taken to")
    parser.add_argument("--out", default="results.json")
    parser.add_argument("--show", metavar="FILE", help="only print the tables of an earlier run")
    arguments = parser.parse_args()
    if arguments.show:
        return show(json.loads(Path(arguments.show).read_text()), arguments.reference)
    known = subprocess.run([HERE / "bench.sh", "list"], capture_output=True, text=True, check=True).stdout.split()
    systems = list_of(arguments.systems, known, "system")
    metrics = list_of(arguments.metrics, list(METRICS), "metric")
    if os.getuid():
        sys.exit("needs root: it makes network namespaces")
    subprocess.run([HERE / "tools/build.sh"], check=True)
    WORK.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Ends through the `finally` that takes the system down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with open(WORK / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another run is using the testbed")
        data = run_rounds(arguments, systems, metrics)
    show(data, arguments.reference)
    return 1 if data["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
