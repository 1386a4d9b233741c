"""Traffic that notices every changed bit: `traffic.py serve ADDRESS` and `traffic.py use ADDRESS`.

* One TCP connection sends a number every 50 ms, and has to get it back. It never connects again.
* Files of up to 8 MiB go up and down, one after the other, each on a connection of its own. Both ends make the same
  bytes from the same seed, and compare.
* Datagrams of any size, fragments among them, come back unchanged and at most once.

It prints a line for each thing that it has done. The first mistake ends the program.
"""
import os
import random
import socket
import sys
import threading
import time
import traceback

PORT = 9000


def main(role, address):
    if role == "serve":
        in_thread(echo_datagrams, address)
        listener = socket.create_server((address, PORT))
        print("ready", flush=True)
        while True:
            in_thread(serve, listener.accept()[0])
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.connect((address, PORT))
    sent = {}
    for act in ((talk, address), (move, address), (send_datagrams, datagrams, sent), (receive_datagrams, datagrams, sent)):
        in_thread(*act)
    threading.Event().wait()


def in_thread(act, *arguments):
    def run():
        try:
            act(*arguments)
        except BaseException:
            traceback.print_exc()
            print("WRONG", act.__name__, flush=True)
            os._exit(1)
    threading.Thread(target=run, daemon=True).start()


# ---- TCP: a first line says what for

def serve(peer):
    lines = peer.makefile("rb")
    what, *numbers = lines.readline().split()
    if what == b"talk":
        for line in lines:
            peer.sendall(line)
    elif what == b"down":
        send_file(peer, *map(int, numbers))
    else:
        receive_file(lines, *map(int, numbers))
        peer.sendall(b"whole\n")
    peer.close()


def talk(address):
    peer = socket.create_connection((address, PORT))
    lines = peer.makefile("rb")
    peer.sendall(b"talk\n")
    for number in range(1 << 40):
        line = b"%d\n" % number
        peer.sendall(line)
        assert lines.readline() == line
        print("alive", number, flush=True)
        time.sleep(0.05)


def move(address):
    for number in range(1 << 40):
        seed, length = random.getrandbits(32), random.randrange(8 << 20)
        way = ("up", "down")[number % 2]
        with socket.create_connection((address, PORT)) as peer:
            peer.sendall(b"%s %d %d\n" % (way.encode(), seed, length))
            if way == "up":
                send_file(peer, seed, length)
                assert peer.makefile("rb").readline() == b"whole\n"
            else:
                receive_file(peer.makefile("rb"), seed, length)
        print("moved", way, length, flush=True)
        time.sleep(random.random())


def pieces(seed, length):
    bits = random.Random(seed)
    for start in range(0, length, 65536):
        yield bits.randbytes(min(65536, length - start))


def send_file(peer, seed, length):
    for piece in pieces(seed, length):
        peer.sendall(piece)


def receive_file(lines, seed, length):
    for piece in pieces(seed, length):
        assert lines.read(len(piece)) == piece


# ---- UDP: a number, then what belongs to it

def content(number):
    return number.to_bytes(8, "big") + random.Random(number).randbytes(number * 7919 % 3000)


def echo_datagrams(address):
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind((address, PORT))
    while True:
        echo.sendto(*echo.recvfrom(65536))


def send_datagrams(datagrams, sent):
    for number in range(1 << 40):
        sent[number] = True
        sent.pop(number - 20000, None)  # later than 400 seconds is too late
        try:
            datagrams.send(content(number))
        except OSError:
            pass  # the device is full, or there is no route at this moment
        if number % 1000 == 999:
            print("datagrams", number + 1, "of which were lost", len(sent), flush=True)
        time.sleep(0.02)


def receive_datagrams(datagrams, sent):
    while True:
        try:
            datagram = datagrams.recv(65536)
        except OSError:
            continue  # somebody refused a datagram while there was no way
        number = int.from_bytes(datagram[:8], "big")
        assert datagram == content(number)
        assert sent.pop(number, False), "twice, or never sent"


main(*sys.argv[1:])
