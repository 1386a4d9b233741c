#!/usr/bin/env python3
"""The attack lab: a client, a server, and you in the middle. docs/LAB.md is the book to it.

    python3 tests/lab/lab.py                        a prompt
    python3 tests/lab/lab.py replay                 one exercise, by name or number
    python3 tests/lab/lab.py run drop client 4      a conversation, with something done to it
    python3 tests/lab/lab.py copy mine              a copy of the peers, to remove lines from
    python3 tests/lab/lab.py --peers mine replay    the same exercise against the copy
    python3 tests/lab/lab.py --program target/release/fernvpn replay      and against fernvpn itself

Needs Python with `cryptography` and nothing else: no root, no network. Exit status: 0 the attack was refused, 3 it
succeeded, 1 the lab itself failed, 2 the command line is wrong.
"""

import argparse
import base64
import hashlib
import hmac
import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timezone
from ipaddress import ip_interface
from pathlib import Path

import middle
from middle import hexadecimal, peer

import client as peer_client  # noqa: E402  (middle has put its folder on the path)
import packets as peer_packets  # noqa: E402

PEERS = Path(peer.__file__).parent
PATIENCE = 60
REFUSED, SUCCEEDED = 0, 3
SAY = ["transfer 10 to Bob", "no, cancel that", "thank you"]
# A server gives up a connection: the one in Python, and fernvpn.
ENDED = r"ended:|not answered:|client lost|handshake refused"


class LabError(Exception):
    """The lab itself does not work, and why."""


class Running:
    """A peer that runs, and what it says."""

    def __init__(self, name, command, folder):
        self.name, self.said, self.lines = name, [], queue.Queue()
        environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, encoding="utf-8", errors="replace",
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip())
        self.lines.put(None)

    def wait_for(self, pattern):
        """The first line from now on in which the pattern is; nothing if the peer ends before it."""
        while True:
            try:
                line = self.lines.get(timeout=PATIENCE)
            except queue.Empty:
                raise LabError(f"the {self.name} says nothing that has '{pattern}': {self.said}") from None
            if line is None:
                self.lines.put(None)
                return None
            self.said.append(line)
            if re.search(pattern, line):
                return line

    def end(self):
        """Waits until it leaves by itself: its status."""
        self.wait_for("(?!)")
        return self.process.wait()

    def stop(self):
        self.process.kill()
        self.end()


class Lab:
    """Keys, peers and the middle for one exercise; all of it gone at the end."""

    def __init__(self, options):
        self.options, self.started = options, []
        self.folder = Path(tempfile.mkdtemp(prefix="fernvpn-lab-"))
        self.keys = {name: os.urandom(32) for name in ("alice", "bob")}
        text = {name: base64.urlsafe_b64encode(key).decode() for name, key in self.keys.items()}
        for file, names in [("alice.key", ["alice"]), ("bob.key", ["bob"]), ("server.key", ["alice", "bob"])]:
            self.write(file, "".join(f"{text[name]}   # {name}\n" for name in names))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for thing in reversed(self.started):
            thing.stop() if isinstance(thing, Running) else thing.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, name, text):
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")

    def start(self, name, command):
        running = Running(name, command, self.folder)
        self.started.append(running)
        return running

    def uses_program(self, role, victims):
        return self.options.program is not None and role in victims

    def server(self, victims, *arguments):
        """A server, and its address. It is fernvpn itself where that was asked for and the server is attacked."""
        python = [sys.executable, str(self.options.peers / "server.py")]
        program = [str(self.options.program), "server", "--no-tun"]
        command = program if self.uses_program("server", victims) else python
        if not any(word in arguments for word in ("-k", "-c")):
            command = command + ["-k", "server.key"]
        server = self.start("server", command + ["--listen", "127.0.0.1:0", *arguments])
        line = server.wait_for("listening on ")
        if not line:
            raise LabError(f"the server does not start: {server.said}")
        host, port = line.split("listening on ")[1].split()[0].rsplit(":", 1)
        return server, (host, int(port))

    def client(self, victims, address, *arguments):
        python = [sys.executable, str(self.options.peers / "client.py")]
        program = [str(self.options.program), "client", "--no-tun", "--once"]
        command = program if self.uses_program("client", victims) else python
        if not any(word in arguments for word in ("-k", "-c")):
            command = command + ["-k", "alice.key"]
        if self.options.suite and "--suite" not in arguments:
            arguments = (*arguments, "--suite", self.options.suite)
        return self.start("client", command + ["--connect", address, *arguments])

    def middle(self, server, *orders):
        between = middle.Middle(server, map(middle.read_order, orders))
        self.started.append(between)
        return between

    def conversation(self, victims, *orders, arguments=()):
        """One client that says three things to a server, through the middle."""
        server, at = self.server(victims)
        between = self.middle(at, *orders)
        words = SAY[:1] if self.uses_program("client", victims) else SAY        # fernvpn's client says one thing
        said = [word for text in words for word in ("--send", text)]
        client = self.client(victims, between.address, *said, *arguments)
        return server, client, between

    def steal_key(self, file="alice.key"):
        """The K that is in a file now: of a key file, or of the state of a ratcheted key."""
        text = (self.folder / file).read_text(encoding="utf-8")
        return base64.urlsafe_b64decode(re.search(r"(?:key=)?([\w-]{43}=)", text)[1])


