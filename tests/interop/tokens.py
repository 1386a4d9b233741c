"""Do fernvpn and Python's `cryptography` agree? Random tokens both ways, and the same verdicts on malformed ones.

    python3 tests/interop/tokens.py target/release/fernvpn --count 10000

Each token gets a process of the real program, as a person would use it. Several run at a time. docs/FERNET.md has the only
differences that are allowed. Padding may be absent here. fernvpn refuses every other spelling than the canonical one,
and older versions of `cryptography` tolerate some.
"""

import argparse
import base64
import concurrent.futures
import hashlib
import hmac
import os
import random
import struct
import subprocess
import sys
import tempfile

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
EDGES = [0, 1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 255, 256, 4095, 4096, 65535, 65536, 70000]


class Program:
    def __init__(self, path, keys):
        self.path, self.keys = path, keys

    def run(self, command, stdin, *arguments):
        done = subprocess.run([self.path, command, *arguments], input=stdin, capture_output=True, timeout=60)
        assert b"panicked" not in done.stderr, done.stderr
        return done

    def encrypt(self, message, time):
        done = self.run("encrypt", message, "-k", self.keys[0], "--time", str(time))
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout

    def decrypt(self, token, *arguments):
        """The message, or None if the token was refused in the way that the manual promises."""
        keys = [word for key in self.keys for word in ("-k", key)]
        done = self.run("decrypt", token, *keys, *arguments)
        if done.returncode == 0:
            assert done.stderr == b"", done
            return done.stdout
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"invalid token\n"), done
        return None

    def rotate(self, token):
        keys = [word for key in self.keys for word in ("-k", key)]
        done = self.run("rotate", token, *keys)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout


def python_verdict(fernet, token, ttl=None, now=None):
    try:
        if ttl is None:
            return fernet.decrypt(token)
        return fernet.decrypt_at_time(token, ttl, now)
    except InvalidToken:
        return None


def canonical(token):
    """Whether `token` is base64url with zero trailing bits, and its padding is whole or absent."""
    digits = token.rstrip(b"=")
    if any(c not in BASE64URL for c in digits) or len(digits) % 4 == 1:
        return False
    whole = digits + b"=" * (-len(digits) % 4)
    return token in (digits, whole) and base64.urlsafe_b64encode(base64.urlsafe_b64decode(whole)) == whole


def whole(token):
    return token.rstrip(b"=") + b"=" * (-len(token.rstrip(b"=")) % 4)


def forge(key, rng):
    """Something odd with a good MAC: any version, any length, any padding."""
    signing, encryption = key[:16], key[16:]
    iv = rng.randbytes(16)
    padded = rng.randbytes(16 * rng.choice([0, 1, 1, 2, 3]))
    if padded and rng.random() < 0.8:
        last = rng.choice([0, 1, 2, 8, 15, 16, 17, 32, 255])
        tail = bytes([last]) * max(1, min(last, len(padded)))
        padded = padded[: len(padded) - len(tail)] + tail
    cipher = Cipher(algorithms.AES(encryption), modes.CBC(iv)).encryptor()
    ciphertext = cipher.update(padded) + cipher.finalize()
    if rng.random() < 0.2:
        ciphertext += rng.randbytes(rng.randrange(16))
    version = rng.choice([0x80] * 8 + [0x00, 0x7F, 0x81, 0xFF])
    time = rng.choice([0, 1, 1 << 31, 1 << 32, 1_700_000_000])
    signed = bytes([version]) + struct.pack(">Q", time) + iv + ciphertext
    if rng.random() < 0.1:
        signed = signed[: rng.randrange(len(signed) + 1)]
    return base64.urlsafe_b64encode(signed + hmac.new(signing, signed, hashlib.sha256).digest())


def respell(token, rng):
    """A damaged or respelled token."""
    at = rng.randrange(len(token) + 1)
    kind = rng.randrange(8)
    if kind == 0:
        return token[:at]
    if kind == 1:
        return token[:at] + rng.randbytes(1) + token[at + 1 :]
    if kind == 2:
        return token[:at] + rng.choice([b"\n", b" ", b"\r\n", b"%", b"=", b"\x00", b"\xff"]) + token[at:]
    if kind == 3:
        return token.replace(b"-", b"+").replace(b"_", b"/")
    if kind == 4:
        return token.rstrip(b"=")
    if kind == 5:
        return token + rng.choice([b"=", b"==", b"====", b"AAAA", b"-GARBAGE"])
    if kind == 6:
        digits = token.rstrip(b"=")
        other = BASE64URL[(BASE64URL.index(digits[-1]) + rng.randrange(1, 4)) % 64]
        return digits[:-1] + bytes([other]) + b"=" * (len(token) - len(digits))
    return token[:-1] if token.endswith(b"=") else token[::-1]


def check(program, python, keys, seed):
    rng = random.Random(seed)
    size = rng.choice(EDGES) if rng.random() < 0.2 else int(70001 ** rng.random()) - 1
    message, time = rng.randbytes(size), rng.randrange(1 << 33)

    # There: made by fernvpn, opened by Python.
    token = program.encrypt(message, time)
    assert token.endswith(b"\n") and canonical(token[:-1])
    assert python_verdict(python, token[:-1]) == message, "Python refuses our token"
    assert Fernet(keys[0]).extract_timestamp(token[:-1]) == time

    # And back, made with either key.
    made = Fernet(rng.choice(keys)).encrypt_at_time(message, time)
    assert program.decrypt(made + rng.choice([b"", b"\n", b"\r\n"])) == message, "we refuse Python's token"

    # Rotated, opened by the new key alone.
    rotated = program.rotate(made).strip()
    assert Fernet(keys[0]).decrypt(rotated) == message and rotated != made
    assert Fernet(keys[0]).extract_timestamp(rotated) == time

    # Old and early tokens.
    ttl = rng.choice([0, 1, 60, 1 << 32])
    now = max(0, time + rng.choice([-61, -60, 0, 1, ttl, ttl + 1]))
    ours = program.decrypt(made, "--ttl", str(ttl), "--now", str(now))
    assert ours == python_verdict(python, made, ttl, now), (ttl, now, time)

    # Malformed ones.
    odd = forge(base64.urlsafe_b64decode(rng.choice(keys)), rng)
    assert program.decrypt(odd) == python_verdict(python, odd), odd
    # One final newline is not part of what is compared.
    bad = respell(rng.choice([made, odd]), rng).removesuffix(b"\n").removesuffix(b"\r")
    ours = program.decrypt(bad)
    expected = python_verdict(python, whole(bad)) if canonical(bad) else None
    assert ours == expected, bad
    return ours != python_verdict(python, bad)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # One key made here, one there.
        files = [os.path.join(folder, name) for name in ("new.key", "old.key")]
        made = subprocess.run([options.program, "genkey"], capture_output=True, check=True).stdout
        for file, key in zip(files, [made, Fernet.generate_key()]):
            with open(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as out:
                out.write(key)
        keys = [open(file, "rb").read().strip() for file in files]
        program, python = Program(options.program, files), MultiFernet([Fernet(key) for key in keys])
        print(f"seed {options.seed}", flush=True)

        def one(seed):
            try:
                return check(program, python, keys, seed)
            except BaseException:
                print(f"FAILED with seed {seed}, keys {keys}", file=sys.stderr)
                raise

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            seeds = range(options.seed, options.seed + options.count)
            differ = sum(pool.map(one, seeds))
    print(f"{options.count} tokens each way, as many rotated, aged, forged and respelled: all as documented")
    print(f"{differ} respelled tokens are judged differently by this version of cryptography, each as documented")


main()
