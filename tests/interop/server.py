"""A server of docs/PROTOCOL.md, for one client at a time. It routes nothing: it answers messages and pings itself.

python3 server.py -k KEYFILE --listen ADDR:PORT [--suite SUITE] [--rekey]
"""

import argparse
import os
import re
import socket
import sys
import time
from collections import deque
from ipaddress import ip_interface

from fernvpn_peer import (CLOSE, FINISHED, CONFIG, HANDSHAKE_SECONDS, HELLO_LIMIT, MESSAGE, PACKETS, RECORD_LIMIT,
                          REKEY, Ended, Frames, Session, derive, frame, open_token, read_fields, read_keys, require,
                          seal_token, traffic_secrets, write_fields)
from packets import REPLY, REQUEST, read_echo, read_packets, write_echo, write_packets

KEEPALIVE = 15
SERVER = [ip_interface("10.8.0.1/24"), ip_interface("fd0f:e12e::1/64")]


class Client:
    """What the server knows of the owner of one key."""

    def __init__(self, K, number):
        self.K = K
        self.interfaces = [ip_interface(f"{own.ip + 1 + number}/{own.network.prefixlen}") for own in SERVER]
        self.nonces = deque(maxlen=64)                                              # section 9


def handshake(sock, clients, suites):
    """Section 4. Returns the client and the session."""
    frames, deadline = Frames(sock), time.monotonic() + HANDSHAKE_SECONDS
    try:
        client_hello = frames.read(HELLO_LIMIT, deadline)                           # 4.2 ClientHello
        client = clients.get(client_hello[:8])
        require(client, "nobody has this id")
        hello = derive(client.K, b"", b"hello", 32)                                 # section 2
        fields = read_fields(open_token(hello, client_hello[8:]))
        print("ClientHello:", fields, flush=True)
        require(fields.get("role") == "client", "a hello was reflected")
        require(re.fullmatch("[0-9a-f]{64}", fields["nonce"]), "the nonce is not 64 lower-case hexadecimal digits")
        require(fields["nonce"] not in client.nonces, "a hello was replayed")
        offered_suites, offered_versions = fields["suites"].split(","), fields["versions"].split(",")
    except (KeyError, ValueError) as reason:
        print("not answered:", reason, flush=True)
        discard(sock, deadline)
        raise
    client.nonces.append(fields["nonce"])

    common = [suite for suite in suites if suite in offered_suites]                 # 4.3 ServerHello
    answer = {"version": "1", "role": "server", "client-nonce": fields["nonce"]}
    if "1" not in offered_versions:
        answer["refused"] = "no common version"
    elif not common:
        answer["refused"] = "no common suite"
    elif "step" in fields:
        answer["refused"] = "this server has no ratcheted keys"
    else:
        answer.update(nonce=os.urandom(32).hex(), suite=common[0], capabilities="", software="server.py")
    server_hello = seal_token(hello, write_fields(answer))
    sock.sendall(frame(server_hello))
    require("refused" not in answer, "refused: " + answer.get("refused", ""))

    client_secret, server_secret = traffic_secrets(client.K, client_hello, server_hello)    # section 5
    session = Session(frames, common[0], server_secret, client_secret)
    try:
        session.read_record(deadline, (FINISHED,))                                  # 4.4 Finished
    except ValueError:
        discard(sock, deadline)
        raise
    session.send(CONFIG, write_fields({                                             # 4.5 Config
        "addresses": ",".join(map(str, client.interfaces)), "server": ",".join(str(own.ip) for own in SERVER),
        "mtu": 1500, "routes": "", "dns": "", "keepalive": KEEPALIVE}))
    session.keepalive = KEEPALIVE
    return client, session


def discard(sock, deadline):
    """Reads and says nothing, so that nobody learns which step has failed."""
    try:
        while (seconds := deadline - time.monotonic()) > 0:
            sock.settimeout(seconds)
            if not sock.recv(65536):
                return
    except OSError:
        pass


def answer_packets(client, packets):
    """The replies to the echo requests among the packets. Everything else is dropped."""
    replies = []
    for packet in packets:
        kind, source, target, rest = read_echo(packet) or (None, None, None, None)
        try:
            require(kind == REQUEST and target in [own.ip for own in SERVER], "no echo request to this server")
            require(source in [own.ip for own in client.interfaces], f"{source} is not the client's address")
        except Ended as reason:
            print(f"dropped a packet of {len(packet)} bytes: {reason}", flush=True)
            continue
        replies.append(write_echo(REPLY, target, source, rest))
    return replies


def serve(client, session):
    """Answers records until Close."""
    while True:
        type, content = session.read()
        if type == MESSAGE:
            text = content.decode("utf-8")
            print("Message:", text, flush=True)
            session.send(MESSAGE, f"Hello from server.py, you said: {text[:1000]}".encode("utf-8"))
        elif type == PACKETS:
            if replies := answer_packets(client, read_packets(content)):
                session.send(PACKETS, write_packets(replies))
        elif type == CLOSE:
            print(f"Close: code {content[0]}, {content[1:].decode('utf-8')}", flush=True)
            return


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-k", required=True, metavar="KEYFILE")
    parser.add_argument("--listen", required=True, metavar="ADDR:PORT")
    parser.add_argument("--suite", action="append", choices=RECORD_LIMIT)
    parser.add_argument("--rekey", action="store_true", help="do a Rekey right after Config")
    options = parser.parse_args()
    address, port = options.listen.rsplit(":", 1)
    clients = {derive(K, b"", b"id", 8): Client(K, number) for number, K in enumerate(read_keys(options.k))}

    with socket.create_server((address, int(port))) as listener:
        print("listening on {}:{}".format(*listener.getsockname()), flush=True)
        while True:
            sock, peer = listener.accept()
            with sock:
                try:
                    client, session = handshake(sock, clients, options.suite or list(RECORD_LIMIT))
                    print(f"connected: {peer[0]}, {session.sending.suite}", flush=True)
                    if options.rekey:
                        session.send(REKEY)                                         # section 7
                    serve(client, session)
                except (KeyError, OSError, ValueError) as reason:
                    print("ended:", reason, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit()