def show(title, *lines):
    print(f"\n{title}")
    for line in lines:
        print(f"  {line}")


def heard(running):
    show(f"The {running.name} says:", *(running.said or ["nothing"]))


def body(frame):
    return frame[4:]


def send_raw(address, data):
    """Sends bytes to a server, then the end: all that it answers."""
    with socket.create_connection(address, PATIENCE) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while received := sock.recv(65536):
            answer += received
        return answer


def refusing_step(key, token):
    """Which step of docs/FERNET.md refuses this token, for one who has the key."""
    try:
        raw = base64.b64decode(token, b"-_", validate=True)
    except ValueError:
        return "step 1, decode the text: there is a character that does not belong there"
    if raw[:1] != b"\x80":
        return f"step 2, the version: 0x{raw[0]:02x} where 0x80 is due"
    if hmac.digest(key[:16], raw[:-32], "sha256") != raw[-32:]:
        return "step 3, the HMAC: these bytes are not those that were signed"
    return None


# ---- the exercises -----------------------------------------------------------------------------------------------

def timestamp(lab):
    """Read the token's timestamp
    PROTOCOL.md, section 10; FERNET.md, "What a token does not hide".
    The timestamp stands outside the encryption so that anybody can tell how old a token is. Everybody on the path
    can, too.
    """
    server, client, between = lab.conversation([], arguments=["--suite", "fernet"])
    client.end()
    frame = between.frame("client", 1)
    raw = base64.urlsafe_b64decode(frame[12:])
    seconds = int.from_bytes(raw[1:9], "big")
    show("The ClientHello, without any key:",
         f"offset   0  length      {hexadecimal(frame[:4])}   {len(frame) - 4} bytes follow",
         f"         4  id          {hexadecimal(frame[4:12])}   the same in every session of this key",
         f"        12  token       {frame[12:60].decode()}…   base64url of:",
         f"token    0  version     {hexadecimal(raw[:1])}",
         f"         1  timestamp   {hexadecimal(raw[1:9])}   {datetime.fromtimestamp(seconds, timezone.utc)}",
         f"         9  IV          {hexadecimal(raw[9:25])}",
         f"        25  ciphertext  {hexadecimal(raw[25:-32])}   {len(raw) - 57} bytes",
         f"{len(raw) - 32:>10}  HMAC        {hexadecimal(raw[-32:])}")
    times = {int.from_bytes(base64.urlsafe_b64decode(body(data))[1:9], "big")
             for _, number, data in between.recording() if number > 1}
    show("In the suite fernet every record is a token, so that their times are open too:", *sorted(times))
    return SUCCEEDED, "somebody without a key has read the time on the client's clock"


def replay(lab):
    """Replay a hello
    PROTOCOL.md, section 4.2, step 4, and section 4.4.
    The server remembers the nonces it has answered, so that a recording does not even show that a server is here.
    Where it has forgotten one, the answer is of no use: its own nonce is new, so the recorded Finished is under
    another key.
    """
    server, client, between = lab.conversation(["server"])
    client.end()
    recorded = between.frame("client", 1) + between.frame("client", 2)
    server.wait_for(r"Close: code|client disconnected")
    show("The same ClientHello and the same Finished, again:", hexadecimal(recorded))
    answer = send_raw(at(between), recorded)
    server.wait_for(ENDED)
    heard(server)
    if not answer:
        return REFUSED, "not one byte came back"
    show(f"The answer, {len(answer)} bytes:", hexadecimal(answer))
    if len(answer) > 4 + int.from_bytes(answer[:4], "big"):
        return SUCCEEDED, "the recording has got a whole session"
    return SUCCEEDED, ("a ServerHello for somebody without a key: now he knows who is here. But no Config: the "
                       "Finished was no good")


