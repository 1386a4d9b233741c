#!/usr/bin/env python3
"""How fast is the tunnel, beside other VPNs? As root: make bench-tunnel.

Two network namespaces; the VPN's two ends, iperf3's two ends and ping share this machine's processors, so that every
figure tells what a VPN costs, not what a network gives:

    [ client: device of the VPN 10.77.0.2 ] outer 10.99.0.2 ===== 10.99.0.1 outer [ server: 10.77.0.1, iperf3 -s ]

What is between them is one of these:

    lan      a veth pair, segmentation offload and all
    loss     the same without offload; 1 % of the packets is lost, both ways
    wan      20 ms round trip, and 1 % loss both ways (benches/path.rs)
    narrow   20 ms round trip, 200 Mbit/s with a queue of 512 KB (benches/path.rs)

Rounds are interleaved (every VPN once, then every VPN again), because machines drift. The table shows medians with the least
and the most. `none` is the path without a VPN. `relay` is fernvpn's structure without cipher and checks. openvpn,
wireguard-go, tinc, fastd and dsvpn take part if they are installed. `--keep FILE` adds the rounds to those in the file, so
that a long comparison can be made in pieces.

`s/GB` is the processor time of both ends for a GB received. `us` is microseconds of it for a packet received.

`clients` measures something else: fifty clients with a stream each, beside one client with one.
"""

import argparse, contextlib, json, os, pathlib, re, shutil, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
SERVER, CLIENT = f"fernbench{os.getpid()}s", f"fernbench{os.getpid()}c"
INSIDE = "10.77.0.1"
TICKS = os.sysconf("SC_CLK_TCK")
PATHS = {"lan": None, "loss": None, "wan": [20, 1], "narrow": [20, 0, 200, 512_000]}
TESTS = {
    "lan": "tcp1 tcp1-R tcp4 tcp4-R udp200 ping loaded",
    "loss": "tcp1 loaded",
    "wan": "tcp1 loaded",
    "narrow": "tcp1 ping loaded",
}


