#!/usr/bin/env python3
"""Everybody's own session to take apart, and a check of what they found.

    python3 tests/lab/mark.py --seed NAME                 prints a sheet: a key, the frames of a session, ten questions
    python3 tests/lab/mark.py --seed NAME answers.txt     checks: lines of `question = answer`

The session is the one of `fernvpn explain --seed NAME`; the answers are recomputed from its key and its frames alone,
with the Python peer. A wrong answer gets a hint, and never the right one. Exit status: 0 all are right, 1 not all, 2
the command line is wrong.
"""

import argparse
import base64
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from middle import peer

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("FERNVPN", ROOT / "target/release/fernvpn"))


class Session:
    """The first session that `fernvpn explain` shows: the key and the frames, and what follows from them."""

    def __init__(self, program, seed):
        words = [str(program), "explain", "--seed", seed, "--suite", "aes-256-gcm"]
        told = subprocess.run(words, capture_output=True, encoding="utf-8")
        if told.returncode:
            sys.exit(f"{' '.join(words)}: {told.stderr.strip()}")
        self.K, self.frames = self.read(told.stdout.split("\nA SESSION")[0])
        by = {sender: [data[4:] for who, data in self.frames if who == sender] for sender in ("client", "server")}
        self.client_hello, self.server_hello = by["client"][0], by["server"][0]
        self.hello = peer.derive(self.K, b"", b"hello", 32)
        self.server_fields = peer.read_fields(peer.open_token(self.hello, self.server_hello))
        self.client, self.server = peer.traffic_secrets(self.K, self.client_hello, self.server_hello)
        direction = peer.Direction("aes-256-gcm", self.client)
        self.messages = []
        for record in by["client"][1:]:
            if direction.counter == 3 and direction.T == self.client:
                self.nonce = direction.nonce()
            type, content = direction.open(record)
            self.messages += [content.decode()] if type == peer.MESSAGE else []
            if type == peer.REKEY:
                direction.rekey()
                self.next = direction.T

    @staticmethod
    def read(text):
        """K, and (sender, frame) for each frame that is drawn."""
        row = r" {32}((?:[0-9a-f]{2} )*[0-9a-f]{2})(?: .*)?\n"
        key = re.search(r"^K: .*\n +([0-9a-f]{64})$", text, re.M)
        frames = []
        for arrow, length, drawn in re.findall(
                r"^ *\d+  .*? {2,}client (→|←) server .*\n(?:.*\n)*?frame: (\d+) bytes\n((?:.+\n)+)", text, re.M):
            data = bytes.fromhex(" ".join(re.findall(row, drawn)))
            if len(data) != int(length):
                sys.exit(f"fernvpn explain draws {len(data)} bytes of a frame of {length}")
            frames.append(("client" if arrow == "→" else "server", data))
        if not key or len(frames) < 5:
            sys.exit("fernvpn explain shows no session that this program can read")
        return bytes.fromhex(key[1]), frames


def token(body):
    return base64.urlsafe_b64decode(body)


# (name, question, form, right answer, hint, [(wrong answer, its own hint)])
QUESTIONS = [
    ("id", "the id in your ClientHello, in hexadecimal", bytes, lambda s: s.client_hello[:8],
     "it stands in the frame as it is, before the token",
     [(lambda s: peer.frame(s.client_hello)[:8], "the first four bytes of a frame are its length")]),
    ("time", "the timestamp of your ServerHello's token, in seconds since 1970", int,
     lambda s: int.from_bytes(token(s.server_hello)[1:9], "big"), "decode the token; bytes 1 to 8 are the time",
     [(lambda s: int.from_bytes(token(s.server_hello)[1:9], "little"), "all integers here are big-endian"),
      (lambda s: int.from_bytes(token(s.client_hello[8:])[1:9], "big"), "this is the ClientHello's")]),
    ("iv", "the IV of your ClientHello's token, in hexadecimal", bytes, lambda s: token(s.client_hello[8:])[9:25],
     "the token begins after the id, and its IV after the time",
     [(lambda s: token(s.server_hello)[9:25], "this is the ServerHello's")]),
    ("hello-key", "the derived hello key, in hexadecimal", bytes, lambda s: s.hello,
     "PROTOCOL.md, sections 1 and 2: two HMACs; the label begins with 'fernvpn 1 ' and one byte 0x01 follows it",
     [(lambda s: s.K, "this is K itself, which encrypts nothing"),
      (lambda s: peer.hmac.digest(peer.hmac.digest(b"", s.K, "sha256"), b"fernvpn 1 hello", "sha256"),
       "the byte 0x01 after the label is missing"),
      (lambda s: peer.hmac.digest(s.K, b"fernvpn 1 hello\x01", "sha256"),
       "the first HMAC, with the salt as key, is missing")]),
    ("server-nonce", "the server's nonce, in hexadecimal", bytes, lambda s: bytes.fromhex(s.server_fields["nonce"]),
     "open the ServerHello's token with the hello key as a Fernet key",
     [(lambda s: bytes.fromhex(s.server_fields["client-nonce"]), "this is the client's, returned")]),
    ("transcript", "the transcript, in hexadecimal", bytes,
     lambda s: hashlib.sha256(peer.frame(s.client_hello) + peer.frame(s.server_hello)).digest(),
     "PROTOCOL.md, section 5",
     [(lambda s: hashlib.sha256(s.client_hello + s.server_hello).digest(), "whole frames: their lengths belong to it"),
      (lambda s: hashlib.sha256(peer.frame(s.server_hello) + peer.frame(s.client_hello)).digest(),
       "the client's comes first")]),
    ("client-secret", "the client's first traffic secret, in hexadecimal", bytes, lambda s: s.client,
     "derive it from K, with the transcript as salt",
     [(lambda s: s.server, "this is the server's"),
      (lambda s: peer.derive(s.K, b"", b"client", 32), "the salt is missing"),
      (lambda s: peer.derive(s.client, b"", b"key", 32), "this is the key that is made from it")]),
    ("nonce-3", "the nonce of the client's record with counter 3, in hexadecimal", bytes, lambda s: s.nonce,
     "derive the iv from the traffic secret, and xor the counter, as eight bytes, into its last eight",
     [(lambda s: peer.derive(s.client, b"", b"iv", 12), "this is the iv, or the nonce of record 0"),
      (lambda s: s.nonce[:11] + bytes([s.nonce[11] ^ 3 ^ 2]), "this is record 2: the first record has counter 0"),
      (lambda s: s.nonce[:11] + bytes([s.nonce[11] ^ 3 ^ 4]), "this is record 4: the first record has counter 0"),
      (lambda s: bytes(byte ^ 3 * (at in (7, 11)) for at, byte in enumerate(s.nonce)),
       "the counter is a u64, big-endian: its last byte is the nonce's last")]),
    ("said", "what the client says in its Message", str, lambda s: s.messages[0],
     "open the client's records one after the other; the type of a Message is 8", []),
    ("step", "one bit of your ClientHello's ciphertext is changed: the number of the step in FERNET.md that refuses",
     int, lambda s: 3, "exercise 3; FERNET.md, \"How to read the code\"",
     [(lambda s: 6, "nothing is decrypted before it is known to be good")]),
]


