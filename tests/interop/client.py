"""A client of docs/PROTOCOL.md: says hello, sends a Message, pings, and leaves.

python3 client.py -k KEYFILE --connect HOST:PORT [--suite SUITE] [--send TEXT]... [--ping N] [--rekey]
"""

import argparse
import os
import re
import socket
import sys
import time
from ipaddress import ip_address, ip_interface

from fernvpn_peer import (CLOSE, CONFIG, FINISHED, HANDSHAKE_SECONDS, HELLO_LIMIT, MESSAGE, PACKETS, PING, PONG,
                          RECORD_LIMIT, REKEY, Ended, Frames, Session, derive, frame, open_token, read_fields,
                          read_keys, require, seal_token, traffic_secrets, write_fields)
from packets import REPLY, REQUEST, read_echo, read_packets, write_echo, write_packets


def handshake(sock, K, suites):
    """Section 4. Returns the session and the fields of Config."""
    frames, deadline = Frames(sock), time.monotonic() + HANDSHAKE_SECONDS
    hello = derive(K, b"", b"hello", 32)                                            # section 2

    nonce = os.urandom(32).hex()                                                    # 4.2 ClientHello
    fields = {"versions": "1", "role": "client", "nonce": nonce, "suites": ",".join(suites), "capabilities": "",
              "software": "client.py"}
    client_hello = derive(K, b"", b"id", 8) + seal_token(hello, write_fields(fields))
    sock.sendall(frame(client_hello))

    server_hello = frames.read(HELLO_LIMIT, deadline)                               # 4.3 ServerHello
    fields = read_fields(open_token(hello, server_hello))
    require(fields.get("role") == "server", "our own hello was reflected")
    require(fields.get("client-nonce") == nonce, "the ServerHello answers another hello")
    require("refused" not in fields, "the server refuses: " + fields.get("refused", ""))
    suite = fields["suite"]
    require(fields["version"] == "1" and suite in suites, "the server chose something that we did not offer")
    require(not fields.get("capabilities") and "step" not in fields, "the server chose something that we did not offer")
    require(re.fullmatch("[0-9a-f]{64}", fields["nonce"]), "the server's nonce is not 64 lower-case hexadecimal digits")

    client, server = traffic_secrets(K, client_hello, server_hello)                 # section 5
    session = Session(frames, suite, client, server)
    session.send(FINISHED)                                                          # 4.4 Finished
    config = read_fields(session.read_record(deadline, (CONFIG,))[1])               # 4.5 Config
    session.keepalive = int(config["keepalive"])
    return session, {"suite": suite, **config}


def send_messages(session, texts):
    """All of them, then waits for as many answers."""
    for text in texts:
        session.send(MESSAGE, text.encode("utf-8"))
    for _ in texts:
        print("answer:", wait_for(session, MESSAGE).decode("utf-8"), flush=True)


def ping(session, config, count):
    """Pings the server with a Ping, and its tunnel addresses with echo requests in one Packets record."""
    own = {interface.version: interface.ip for interface in map(ip_interface, config["addresses"].split(","))}
    targets = [ip_address(address) for address in config["server"].split(",")]
    for number in range(count):
        rest = b"fv" + number.to_bytes(2, "big") + os.urandom(56)                   # identifier, sequence number, data
        session.send(PING, rest[:8])
        session.send(PACKETS, write_packets(
            [write_echo(REQUEST, own[target.version], target, rest) for target in targets]))
        require(wait_for(session, PONG) == rest[:8], "the Pong is not that of our Ping")
        missing = {(REPLY, target, own[target.version], rest) for target in targets}
        while missing:
            missing -= {read_echo(packet) for packet in read_packets(wait_for(session, PACKETS))}
        for target in targets:
            print(f"reply from {target}: number {number}", flush=True)


def wait_for(session, due):
    """The content of the next record of this type; others may come before it."""
    while True:
        type, content = session.read()
        if type == due:
            return content
        if type == CLOSE:
            raise Ended(f"the server closed: code {content[0]}, {content[1:].decode('utf-8')}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-k", required=True, metavar="KEYFILE")
    parser.add_argument("--connect", required=True, metavar="HOST:PORT")
    parser.add_argument("--suite", action="append", choices=RECORD_LIMIT)
    parser.add_argument("--send", action="append", default=[], metavar="TEXT")
    parser.add_argument("--ping", type=int, default=0, metavar="N")
    parser.add_argument("--rekey", action="store_true", help="do a Rekey, then send and ping once more")
    options = parser.parse_args()
    host, port = options.connect.rsplit(":", 1)

    with socket.create_connection((host.strip("[]"), int(port)), HANDSHAKE_SECONDS) as sock:
        session, config = handshake(sock, read_keys(options.k)[0], options.suite or list(RECORD_LIMIT))
        for name, value in config.items():
            print(f"{name}={value}", flush=True)
        for round in range(1 + options.rekey):
            if round == 1:
                session.send(REKEY)                                                 # section 7
            send_messages(session, options.send)
            ping(session, config, options.ping)
        session.send(CLOSE, b"\x00" + b"leaving")                                   # 6.2 Close
        while sock.recv(65536):                                                     # until the server ends TCP
            pass
        print("closed", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (KeyError, OSError, ValueError) as reason:
        sys.exit(f"client.py: {reason}")
