#!/usr/bin/env python3
"""How fast is the tunnel, next to others? As root: make bench-tunnel.

Two network namespaces joined by a veth pair; the VPN's two ends, iperf3's two ends and ping share this machine's
processors, so every figure tells what a VPN costs, not what a network gives:

    [ client: fern0/tun 10.77.0.2 ] veth 10.99.0.2 ======= 10.99.0.1 veth [ server: 10.77.0.1, iperf3 -s ]

Rounds are interleaved (every VPN once, then every VPN again), and the table shows medians with the least and the
most, because machines drift. `relay` is the same structure without cipher and checks; openvpn and wireguard-go take
part if they are installed.
"""

import argparse, json, os, pathlib, re, shutil, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target/release"
SERVER, CLIENT = f"fernbench{os.getpid()}s", f"fernbench{os.getpid()}c"
INSIDE = "10.77.0.1"
TICKS = os.sysconf("SC_CLK_TCK")


def run(*command, check=True, timeout=60):
    return subprocess.run([str(word) for word in command], check=check, timeout=timeout, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout


def inside(namespace, *command, **options):
    return run("ip", "netns", "exec", namespace, *command, **options)


def start(namespace, *command):
    return subprocess.Popen(["ip", "netns", "exec", namespace, *map(str, command)], stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for(what, condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{what} did not happen within {seconds} s")
        time.sleep(0.05)


class Bench:
    def __init__(self, folder, congestion, seconds):
        self.folder, self.congestion, self.seconds = pathlib.Path(folder), congestion, seconds

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
        run("ip", "link", "add", "outer", "netns", SERVER, "type", "veth", "peer", "name", "outer", "netns", CLIENT)
        for namespace, address in [(SERVER, "10.99.0.1/24"), (CLIENT, "10.99.0.2/24")]:
            run("ip", "-n", namespace, "addr", "add", address, "dev", "outer")
            for device in ("outer", "lo"):
                run("ip", "-n", namespace, "link", "set", device, "up")
        run("sysctl", "-qw", f"net.ipv4.tcp_allowed_congestion_control={self.allowed} {self.congestion}")
        for namespace in (SERVER, CLIENT):
            inside(namespace, "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={self.congestion}")
        return self

    def __exit__(self, *_):
        for namespace in (SERVER, CLIENT):
            for pid in run("ip", "netns", "pids", namespace, check=False).split():
                run("kill", "-9", pid, check=False)
            run("ip", "netns", "del", namespace, check=False)
        run("sysctl", "-qw", f"net.ipv4.tcp_allowed_congestion_control={self.allowed}", check=False)

    # ------------------------------------------------------------------ the VPNs

    def fernvpn(self, suite):
        key = self.folder / "key"
        key.write_text(run(TARGET / "fernvpn", "genkey"))
        key.chmod(0o600)
        server = start(SERVER, TARGET / "fernvpn", "server", "-k", key, "--listen", "10.99.0.1:1194",
                       "--address", f"{INSIDE}/24", "--suite", suite)
        client = start(CLIENT, TARGET / "fernvpn", "client", "-k", key, "--connect", "10.99.0.1:1194")
        return [server, client]

    def relay(self):
        server = start(SERVER, TARGET / "examples/relay", "server", "10.99.0.1:1194", "relay0")
        time.sleep(0.3)
        client = start(CLIENT, TARGET / "examples/relay", "client", "10.99.0.1:1194", "relay0")
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
                  "--disable-dco", "--txqueuelen", 1000, "--dh", "none", *more]
        tcp = protocol == "tcp"
        server = start(SERVER, "openvpn", "--tls-server", "--ifconfig", INSIDE, "10.77.0.2",
                       "--proto", "tcp-server" if tcp else "udp", *common)
        client = start(CLIENT, "openvpn", "--tls-client", "--ifconfig", "10.77.0.2", INSIDE, "--remote", "10.99.0.1",
                       "--proto", "tcp-client" if tcp else "udp", *common)
        return [server, client]

    def wireguard_go(self):
        keys = [run("wg", "genkey").strip() for _ in range(2)]
        public = [subprocess.run(["wg", "pubkey"], input=key, text=True, capture_output=True).stdout.strip()
                  for key in keys]
        started = []
        for i, (namespace, device) in enumerate([(SERVER, "wgbs"), (CLIENT, "wgbc")]):
            started.append(start(namespace, "wireguard-go", "-f", device))
            wait_for(device, lambda: run("ip", "-n", namespace, "link", "show", device, check=False))
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
        text = inside(CLIENT, "ping", "-n", "-c", count, "-i", interval, INSIDE, check=False)
        times = sorted(float(time) for time in re.findall(r"time=([\d.]+)", text)) or [float("nan")]
        return statistics.mean(times), times[int(len(times) * 0.99)]

    def cpu(self, processes):
        """Seconds used by the processes (children of `ip netns exec` have its pid: it execs them)."""
        total = 0
        for process in processes:
            fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS
        return total

    def measure(self, starter):
        processes = starter()
        try:
            wait_for("the tunnel", lambda: " 0% packet loss" in inside(CLIENT, "ping", "-c1", "-W1", INSIDE, check=False))
            iperf = start(SERVER, "iperf3", "-s")
            time.sleep(0.3)
            result, before = {}, self.cpu(processes)
            one = self.iperf()["sum_received"]
            result["tcp1 Mb/s"] = one["bits_per_second"] / 1e6
            result["cpu s/GB"] = (self.cpu(processes) - before) / one["bytes"] * 1e9
            result["tcp1 -R"] = self.iperf("-R")["sum_received"]["bits_per_second"] / 1e6
            result["tcp4"] = self.iperf("-P", 4)["sum_received"]["bits_per_second"] / 1e6
            small = self.iperf("-u", "-b", 0, "-l", 200)["sum"]
            result["udp200 kpps"] = (small["packets"] - small["lost_packets"]) / small["seconds"] / 1e3
            result["ping ms"], result["ping p99"] = self.ping(200, 0.005)
            load = start(CLIENT, "iperf3", "-c", INSIDE, "-t", 4)
            time.sleep(1)
            result["loaded ms"], result["loaded p99"] = self.ping(100, 0.02)
            load.wait()
            iperf.kill()
            return result
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
            for namespace in (SERVER, CLIENT):
                for pid in run("ip", "netns", "pids", namespace, check=False).split():
                    run("kill", "-9", pid, check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="for each transfer")
    parser.add_argument("--congestion", default="cubic", help="of the hosts: cubic, bbr")
    parser.add_argument("--only", help="names, separated by commas")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: it makes network namespaces")
    with tempfile.TemporaryDirectory() as folder, Bench(folder, arguments.congestion, arguments.seconds) as bench:
        vpns = {
            "fernvpn": lambda: bench.fernvpn("aes-256-gcm"),
            "fernvpn, suite fernet": lambda: bench.fernvpn("fernet"),
            "relay, no cipher": bench.relay,
        }
        if shutil.which("openvpn"):
            vpns["openvpn tcp"] = lambda: bench.openvpn("tcp", "--socket-flags", "TCP_NODELAY")
            vpns["openvpn tcp, mtu 9000"] = lambda: bench.openvpn(
                "tcp", "--socket-flags", "TCP_NODELAY", "--tun-mtu", 9000, "--mssfix", 0)
            vpns["openvpn udp"] = lambda: bench.openvpn("udp", "--fast-io")
        if shutil.which("wireguard-go") and shutil.which("wg"):
            vpns["wireguard-go"] = bench.wireguard_go
        if arguments.only:
            vpns = {name: vpns[name] for name in arguments.only.split(",")}
        results = {name: [] for name in vpns}
        for round in range(arguments.rounds):
            for name, starter in vpns.items():
                print(f"round {round + 1}: {name}", file=sys.stderr, flush=True)
                results[name].append(bench.measure(starter))
    show(results, arguments)


def show(results, arguments):
    columns = list(next(iter(results.values()))[0])
    print(f"median (least-most) of {arguments.rounds} rounds, {arguments.seconds} s each, hosts on {arguments.congestion}")
    print(f"| {'vpn':<22} | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name, rounds in results.items():
        cells = []
        for column in columns:
            values = [round[column] for round in rounds]
            form = "{:.0f}" if max(values) >= 100 else "{:.2f}"
            cells.append(f"{form.format(statistics.median(values))} ({form.format(min(values))}-{form.format(max(values))})")
        print(f"| {name:<22} | " + " | ".join(cells) + " |")
    first = next(iter(results))
    others = [name for name in results if not name.startswith("fernvpn")]
    for name in others:
        ratio = statistics.median(ours["tcp1 Mb/s"] / theirs["tcp1 Mb/s"] for ours, theirs in zip(results[first], results[name]))
        print(f"{first} / {name}: {ratio:.2f} in one stream (median of rounds)")


main()