def flip(lab):
    """Flip a bit of the ciphertext and watch which step refuses it
    FERNET.md, "How to read the code"; PROTOCOL.md, section 6.
    The HMAC covers all that stands before it, and nothing is decrypted before it has verified. In the suite
    aes-256-gcm the tag covers the record and its length.
    """
    server, at_server = lab.server(["server"])
    between = lab.middle(at_server, "drop client 1")        # a hello that the server has never seen
    client = lab.client(["server"], between.address)
    hello = between.frame("client", 1)
    client.stop()
    identity, token = hello[4:12], hello[12:]
    raw = base64.urlsafe_b64decode(token)
    key = peer.derive(lab.keys["alice"], b"", b"hello", 32)
    tries = {"a character of the text": (identity, b"!" + token[1:])}
    for part, where in [("version", 0), ("timestamp", 5), ("IV", 9), ("ciphertext", 30), ("HMAC", len(raw) - 1)]:
        tries[part] = identity, base64.urlsafe_b64encode(middle.flipped(raw, where))
    tries["id"] = middle.flipped(identity, 7), token
    answered = []
    show("One bit of a good ClientHello is changed:")
    for part, (identity, text) in tries.items():
        answer = send_raw(at_server, peer.frame(identity + text))
        answered += [part] if answer else []
        why = refusing_step(key, text) or "the look-up: nobody has this id, so there is no key to try"
        print(f"  {part:<23} {len(answer)} bytes of answer. Refused by {why}")
    good = send_raw(at_server, hello)
    print(f"  nothing                 {len(good)} bytes of answer. It was a good one")
    if not good:
        raise LabError(f"the unchanged hello has no answer: {server.said}")
    results = []
    for suite in peer.RECORD_LIMIT:
        show(f"One bit of a record, suite {suite}:")
        server, client, between = lab.conversation(["server"], "flip client 4 20", arguments=["--suite", suite])
        results.append(server.wait_for(f"{ENDED}|{SAY[2]}"))
        client.end()
        heard(server)
    if answered or any(SAY[2] in (line or "") for line in results):
        return SUCCEEDED, "something that was changed has been accepted"
    return REFUSED, "whatever bit it was, it was noticed, before anything was decrypted"


def disagree(lab):
    """Make the two ends disagree
    PROTOCOL.md, section 1 (no token has two spellings) and section 5 (the transcript).
    Both sides hash both hellos as they went over the wire. If a token had two spellings, the middle could hand the
    client a frame that the server never sent. The keys of the two would differ, and the client would have sent
    Finished into the void.
    """
    server, client, between = lab.conversation(["client"], "spell server 1")
    finished = between.frame("client", 2)
    if not finished:
        client.end()
        heard(client)
        return REFUSED, "the client takes a token in one spelling only"
    sent, transcripts = between.frame("server", 1), {}
    changed = peer.frame(middle.other_spelling(body(sent)))
    for end, server_hello in [("server", sent), ("client", changed)]:
        transcripts[end] = hashlib.sha256(between.frame("client", 1) + server_hello).digest()
    show("What each end hashes both hellos to:", *(f"{end}  {value.hex()}" for end, value in transcripts.items()))
    return SUCCEEDED, ("the client has taken a frame that the server never sent, and has sent Finished under keys that "
                       "nobody shares")


def drop(lab):
    """Drop one record
    PROTOCOL.md, section 6.
    TCP repairs losses, but somebody in the middle speaks TCP himself. So each record has a number: in the suite
    fernet it is inside the token and is compared; in aes-256-gcm it is in the nonce, and there is no line that could
    be forgotten.
    """
    missed = []
    for suite in reversed(peer.RECORD_LIMIT):
        show(f"Suite {suite}. The client says: " + "; ".join(SAY))
        server, client, between = lab.conversation(["server"], "drop client 4", arguments=["--suite", suite])
        line = server.wait_for(f"{ENDED}|{SAY[2]}")
        client.stop()
        heard(server)
        missed += [suite] if SAY[2] in line else []
    if missed:
        return SUCCEEDED, f"'{SAY[1]}' is gone, and the server has not noticed: {', '.join(missed)}"
    return REFUSED, "the record after the gap was refused, and nothing after it was read"


