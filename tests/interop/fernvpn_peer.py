"""What client.py and server.py share: docs/PROTOCOL.md, section by section, without ratcheted keys (section 8)."""

import base64
import hashlib
import hmac
import os
import re
import socket
import struct
import time

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HELLO_LIMIT = 1024                                              # section 3: the longest bodies of frames
RECORD_LIMIT = {"aes-256-gcm": 65_569, "fernet": 87_500}        # in the order in which we prefer them
HANDSHAKE_SECONDS, PONG_SECONDS = 10, 5                         # section 9
FINISHED, CONFIG, PACKETS, SUPER_PACKET, PING, PONG, REKEY, MESSAGE, CLOSE = range(1, 10)  # section 6
LENGTHS = {FINISHED: range(1), CONFIG: range(65_553), PACKETS: range(65_553), PING: range(65), PONG: range(65),
           REKEY: range(1), MESSAGE: range(4097), CLOSE: range(1, 258)}     # of contents
LATER = (PACKETS, PING, PONG, REKEY, MESSAGE, CLOSE)        # without SuperPacket: we do not offer super-packets


class Ended(ValueError):
    """The connection has to end, and why."""


def require(holds, why):
    """A check. Where it does not hold, the connection has to end."""
    if not holds:
        raise Ended(why)


# 1. Notation, and 2. Keys
def derive(k, salt, label, n):
    prk = hmac.digest(salt, k, "sha256")
    return hmac.digest(prk, b"fernvpn 1 " + label + b"\x01", "sha256")[:n]


def read_keys(path):
    """The keys K of a key file: one in a line, and a comment may follow."""
    with open(path, encoding="utf-8") as file:
        lines = [line.split("#")[0].split() for line in file]
    return [base64.urlsafe_b64decode(line[0]) for line in lines if line]


def seal_token(key, message):
    return Fernet(base64.urlsafe_b64encode(key)).encrypt(message)


def open_token(key, token):
    """No time-to-live: timestamps are not checked. Fernet overlooks a second spelling of a token; we do not."""
    require(base64.urlsafe_b64encode(base64.urlsafe_b64decode(token)) == token, "this is not how a token is written")
    try:
        return Fernet(base64.urlsafe_b64encode(key)).decrypt(token)
    except InvalidToken:
        raise Ended("a token does not open") from None


# 3. Frames
def frame(body):
    return struct.pack(">I", len(body)) + body


class Frames:
    """The frames that come out of a socket."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, b""

    def fill(self, size, deadline):
        while len(self.buffer) < size:
            self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            received = self.sock.recv(65536)        # on a timeout, self.buffer keeps what there is
            require(received, "truncation: the stream ended without a Close")
            self.buffer += received

    def read(self, limit, deadline):
        """The body of the next frame."""
        self.fill(4, deadline)
        (n,) = struct.unpack(">I", self.buffer[:4])
        require(1 <= n <= limit, f"a frame of {n} bytes is out of range")
        self.fill(4 + n, deadline)
        body, self.buffer = self.buffer[4:4 + n], self.buffer[4 + n:]
        return body


# 4.1 Fields
def write_fields(fields):
    return "".join(f"{name}={value}\n" for name, value in fields.items()).encode("ascii")


def read_fields(message):
    require(re.fullmatch(rb"([a-z0-9-]+=[ -~]*\n)*", message), "these are no fields")
    pairs = [line.split("=", 1) for line in message.decode("ascii").split("\n")[:-1]]
    require(len(dict(pairs)) == len(pairs), "a name stands twice")
    return dict(pairs)


# 5. Key schedule, 6. Records
def traffic_secrets(K, client_hello, server_hello):
    transcript = hashlib.sha256(frame(client_hello) + frame(server_hello)).digest()
    return derive(K, transcript, b"client", 32), derive(K, transcript, b"server", 32)


class Direction:
    """One direction of a session: its key, IV and counter."""

    def __init__(self, suite, T):
        self.suite = suite
        self.use(T)

    def use(self, T):
        self.T, self.key, self.iv = T, derive(T, b"", b"key", 32), derive(T, b"", b"iv", 12)
        self.counter, self.content_bytes, self.since = 0, 0, time.monotonic()

    def rekey(self):
        self.use(derive(self.T, b"", b"rekey", 32))

    def count(self, content):
        self.counter, self.content_bytes = self.counter + 1, self.content_bytes + len(content)
        require(self.counter <= 2**32 and self.content_bytes <= 2**36, "a key has been used for too much")  # section 7

    def nonce(self):
        return bytes(a ^ b for a, b in zip(self.iv, struct.pack(">IQ", 0, self.counter)))

    def seal(self, type, content):
        """The frame of the next record."""
        message = bytes([type]) + content
        if self.suite == "fernet":
            sealed = frame(seal_token(self.key, struct.pack(">Q", self.counter) + message))
        else:
            length = struct.pack(">I", len(message) + 16)
            sealed = length + AESGCM(self.key).encrypt(self.nonce(), message, length)
        self.count(content)
        return sealed

    def open(self, body):
        """The type and the content of the next record."""
        if self.suite == "fernet":
            message = open_token(self.key, body)
            require(message[:8] == struct.pack(">Q", self.counter), "a record has another counter than is due")
            message = message[8:]
        else:
            try:
                message = AESGCM(self.key).decrypt(self.nonce(), body, struct.pack(">I", len(body)))
            except InvalidTag:
                raise Ended("a record does not open") from None
        self.count(message[1:])
        return int.from_bytes(message[:1], "big"), message[1:]


class Session:
    """Records both ways."""

    def __init__(self, frames, suite, T_sending, T_receiving):
        self.frames, self.keepalive = frames, HANDSHAKE_SECONDS
        self.sending, self.receiving = Direction(suite, T_sending), Direction(suite, T_receiving)

    def send(self, type, content=b""):
        self.frames.sock.settimeout(PONG_SECONDS)
        self.frames.sock.sendall(self.sending.seal(type, content))
        if type == REKEY:                           # section 7: the last record under T
            self.sending.rekey()
        elif type == CLOSE:                         # 6.2: the end of this direction
            self.frames.sock.shutdown(socket.SHUT_WR)
        elif self.sending.content_bytes >= 2**30 or time.monotonic() >= self.sending.since + 600:
            self.send(REKEY)

    def read_record(self, deadline, types):
        """The next record; only these types are allowed now."""
        type, content = self.receiving.open(self.frames.read(RECORD_LIMIT[self.receiving.suite], deadline))
        require(type in types and len(content) in LENGTHS[type],
                f"a record of type {type} with {len(content)} bytes is not allowed here")
        return type, content

    def read(self):
        """The next Packets, Pong, Message or Close; takes care of Ping, Rekey and silence."""
        pinged = False
        while True:
            patience = PONG_SECONDS if pinged else self.keepalive
            try:
                type, content = self.read_record(time.monotonic() + patience, LATER)
            except socket.timeout:                  # section 9, silence
                if pinged:
                    raise Ended("the peer is dead: a Ping was not answered") from None
                self.send(PING, os.urandom(8))
                pinged = True
                continue
            pinged = False
            if type == PING:
                self.send(PONG, content)
            elif type == REKEY:
                self.receiving.rekey()
                print("the peer has done a Rekey", flush=True)
            else:
                return type, content
