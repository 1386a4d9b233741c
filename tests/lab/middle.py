"""The person in the middle. Every frame between a client and a server passes here; orders say what happens to which.

    drop client 4        the client's fourth frame does not arrive
    twice server 3       arrives twice
    swap client 3        arrives after the one behind it
    flip client 3 40     arrives with one bit of its byte 40 changed
    spell server 1       arrives as another spelling of the same token
    reflect client 1     goes back to where it came from (a ClientHello without its id, as a ServerHello has none)
    cut client 3         does not arrive, and nothing after it: the connection ends for both
"""

import socket
import struct
import sys
import threading
from pathlib import Path

try:
    from cryptography.fernet import Fernet, InvalidToken
except ImportError as reason:
    sys.exit(f"""The lab needs Python's cryptography, and cannot load it: {reason}.
Try, on Debian and Ubuntu:
    sudo apt-get install -y python3-cryptography
or, on any system, in a folder of your own:
    python3 -m venv lab-python
    . lab-python/bin/activate
    pip install cryptography""")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "interop"))
import fernvpn_peer as peer  # noqa: E402

# The orders, and how many numbers follow that of the frame.
WORDS = {"drop": 0, "twice": 0, "swap": 0, "flip": 1, "spell": 0, "reflect": 0, "cut": 0}
OTHER = {"client": "server", "server": "client"}
NAMES = {("client", 1): "ClientHello", ("server", 1): "ServerHello", ("client", 2): "Finished", ("server", 2): "Config"}


def read_order(text):
    """'flip client 3 40' as (sender, number of the frame, word, numbers)."""
    word, sender, *numbers = text.split() + [""] * 2
    numbers = [int(number) for number in numbers if number]
    if sender not in OTHER or len(numbers) != WORDS.get(word, -1) + 1:
        raise ValueError(f"'{text}' is no order")
    return sender, numbers[0], word, numbers[1:]


def hexadecimal(data, most=16):
    return data[:most].hex(" ") + (" …" if len(data) > most else "")


def flipped(data, at):
    if at >= len(data):
        raise ValueError(f"there is no byte {at} among {len(data)}")
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def other_spelling(token):
    """Other text for the same token, in a way that this version of Python's Fernet reads."""
    fernet = Fernet(Fernet.generate_key())
    own = fernet.encrypt(bytes((len(token) * 3 // 4 - 57) // 16 * 16 - 1))         # as long as the token
    for spell in (with_line_feed, with_unused_bits, without_padding):
        try:
            if spell(own) != own and fernet.decrypt(spell(own)) is not None:
                return spell(token)
        except (InvalidToken, ValueError):
            pass
    raise ValueError("this token has no other spelling that Fernet reads")


def with_line_feed(text):
    return text[:40] + b"\n" + text[40:]


def with_unused_bits(text):
    """The last character before the padding stands for less than six bits."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    end = text.rstrip(b"=")
    return end[:-1] + alphabet[alphabet.index(end[-1:]) ^ 1:][:1] + text[len(end):] if end != text else text


def without_padding(text):
    return text.rstrip(b"=")


class Middle:
    """Listens for clients, and connects each to the server. `frames` are those that came: (sender, number, bytes)."""

    def __init__(self, server, orders=(), say=print):
        self.server, self.orders, self.say = server, list(orders), say
        self.frames, self.changed = [], threading.Condition()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.listener.getsockname())
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        try:
            while True:
                client = self.listener.accept()[0]
                ends = {"client": client, "server": socket.create_connection(self.server)}
                for sender in ends:
                    ends[sender].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self.carry, args=(sender, ends), daemon=True).start()
        except OSError:
            pass                                            # close() was called, or the server is gone

    def close(self):
        self.listener.close()

    def carry(self, sender, ends):
        """Hands on one direction until it ends."""
        number, held = 0, b""
        try:
            while frame := read_frame(ends[sender]):
                number += 1
                on, back, held, cut = self.treat(sender, number, frame, held)
                self.note((sender, number, frame))
                ends[OTHER[sender]].sendall(on)
                ends[sender].sendall(back)
                if cut:
                    ends[sender].shutdown(socket.SHUT_WR)
                    break
            ends[OTHER[sender]].shutdown(socket.SHUT_WR)
            while ends[sender].recv(65536):                 # an end, and not a reset
                pass
        except OSError:
            pass
        except ValueError as reason:
            self.say(f"  the middle: {reason}")
        self.note((sender, 0, b""))

    def treat(self, sender, number, frame, held):
        """What goes on, what goes back, what waits for the next frame, and whether this is the end."""
        on, back, held, keep, cut, done = frame, b"", held, b"", False, ""
        for who, which, word, numbers in self.orders:
            if (who, which) != (sender, number):
                continue
            done += f"   <- {word} {' '.join(map(str, numbers))}".rstrip()
            if word == "flip":
                on = flipped(on, numbers[0])
            elif word == "spell":
                first = 8 if (sender, number) == ("client", 1) else 0
                on = peer.frame(on[4:4 + first] + other_spelling(on[4 + first:]))
            elif word == "twice":
                on += on
            elif word == "reflect":
                on, back = b"", peer.frame(on[12:]) if (sender, number) == ("client", 1) else on
            else:
                on, keep, cut = b"", on if word == "swap" else b"", word == "cut"
        name = NAMES.get((sender, number), "record")
        arrow = "client -> server" if sender == "client" else "server -> client"
        self.say(f"  {arrow}  {number}  {name:<11} {len(frame):>4} bytes  {hexadecimal(frame)}{done}")
        return on + held, back, keep, cut

    def note(self, frame):
        with self.changed:
            self.frames.append(frame)
            self.changed.notify_all()

    def frame(self, sender, number):
        """The frame, once it is there; nothing if its sender has ended before. Number 0 is the end."""
        def there():
            return [data for who, which, data in self.frames if who == sender and which in (0, number)]
        with self.changed:
            self.changed.wait_for(there, 60)
            return there()[0]

    def recording(self):
        """All frames of one connection, once it is over."""
        for sender in OTHER:
            self.frame(sender, 0)
        return [frame for frame in self.frames if frame[1]]


def read_frame(sock):
    """A whole frame, or nothing at the end of the stream."""
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack(">I", data[:4])[0]:
        due = 4 if len(data) < 4 else 4 + struct.unpack(">I", data[:4])[0]
        received = sock.recv(due - len(data))
        if not received:
            return b""
        data += received
    return data