def reflect(lab):
    """Reflect
    PROTOCOL.md, sections 4.3 and 5.
    Both hellos are under one key, so a client's own hello opens; `role` says whose it is. Records have a key for each
    direction, so a client's own record does not open.
    """
    show("The client's own hello comes back to it:")
    server, client, between = lab.conversation(["client"], "reflect client 1")
    client.end()
    heard(client)
    believed = between.frame("client", 2)
    show("The client's own record comes back to it:")
    server, client, between = lab.conversation(["client"], "reflect client 3")
    client.end()
    heard(client)
    if believed or any(line.startswith("answer: " + SAY[0]) for line in client.said):
        return SUCCEEDED, "the client has talked to itself"
    return REFUSED, "the client knows its own words when it hears them"


def cut(lab):
    """Cut the connection and see that truncation is noticed
    PROTOCOL.md, section 6.2.
    Nobody can keep somebody on the path from cutting. But a connection that nobody has cut ends with a Close, which is
    a record like others and cannot be forged. An end without one is a truncation, and both say so.
    """
    server, client, between = lab.conversation(["client", "server"], "cut client 3")
    status = client.end()
    server.wait_for("truncat")
    heard(client)
    heard(server)
    if status and all("truncat" in "\n".join(end.said) for end in (client, server)):
        return REFUSED, "the connection is gone, and both know that its end was not the end"
    return SUCCEEDED, "one of them takes the cut for an orderly end"


def steal(lab):
    """Steal a static key and read last week's capture; then try with a ratcheted key
    PROTOCOL.md, section 8.
    All keys of a session come from K and from the two hellos, which are on the wire. A static K stays what it is; a
    ratcheted one moves a step with each session, before the session begins, and HMAC has no way back.
    """
    show("Last week, a session under a static key is recorded:")
    server, client, between = lab.conversation(["client", "server"])
    client.end()
    read = read_recording(lab.steal_key(), between.recording())
    show("Today alice.key is stolen. What was said:", *read)
    if lab.options.program is None:
        return SUCCEEDED, "a static key reads what was recorded. (Ratcheted keys are fernvpn's alone: --program)"
    show("The same with a ratcheted key:")
    lab.write("server.conf", "[server]\n[peer]\nname = alice\nkey-file = server-ratcheted.key\nratchet = yes\n")
    for file in ("ratcheted.key", "server-ratcheted.key"):
        lab.write(file, (lab.folder / "alice.key").read_text(encoding="utf-8"))
    server, at_server = lab.server(["server"], "-c", "server.conf")
    between = lab.middle(at_server)
    lab.write("client.conf", f"[client]\nserver = {between.address}\nkey-file = ratcheted.key\nratchet = yes\n")
    client = lab.client(["client"], between.address, "-c", "client.conf", "--send", SAY[0])
    if client.end():
        raise LabError(f"the client with a ratcheted key says: {client.said}")
    frames = between.recording()
    opened = []
    for file in ("ratcheted.key", "server-ratcheted.key"):
        stolen = lab.steal_key(file)
        read = read_recording(stolen, frames)
        opened += read
        show(f"Today {file} is stolen:", f"id on the wire       {hexadecimal(frames[0][2][4:12])}",
             f"id of the stolen key {hexadecimal(peer.derive(stolen, b'', b'id', 8))}",
             *(read or ["the hellos do not open"]))
    if not read_recording(lab.keys["alice"], frames):
        raise LabError("the key that the session had does not open it either")
    if opened:
        return SUCCEEDED, "the ratchet has not moved"
    return SUCCEEDED, ("the static key reads what was recorded. The ratcheted one does not: the key of that day is "
                       "nowhere any more")