def run(*command, check=True, timeout=60):
    return subprocess.run([str(word) for word in command], check=check, timeout=timeout, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout


def inside(namespace, *command, **options):
    return run("ip", "netns", "exec", namespace, *command, **options)


def start(namespace, *command, **options):
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
    return subprocess.Popen(["ip", "netns", "exec", namespace, *map(str, command)], stdin=subprocess.DEVNULL,
                            start_new_session=True, **output)


def wait_for(what, condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{what} did not happen within {seconds} s")
        time.sleep(0.05)


def listens(port):
    return f":{port} " in inside(SERVER, "ss", "-Hltn")


class Bench:
    def __init__(self, folder, arguments):
        self.folder, self.congestion, self.seconds = pathlib.Path(folder), arguments.congestion, arguments.seconds
        self.path, self.outside = arguments.path, []

    def __enter__(self):
        self.allowed = run("sysctl", "-n", "net.ipv4.tcp_allowed_congestion_control").strip()
        try:
            return self.set_up()
        except BaseException:
            self.__exit__()
            raise

    def set_up(self):
        for namespace in (SERVER, CLIENT):
            run("ip", "netns", "add", namespace)
        if PATHS[self.path]:
            names = f"fb{os.getpid()}s", f"fb{os.getpid()}c"
            self.outside.append(subprocess.Popen([TARGET / "examples/path", *names, *map(str, PATHS[self.path])],
                                                 stdout=subprocess.PIPE))
            self.outside[0].stdout.readline()
            for namespace, name in zip((SERVER, CLIENT), names):
                run("ip", "link", "set", name, "netns", namespace, "name", "outer", "txqueuelen", 10_000)
        else:
            run("ip", "link", "add", "outer", "netns", SERVER, "type", "veth", "peer", "name", "outer", "netns", CLIENT)
        run("sysctl", "-qw", f"net.ipv4.tcp_allowed_congestion_control={self.allowed} {self.congestion}")
        for namespace, address in [(SERVER, "10.99.0.1/24"), (CLIENT, "10.99.0.2/24")]:
            run("ip", "-n", namespace, "addr", "add", address, "dev", "outer")
            for device in ("outer", "lo"):
                run("ip", "-n", namespace, "link", "set", device, "up")
            if self.path == "loss":
                run("ip", "-n", namespace, "link", "set", "outer", "gso_max_segs", 1)
                inside(namespace, "nft", "table inet loss { chain in { type filter hook input priority 0; "
                                         "iifname outer numgen random mod 100 < 1 drop; }; }")
        return self

    def control_congestion(self):
        for namespace in (SERVER, CLIENT):
            inside(namespace, "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={self.congestion}")

    def __exit__(self, *_):
        self.end_all()
        for namespace in (SERVER, CLIENT):
            run("ip", "netns", "del", namespace, check=False)
        for process in self.outside:
            process.kill()
        run("sysctl", "-qw", f"net.ipv4.tcp_allowed_congestion_control={self.allowed}", check=False)

    def end_all(self):
        def pids():
            return " ".join(run("ip", "netns", "pids", name, check=False) for name in (CLIENT, SERVER)).split()

        # They stop in order, so that each restores what it changed on the machine.
        for signal, patience in [("TERM", 3), ("KILL", 15)]:
            for pid in pids():
                run("kill", f"-{signal}", pid, check=False)
            end = time.monotonic() + patience
            while pids() and time.monotonic() < end:
                time.sleep(0.05)
        for namespace, address in [(SERVER, f"{INSIDE}/24"), (CLIENT, "10.77.0.2/24")]:
            run("ip", "-n", namespace, "addr", "del", address, "dev", "outer", check=False)

    # ------------------------------------------------------------------ the VPNs

    def none(self):
        for namespace, address in [(SERVER, f"{INSIDE}/24"), (CLIENT, "10.77.0.2/24")]:
            run("ip", "-n", namespace, "addr", "replace", address, "dev", "outer")
        return []

    def fernvpn(self, program, *options):
        key = self.folder / "key"
        key.write_text(run(program, "genkey"))
        key.chmod(0o600)
        server = start(SERVER, program, "server", "-k", key, "--listen", "10.99.0.1:1194",
                       "--address", f"{INSIDE}/24", *options)
        wait_for("listening", lambda: listens(1194))
        client = start(CLIENT, program, "client", "-k", key, "--connect", "10.99.0.1:1194")
        return [server, client]

    def relay(self, program=TARGET / "examples/relay", *options):
        server = start(SERVER, program, "server", "10.99.0.1:1194", "relay0", *options)
        wait_for("listening", lambda: listens(1194))
        client = start(CLIENT, program, "client", "10.99.0.1:1194", "relay0", *options)
        self.addresses("relay0")
        return [server, client]

    def addresses(self, device):
        for namespace, address in [(SERVER, f"{INSIDE}/24"), (CLIENT, "10.77.0.2/24")]:
            wait_for(device, lambda: run("ip", "-n", namespace, "link", "show", device, check=False))
            run("ip", "-n", namespace, "addr", "add", address, "dev", device)
            run("ip", "-n", namespace, "link", "set", device, "up")

    def openvpn(self, protocol, *more):
        if not (self.folder / "key.pem").exists():
            run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2,
                "-subj", "/CN=bench", "-keyout", self.folder / "key.pem", "-out", self.folder / "cert.pem")
        common = ["--dev", "tun", "--cert", self.folder / "cert.pem", "--key", self.folder / "key.pem",
                  "--ca", self.folder / "cert.pem", "--cipher", "AES-128-GCM", "--data-ciphers", "AES-128-GCM",
                  "--disable-dco", "--txqueuelen", 1000, *more]
        tcp = protocol == "tcp"
        server = start(SERVER, "openvpn", "--tls-server", "--dh", "none", "--ifconfig", INSIDE, "10.77.0.2",
                       "--proto", "tcp-server" if tcp else "udp", *common)
        if tcp:
            wait_for("listening", lambda: listens(1194))
        client = start(CLIENT, "openvpn", "--tls-client", "--ifconfig", "10.77.0.2", INSIDE, "--remote", "10.99.0.1",
                       "--proto", "tcp-client" if tcp else "udp", *common)
        return [server, client]

    def wireguard_go(self):
        keys = [run("wg", "genkey").strip() for _ in range(2)]
        public = [subprocess.run(["wg", "pubkey"], input=key, text=True, capture_output=True).stdout.strip()
                  for key in keys]
        started = []
        for i, (namespace, device) in enumerate([(SERVER, f"w{os.getpid()}s"), (CLIENT, f"w{os.getpid()}c")]):
            started.append(start(namespace, "wireguard-go", "-f", device))
            file = self.folder / f"wg{i}"
            file.write_text(keys[i])
            peer = ["peer", public[1 - i], "allowed-ips", "10.77.0.0/24"]
            more = ["listen-port", 51820] if i == 0 else []
            remote = [] if i == 0 else ["endpoint", "10.99.0.1:51820"]
            wait_for(device, lambda: os.path.exists(f"/var/run/wireguard/{device}.sock"))
            inside(namespace, "wg", "set", device, "private-key", file, *more, *peer, *remote)
            run("ip", "-n", namespace, "addr", "add", f"10.77.0.{i + 1}/24", "dev", device)
            run("ip", "-n", namespace, "link", "set", device, "mtu", 1420, "up")
        return started

    def tinc(self, *options):
        names, started = ["s", "c"], []
        folders = [self.folder / f"tinc-{name}" for name in names]
        if not folders[0].exists():
            for i, (name, folder) in enumerate(zip(names, folders)):
                (folder / "hosts").mkdir(parents=True)
                (folder / "tinc.conf").write_text(
                    f"Name = {name}\nDeviceType = tun\nInterface = tinc{name}\n" + ("ConnectTo = s\n" if i else ""))
                address = "" if i else "Address = 10.99.0.1\n"
                (folder / "hosts" / name).write_text(f"{address}Subnet = 10.77.0.{i + 1}/32\n")
                up = folder / "tinc-up"
                up.write_text(f"#!/bin/sh\nip addr add 10.77.0.{i + 1}/24 dev $INTERFACE\nip link set $INTERFACE up\n")
                up.chmod(0o755)
                run("tincd", "-c", folder, "-K2048", check=False)
            for i in range(2):
                shutil.copy(folders[i] / "hosts" / names[i], folders[1 - i] / "hosts" / names[i])
        for namespace, folder in zip((SERVER, CLIENT), folders):
            started.append(start(namespace, "tincd", "-c", folder, "-D", "--pidfile", folder / "pid", *options))
            wait_for("listening", lambda: listens(655))
        return started

    def fastd(self):
        keys = [run("fastd", "--generate-key", "--machine-readable").strip() for _ in range(2)]
        files = [self.folder / f"fastd-{i}" for i in range(2)]
        public, started = [], []
        for i in range(2):
            files[i].write_text(f'secret "{keys[i]}";\n')
            public.append(run("fastd", "--show-key", "--machine-readable", "--config", files[i]).strip())
        for i, namespace in enumerate((SERVER, CLIENT)):
            files[i].write_text(
                f'secret "{keys[i]}"; log level warn; interface "fastd{i}"; mode tun; mtu 1406;\n'
                + ('bind 10.99.0.1:10000;\n' if i == 0 else "") + 'method "salsa2012+umac";\n'
                f'peer "p" {{ key "{public[1 - i]}"; {"" if i == 0 else "remote 10.99.0.1:10000;"} }}\n'
                f'on up "ip addr add 10.77.0.{i + 1}/24 dev fastd{i}; ip link set fastd{i} up";\n')
            started.append(start(namespace, "fastd", "-c", files[i]))
        return started

    def dsvpn(self):
        key = self.folder / "dsvpn.key"
        key.write_bytes(os.urandom(32))
        # Its server needs a default route. Both ends find out the rest themselves.
        run("ip", "-n", SERVER, "route", "replace", "default", "via", "10.99.0.2")
        ends = [start(SERVER, "dsvpn", "server", key, "auto", 1194, "dsvpn", INSIDE, "10.77.0.2")]
        wait_for("listening", lambda: listens(1194))
        return [*ends, start(CLIENT, "dsvpn", "client", key, "10.99.0.1", 1194, "dsvpn", "10.77.0.2", INSIDE, "10.99.0.1")]

    # ------------------------------------------------------------------ the measurements

    def iperf(self, *options):
        command = ["iperf3", "-c", INSIDE, "-t", self.seconds, "-J", *options]
        for _ in range(3):
            end = json.loads(inside(CLIENT, *command, check=False, timeout=self.seconds + 30) or "{}").get("end", {})
            if "sum_received" in end or "sum" in end:
                return end
            time.sleep(0.5)
        sys.exit("iperf3 failed three times")

    def ping(self, count, interval):
        """Mean and 99th percentile in ms, and how many of a hundred had no answer."""
        text = inside(CLIENT, "ping", "-n", "-c", count, "-i", interval, "-W", 2, INSIDE, check=False)
        times = sorted(float(time) for time in re.findall(r"time=([\d.]+)", text)) or [float("nan")]
        return statistics.mean(times), times[int(len(times) * 0.99)], 100 * (1 - len(times) / count)

    def cpu(self, processes):
        """Seconds used by the processes (children of `ip netns exec` have its pid: it execs them)."""
        total = 0
        for process in processes:
            fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS
        return total

    @contextlib.contextmanager
    def running(self, starter):
        self.control_congestion()
        processes = starter()
        try:
            wait_for("the tunnel", lambda: " 0% packet loss" in inside(CLIENT, "ping", "-c1", "-W1", INSIDE, check=False))
            start(SERVER, "iperf3", "-s")
            wait_for("iperf3", lambda: listens(5201))
            self.control_congestion()  # dsvpn changes the host's congestion control
            yield processes
        finally:
            self.end_all()

    def measure(self, starter, tests):
        result = {}
        with self.running(starter) as processes:
            for test in tests:
                before = self.cpu(processes)
                if tcp := re.fullmatch(r"tcp(\d+)(-R)?", test):
                    end = self.iperf("-P", *filter(None, tcp.groups()))["sum_received"]
                    result[f"{test} Mb/s"] = end["bits_per_second"] / 1e6
                    result[f"{test} s/GB"] = (self.cpu(processes) - before) / end["bytes"] * 1e9
                elif udp := re.fullmatch(r"udp(\d+)", test):
                    end = self.iperf("-u", "-b", 0, "-l", udp[1])["sum"]
                    received = end["packets"] - end["lost_packets"]
                    result[f"{test} kpps"] = received / end["seconds"] / 1e3
                    result[f"{test} us"] = (self.cpu(processes) - before) / received * 1e6
                elif test == "ping":
                    result["ping ms"], result["ping p99"], _ = self.ping(200, 0.005)
                elif test == "loaded":
                    load = start(CLIENT, "iperf3", "-c", INSIDE, "-t", 4)
                    time.sleep(1)
                    result["loaded ms"], result["loaded p99"], result["lost %"] = self.ping(200, 0.01)
                    load.wait()
        return result

    def clients(self, program, count):
        """`count` clients, each with a private network and a stream of its own: Mb/s of each."""
        keys = [run(program, "genkey").strip() for _ in range(count)]
        all_keys = self.folder / "keys"
        all_keys.write_text("".join(f"{key} # client{i}\n" for i, key in enumerate(keys)))
        all_keys.chmod(0o600)
        self.control_congestion()
        start(SERVER, program, "server", "-k", all_keys, "--listen", "10.99.0.1:1194", "--address", f"{INSIDE}/24")
        wait_for("listening", lambda: listens(1194))
        streams = []
        try:
            for i, key in enumerate(keys):
                start(SERVER, "iperf3", "-s", "-p", 5300 + i)
                wait_for("iperf3", lambda: listens(5300 + i))
                file = self.folder / f"key{i}"
                file.write_text(key)
                file.chmod(0o600)
                # All begin at the same time, when all are connected. Their own namespaces have the machine's congestion control.
                streams.append(start(CLIENT, program, "client", "-k", file, "--connect", "10.99.0.1:1194", "--", "sh", "-c",
                                     f"touch {self.folder}/up{i}; while [ ! -e {self.folder}/go ]; do sleep 0.1; done; "
                                     f"exec iperf3 -c {INSIDE} -p {5300 + i} -t {self.seconds} -J -C {self.congestion}", stdout=subprocess.PIPE))
            wait_for("all clients", lambda: all((self.folder / f"up{i}").exists() for i in range(count)))
            (self.folder / "go").touch()
            ends = [json.loads(stream.communicate(timeout=60)[0])["end"]["sum_received"] for stream in streams]
            return [end["bits_per_second"] / 1e6 for end in ends]
        finally:
            self.end_all()
            for file in [self.folder / "go", *(self.folder / f"up{i}" for i in range(count))]:
                file.unlink(missing_ok=True)


def vpns_of(bench, arguments):
    fernvpn = TARGET / "fernvpn"
    vpns = {
        "fernvpn": lambda: bench.fernvpn(fernvpn),
        "fernvpn fernet": lambda: bench.fernvpn(fernvpn, "--suite", "fernet"),
        "relay": bench.relay,
        "none": bench.none,
    }
    if shutil.which("openvpn"):
        nodelay = ["--socket-flags", "TCP_NODELAY"]
        vpns["openvpn tcp"] = lambda: bench.openvpn("tcp", *nodelay)
        vpns["openvpn tcp 9k"] = lambda: bench.openvpn("tcp", *nodelay, "--tun-mtu", 9000, "--mssfix", 0)
        vpns["openvpn udp"] = lambda: bench.openvpn("udp", "--fast-io")
    if shutil.which("wireguard-go") and shutil.which("wg"):
        vpns["wireguard-go"] = bench.wireguard_go
    if shutil.which("tincd"):
        vpns["tinc"] = bench.tinc
        vpns["tinc tcp"] = lambda: bench.tinc("-o", "TCPOnly=yes")
    if shutil.which("fastd"):
        vpns["fastd"] = bench.fastd
    if shutil.which("dsvpn"):
        vpns["dsvpn"] = bench.dsvpn
    for also in arguments.also:
        name, program, *options = also.replace("=", " ", 1).split()
        of_relay = program.endswith(("limit", "relay"))
        vpns[name] = lambda p=program, o=options, f=bench.relay if of_relay else bench.fernvpn: f(p, *o)
    return {name: vpns[name] for name in (arguments.only.split(",") if arguments.only else vpns)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="lan", choices=[*PATHS, "clients"])
    parser.add_argument("--tests", help=f"words such as: {TESTS['lan']}; tcp and udp with any number of streams or bytes")
    parser.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")], default=[1, 50],
                        help="how many at once, for --path clients: numbers, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="for each transfer")
    parser.add_argument("--congestion", default="cubic", help="of the hosts: cubic, bbr")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=PROGRAM OPTION ...",
                        help="another build of fernvpn, or a program with the command line of benches/relay.rs")
    parser.add_argument("--keep", type=pathlib.Path, metavar="FILE", help="add to the rounds in this file, show all of them")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: it makes network namespaces")
    results = json.loads(arguments.keep.read_text()) if arguments.keep and arguments.keep.exists() else {}
    if arguments.path == "clients":
        arguments.path, measure = "lan", lambda bench: many_clients(bench, arguments.clients)
    else:
        tests = (arguments.tests or TESTS[arguments.path]).split()
        measure = lambda bench: {name: lambda s=starter: bench.measure(s, tests)
                                 for name, starter in vpns_of(bench, arguments).items()}
    with tempfile.TemporaryDirectory() as folder, Bench(folder, arguments) as bench:
        for round in range(arguments.rounds):
            for name, once in measure(bench).items():
                print(f"round {round + 1}: {name}", file=sys.stderr, flush=True)
                results.setdefault(name, []).append(once())
                if arguments.keep:
                    arguments.keep.write_text(json.dumps(results))
    show(results, arguments)


