#!/usr/bin/env python3
"""How fast are the tokens? `make bench-tokens`.

One thread seals and opens tokens with fernvpn, with Python's `cryptography`, and with the `fernet` crate on its pure
Rust ciphers and on OpenSSL (left out where OpenSSL's headers are not installed). All take turns, ROUNDS times over. Each
figure is a median in MB of message a second, with the least and the greatest after it. `bound` is AES-128-CBC and then
HMAC-SHA256 on the same processor.
"""

import os
import statistics
import subprocess
import time

ROUNDS = 5
SIZES = [64, 1 << 10, 16 << 10, 64 << 10, 1 << 20]
HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "..", "target"))


def python_peer(operation, size):
    from cryptography.fernet import Fernet

    fernet, message = Fernet(Fernet.generate_key()), b"\3" * size
    token = fernet.encrypt(message)
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < 0.2:
        fernet.encrypt(message) if operation == "seal" else fernet.decrypt(token)
        calls += 1
    return calls / (time.perf_counter() - start)


def program(path):
    return lambda *arguments: float(subprocess.check_output([path, *map(str, arguments)]))


def peer(name, feature):
    target = os.path.join(TARGET, "peers", feature)
    command = ["cargo", "build", "--quiet", "--release", "--features", feature, "--target-dir", target]
    if subprocess.run(command, cwd=os.path.join(HERE, "peers")).returncode:
        print(f"without {name}: it does not build here")
        return {}
    return {name: program(os.path.join(target, "release", "peers"))}


def main():
    fernvpn = program(os.path.join(TARGET, "release", "examples", "tokens"))
    peers = {"cryptography": python_peer} | peer("crate, Rust", "rustcrypto") | peer("crate, OpenSSL", "openssl")
    runs = {}
    for _ in range(ROUNDS):
        for size in SIZES:
            for operation in "seal", "open":
                for name, run in [("fernvpn", fernvpn), *peers.items()]:
                    runs.setdefault((operation, size, name), []).append(run(operation, size) * size / 1e6)
            runs.setdefault(("seal", size, "bound"), []).append(fernvpn("bound", size) * size / 1e6)
    median = {key: statistics.median(values) for key, values in runs.items()}
    print(f"{'':6}{'bytes':>8}" + "".join(f"{name:>26}" for name in ["fernvpn", *peers]) + "   fernvpn / best peer, / bound")
    for operation in "seal", "open":
        for size in SIZES:
            line = f"{operation:6}{size:8}"
            for name in ["fernvpn", *peers]:
                values = runs[operation, size, name]
                line += f"{median[operation, size, name]:11.1f} ({min(values):.1f}-{max(values):.1f})".rjust(26)
            mine = median[operation, size, "fernvpn"]
            line += f"{mine / max(median[operation, size, name] for name in peers):11.2f}"
            if operation == "seal":
                line += f", {mine / median[operation, size, 'bound']:.2f}"
            print(line)


if __name__ == "__main__":
    main()