def read_recording(K, frames):
    """What a recorded session says, for one who has its K; nothing if K does not open its hellos."""
    frames = sorted(frames, key=lambda frame: frame[1])             # each direction in its order
    by = {sender: [body(data) for who, _, data in frames if who == sender] for sender in ("client", "server")}
    (client_hello, *_), (server_hello, *_) = by["client"], by["server"]
    try:
        fields = peer.read_fields(peer.open_token(peer.derive(K, b"", b"hello", 32), server_hello))
    except peer.Ended:
        return []
    secrets = dict(zip(("client", "server"), peer.traffic_secrets(K, client_hello, server_hello)))
    lines = []
    for sender, secret in secrets.items():
        direction = peer.Direction(fields["suite"], secret)
        for record in by[sender][1:]:
            type, content = direction.open(record)
            if type == peer.REKEY:
                direction.rekey()
            lines.append(f"{sender}  type {type}  {content.decode('utf-8', 'replace')!r}")
    return lines


def spoof(lab):
    """Spoof another client's address
    PROTOCOL.md, section 6: "a packet that is not acceptable".
    Whoever has a key is a client, but not any client. A decrypted packet is still a stranger's: the server looks
    whether its source is an address of the client whose key has sealed it.
    """
    server, at_server = lab.server(["server"])

    def connect(name):
        sock = socket.create_connection(at_server, PATIENCE)
        lab.started.append(sock)
        session, config = peer_client.handshake(sock, lab.keys[name], [lab.options.suite or "fernet"])
        own = [ip_interface(address).ip for address in config["addresses"].split(",")]
        return session, own[0], peer_client.ip_address(config["server"].split(",")[0])

    session, bob, _ = connect("bob")
    leave(session)
    session, alice, target = connect("alice")
    show("Alice pings the server, in Bob's name and then in her own:")
    ways = {"bob": (bob, os.urandom(20)), "alice": (alice, os.urandom(20))}
    for name, (source, rest) in ways.items():
        packet = peer_packets.write_echo(peer_packets.REQUEST, source, target, rest)
        print(f"  from {source} to {target}: {hexadecimal(packet, 28)}")
        session.send(peer.PACKETS, peer_packets.write_packets([packet]))
    replies = []
    while ways["alice"][1] not in replies:
        for packet in peer_packets.read_packets(peer_client.wait_for(session, peer.PACKETS)):
            kind, _, to, rest = peer_packets.read_echo(packet)
            print(f"  a reply to {to}: {hexadecimal(packet, 28)}")
            replies.append(rest)
    leave(session)
    server.wait_for("Close: code|client disconnected")
    heard(server)
    if ways["bob"][1] in replies:
        return SUCCEEDED, f"the server has taken Alice for {bob}, which is Bob"
    return REFUSED, "the server has answered Alice, and not 'Bob'"


def leave(session):
    session.send(peer.CLOSE, b"\x00leaving")
    while session.frames.sock.recv(65536):
        pass


def exhaust(lab):
    """Exhaust the server with half handshakes
    PROTOCOL.md, section 9: "unauthenticated connections".
    A stranger can connect and say nothing, or half a hello, and must be waited for. fernvpn waits for 1,024 at a time,
    each in a thread of its own and for ten seconds in all; when one more comes, a random one goes, and never the
    newcomer. The server in Python takes one client after the other: that is why it is for learning only.
    """
    count = min(1100, open_file_limit() - 100) if lab.uses_program("server", ["server"]) else 3
    server, at_server = lab.server(["server"])
    half = bytes.fromhex("00000140") + os.urandom(8)
    for _ in range(count):
        sock = socket.create_connection(at_server, PATIENCE)
        lab.started.append(sock)
        sock.sendall(half)
    show(f"{count} strangers have sent half a hello: {hexadecimal(half)}", "Now a client comes:")
    begin = time.monotonic()
    client = lab.client([], "{}:{}".format(*at_server), "--send", SAY[0])
    status = client.end()
    heard(client)
    took = f"after {time.monotonic() - begin:.1f} s"
    if status:
        return SUCCEEDED, f"the client has given up {took}"
    return REFUSED, f"the client was served and has left {took}"


def open_file_limit():
    """How many files this program and those that it starts may open: now more than the 1,024, or even 256, that are
    usual. Where the system does not say, few enough."""
    try:
        import resource
    except ImportError:
        return 600
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def at(between):
    return between.server


EXERCISES = [timestamp, replay, flip, disagree, drop, reflect, cut, steal, spoof, exhaust]