def many_clients(bench, counts):
    def once(count):
        speeds = bench.clients(TARGET / "fernvpn", count)
        return {"all Mb/s": sum(speeds), "slowest": min(speeds), "fastest": max(speeds)}

    return {f"{count} clients": lambda n=count: once(n) for count in counts}


def show(results, arguments):
    rounds = max(map(len, results.values()))
    print(f"path {arguments.path}, hosts on {arguments.congestion}: median (least-most) of {rounds} rounds, "
          f"{arguments.seconds} s each, and the median's ratio to the first line's")
    columns = list(max((rounds[0] for rounds in results.values()), key=len))
    print("| " + " | ".join(["", *columns]) + " |\n|---|" + "---|" * len(columns))
    first = None
    for name, rounds in results.items():
        cells = []
        for column in columns:
            values = [round[column] for round in rounds if column in round]
            median = statistics.median(values)
            form = "{:.0f}" if max(values) >= 100 else "{:.2f}"
            ratio = f" x{median / statistics.median(r[column] for r in first):.2f}" if first and not column.endswith(("lost %", "s/GB", "us")) else ""
            cells.append(f"{form.format(median)} ({form.format(min(values))}-{form.format(max(values))}){ratio}")
        print("| " + " | ".join([name, *cells]) + " |")
        first = first or rounds


main()