def read_answer(form, text):
    """An answer in the form that is asked for; ValueError if it has another."""
    text = text.strip()
    if form is bytes:
        return bytes.fromhex(re.sub(r"[\s:]|^0x", "", text))
    return form(text.strip("'\"") if form is str else text)


def sheet(session, seed):
    print(f"The session of {seed}: suite aes-256-gcm, a static key. What do PROTOCOL.md and FERNET.md make of it?\n")
    print(f"K = {base64.urlsafe_b64encode(session.K).decode()}\n")
    for sender, data in session.frames:
        print(f"{sender}: {data.hex()}")
    print("\nAnswer in a text file, a line for each:\n")
    for name, question, *_ in QUESTIONS:
        print(f"{name:<13} =      # {question}")


def read_answers(path):
    """Question and answer, of each line that has both. The other lines are named."""
    answers, asked = {}, {name for name, *_ in QUESTIONS}
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            text = line.decode("utf-8-sig").split("#")[0].strip()
        except UnicodeDecodeError:
            raise ValueError(f"{path}, line {number}: this is not UTF-8 text") from None
        name, equals, answer = (part.strip() for part in text.partition("="))
        if not text:
            continue
        if not equals or not name:
            print(f"?      line {number}: this is not 'question = answer': {text}")
        elif name not in asked:
            print(f"?      line {number}: there is no such question: {name}")
        elif name in answers:
            print(f"?      line {number}: {name} has an answer already, in line {answers[name][1]}")
        else:
            answers[name] = (answer, number)
    return {name: answer for name, (answer, _) in answers.items()}


def mark(session, path):
    """Prints a verdict for each question; how many are right."""
    answers = read_answers(path)
    right = 0
    for name, _, form, solve, hint, mistakes in QUESTIONS:
        due = solve(session)
        if not answers.get(name):
            verdict = "-      {}: no answer yet"
        else:
            try:
                given = read_answer(form, answers[name])
                known = [why for wrong, why in mistakes if wrong(session) == given]
                if form is bytes and len(given) != len(due):
                    known.append(f"{len(due)} bytes are due, and this is {len(given)}")
                verdict = "right  {}" if given == due else "wrong  {}: " + (known + [hint])[0]
            except ValueError:
                verdict = "wrong  {}: this cannot be read as " + {bytes: "hexadecimal", int: "a number"}[form]
        right += verdict.startswith("right")
        print(verdict.format(name))
    print(f"\n{right} of {len(QUESTIONS)} are right")
    return right


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", required=True, metavar="NAME")
    parser.add_argument("--program", type=Path, default=PROGRAM, help="fernvpn; otherwise target/release/fernvpn")
    parser.add_argument("answers", nargs="?", metavar="answers.txt")
    options = parser.parse_args()
    if not options.program.is_file():
        parser.error(f"there is no {options.program}: make build, or --program")
    session = Session(options.program.resolve(), options.seed)
    if options.answers is None:
        return sheet(session, options.seed)
    try:
        return mark(session, options.answers) != len(QUESTIONS)
    except (OSError, ValueError) as reason:
        parser.error(str(reason))


if __name__ == "__main__":
    sys.exit(main())
