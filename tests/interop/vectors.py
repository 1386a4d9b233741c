#!/usr/bin/env python3
"""Recomputes every value of the sessions in tests/vectors/ with other software: the Python standard library and
`cryptography`. Written from docs/PROTOCOL.md alone; the numbers in brackets are its sections. Read from the top, it is
the protocol.

    python3 tests/interop/vectors.py [FILE.json ...]

Prints one line for each file. Exits with 1 and the name of the first value that differs.
"""

import base64
import hashlib
import hmac
import json
import re
import pathlib
import sys

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def u(size, number):
    """[1] An unsigned big-endian integer of `size` bytes."""
    return number.to_bytes(size, "big")


def mac(key, message):
    """[1] HMAC-SHA256."""
    return hmac.digest(key, message, "sha256")


def derive(key, salt, label, n):
    """[1] HKDF-SHA256 with outputs of one block at most."""
    return mac(mac(salt, key), b"fernvpn 1 " + label.encode() + b"\x01")[:n]


def fernet(key, message, time, iv):
    """[1] A Fernet token: sign with the first half of the key, encrypt with the second."""
    padding = 16 - len(message) % 16
    aes = Cipher(algorithms.AES(key[16:]), modes.CBC(iv)).encryptor()
    ciphertext = aes.update(message + bytes([padding]) * padding) + aes.finalize()
    signed = b"\x80" + u(8, time) + iv + ciphertext
    token = base64.urlsafe_b64encode(signed + mac(key[:16], signed))
    # The library itself must read what was built here by hand.
    assert Fernet(base64.urlsafe_b64encode(key)).decrypt(token) == message
    return token


def hello_token(key, h):
    """[4] The token of a hello."""
    return fernet(key, h["fields"].encode(), h["time"], bytes.fromhex(h["token_iv"]))


def frame(body):
    """[3] A length, then the body."""
    return u(4, len(body)) + body


def key_bits(suite):
    """The key's length in bits, if this is AES-GCM."""
    name = re.fullmatch("aes-([0-9]+)-gcm", suite)
    return int(name[1]) if name else None


def traffic_keys(suite, secret):
    """[5] What a traffic secret is made into."""
    bits = key_bits(suite)
    if bits is None:
        return {"secret": secret, "key": derive(secret, b"", "key", 32)}
    return {"secret": secret, "key": derive(secret, b"", "key", bits // 8), "iv": derive(secret, b"", "iv", 12)}


def record(suite, keys, r):
    """[6] A record: its nonce (AES-GCM only) and its frame."""
    message = u(1, r["type"]) + bytes.fromhex(r["content"])
    if suite == "fernet":
        message = u(8, r["counter"]) + message
        return None, frame(fernet(keys["key"], message, r["time"], bytes.fromhex(r["token_iv"])))
    nonce = bytes(a ^ b for a, b in zip(keys["iv"], bytes(4) + u(8, r["counter"])))
    header = u(4, len(message) + 16)
    return nonce, header + AESGCM(keys["key"]).encrypt(nonce, message, header)


def fields(text):
    """[4.1] Lines of name=value, no name twice."""
    assert text.endswith("\n") and text.isascii()
    pairs = [line.split("=", 1) for line in text[:-1].split("\n")]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


TYPES = {"Finished": 1, "Config": 2, "Packets": 3, "SuperPacket": 4, "Ping": 5, "Pong": 6, "Rekey": 7, "Message": 8,
         "Close": 9}  # [6]


def check(session):
    """A whole session. Yields the name of each value, what the file says, and what it is by the specification."""
    suite, K = session["suite"], base64.urlsafe_b64decode(session["key"])
    ratchet, derived = session.get("ratchet"), session["derived"]
    client_hello, server_hello = session["hellos"]

    # [2] The branches of K that need no session.
    id, hello = derive(K, b"", "id", 8), derive(K, b"", "hello", 32)
    yield "id", derived["id"], id
    yield "hello", derived["hello"], hello

    # [4.2], [4.3] What the hellos must say ...
    said = fields(client_hello["fields"])
    expected = {"role": "client", "nonce": client_hello["nonce"]}
    answered = fields(server_hello["fields"])
    expected_answer = {"version": "1", "role": "server", "client-nonce": client_hello["nonce"],
                       "nonce": server_hello["nonce"], "suite": suite, "capabilities": "super-packets"}
    if ratchet:
        expected["step"] = expected_answer["step"] = str(ratchet["step"])
        expected_answer["ratchet"] = ratchet["secret"]
    for name, value in expected.items():
        yield f"ClientHello {name}", said[name], value
    for name, value in expected_answer.items():
        yield f"ServerHello {name}", answered[name], value
    yield "ServerHello's choices", True, (
        answered["version"] in said["versions"].split(",") and suite in said["suites"].split(",")
        and answered["capabilities"] in said["capabilities"].split(","))
    yield "steps of a static key", bool(ratchet), "step" in said and "step" in answered and "ratchet" in answered
    # ... and their frames.
    first = frame(id + hello_token(hello, client_hello))
    yield "ClientHello frame", client_hello["frame"], first
    second = frame(hello_token(hello, server_hello))
    yield "ServerHello frame", server_hello["frame"], second

    # [5] The traffic secrets, from K and both frames. [7] After a Rekey, from the secret before.
    transcript = hashlib.sha256(first + second).digest()
    yield "transcript", derived["transcript"], transcript
    keys = {}
    for sender in ["client", "server"]:
        secret = derive(K, transcript, sender, 32)
        yield sender, derived[sender], secret
        keys[sender, 0] = traffic_keys(suite, secret)
        keys[sender, 1] = traffic_keys(suite, derive(secret, b"", "rekey", 32))
    for k in session["keys"]:
        for name, value in keys[k["from"], k["rekeys"]].items():
            yield f"{k['from']} {name} after {k['rekeys']} rekeys", k[name], value

    # [8] The key of the next session.
    if ratchet:
        following = derive(K, bytes.fromhex(ratchet["secret"]), "next", 32)
        yield "next", derived["next"], following
        yield "next_id", derived["next_id"], derive(following, b"", "id", 8)

    # [6] Every record. Each direction counts from zero, and again from zero after its Rekey.
    due = {"client": (0, 0), "server": (0, 0)}
    for number, r in enumerate(session["records"]):
        name, (rekeys, counter) = f"record {number} ({r['name']}) ", due[r["from"]]
        yield name + "rekeys", r["rekeys"], rekeys
        yield name + "counter", r["counter"], counter
        yield name + "type", r["type"], TYPES[r["name"]]
        nonce, sealed = record(suite, keys[r["from"], rekeys], r)
        if nonce:
            yield name + "nonce", r["nonce"], nonce
        yield name + "frame", r["frame"], sealed
        due[r["from"]] = (rekeys + 1, 0) if r["name"] == "Rekey" else (rekeys, counter + 1)


def main(paths):
    paths = paths or sorted((pathlib.Path(__file__).parent.parent / "vectors").glob("session-*.json"))
    differ = 0 if paths else 1
    for path in paths:
        checked = 0
        for name, in_file, computed in check(json.loads(pathlib.Path(path).read_text())):
            computed = computed.hex() if isinstance(computed, bytes) else computed
            checked += 1
            if in_file != computed:
                differ = 1
                print(f"{path}: {name} differs\n  file:     {in_file}\n  computed: {computed}")
        print(f"{pathlib.Path(path).name}: {checked} values recomputed")
    return differ


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