def exercise(name, options):
    """Runs one; its exit status."""
    number, attack = find(name)
    title, section, *why = [line.strip() for line in attack.__doc__.strip().splitlines()]
    against = "fernvpn" if options.program else options.peers
    print(f"{number}. {title}   ({attack.__name__}, against {against})\n")
    with Lab(options) as lab:
        status, outcome = attack(lab)
    print(f"\n{'SUCCEEDED' if status else 'REFUSED'}: {outcome}.\n\nWhy: {section}")
    print("\n".join(why))
    return status


def find(name):
    for number, attack in enumerate(EXERCISES, 1):
        if name in (str(number), attack.__name__):
            return number, attack
    raise ValueError(f"there is no exercise '{name}': " + ", ".join(attack.__name__ for attack in EXERCISES))


def free_run(words, options):
    """A conversation with orders, separated by commas. Nothing is judged."""
    orders = [order.strip() for order in " ".join(words).split(",") if order.strip()]
    with Lab(options) as lab:
        server, client, between = lab.conversation(["server"], *orders)
        try:
            client.wait_for("(?!)")
        except LabError:
            print("  (the client waits for something that does not come)")
        client.stop()
        server.stop()
        heard(client)
        heard(server)
    return 0


def copy(folder):
    shutil.copytree(PEERS, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    print(f"the peers are in {folder}: client.py, server.py, fernvpn_peer.py. Use them with: --peers {folder}")
    return 0


HELP = """  1 to 10, or a name          an exercise: """ + ", ".join(attack.__name__ for attack in EXERCISES) + """
  run                         a conversation: the client says three things. Look at its frames
  run drop client 4           the same, and something happens to a frame; several orders are separated by commas
  orders                      what can happen to a frame
  copy FOLDER                 a copy of the peers, to remove lines from
  peers FOLDER                attack these from now on
  peers                       attack the unchanged ones again
  program FILE                attack fernvpn itself from now on
  suite NAME                  aes-256-gcm or fernet; without a name, both are allowed
  quit"""


def prompt(options):
    """For a class: the same commands, without the words before them."""
    try:
        import readline  # noqa: F401  for the keys up and down, where there is such a thing
    except ImportError:
        pass
    print("The attack lab. You are in the middle. docs/LAB.md is the book to it.\n\n" + HELP)
    while True:
        try:
            word, *rest = input("\nlab> ").split() or [""]
        except EOFError:
            return 0
        try:
            if word == "quit":
                return 0
            command(word, rest, options)
        except (LabError, OSError, ValueError) as reason:
            print(f"lab: {reason}")
        except KeyboardInterrupt:
            print("  (given up)")


def command(word, rest, options):
    """One command of the prompt or of the command line: an exit status."""
    if word in ("help", ""):
        print(HELP)
    elif word == "orders":
        print(middle.__doc__)
    elif word == "run":
        return free_run(rest, options)
    elif word == "copy" and len(rest) == 1:
        return copy(Path(rest[0]))
    elif word == "peers":
        options.peers, options.program = folder(*rest) if rest else PEERS, None
    elif word == "program" and rest:
        options.program = file(rest[0])
    elif word == "suite":
        options.suite = suite(*rest)
    else:
        return exercise(word, options)
    return 0


def folder(path):
    if not (Path(path) / "fernvpn_peer.py").exists():
        raise ValueError(f"in {path} there are no peers: copy {path}")
    return Path(path).resolve()


def file(path):
    if not Path(path).is_file():
        raise ValueError(f"there is no {path}: make build")
    return Path(path).resolve()


def suite(name=None):
    if name and name not in peer.RECORD_LIMIT:
        raise ValueError(f"'{name}' is no suite: " + ", ".join(peer.RECORD_LIMIT))
    return name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=folder, default=PEERS, help="the folder with the Python peers to attack")
    parser.add_argument("--program", type=file, help="fernvpn, to be attacked instead")
    parser.add_argument("--suite", type=suite)
    parser.add_argument("words", nargs="*", metavar="EXERCISE | run ORDERS | copy FOLDER")
    options = parser.parse_args()
    if not options.words:
        return prompt(options)
    try:
        return command(options.words[0], options.words[1:], options)
    except ValueError as reason:
        print(f"lab: {reason}", file=sys.stderr)
        return 2
    except (LabError, OSError) as reason:
        print(f"lab: {reason}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
