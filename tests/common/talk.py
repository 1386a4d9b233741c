"""One TCP connection that goes on: talk.py ADDRESS PORT sends a number every 50 ms, gets it back, and prints `alive N`. It
never connects again. `talk.py listen PORT` sends everybody their numbers back."""
import socket, sys, threading, time

host, port = sys.argv[1], int(sys.argv[2])
if host == "listen":
    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def echo(peer):
        while data := peer.recv(65536):
            peer.sendall(data)

    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
talker = socket.create_connection((host, port))
lines = talker.makefile("r")
for number in range(1 << 30):
    talker.sendall(b"%d\n" % number)
    assert lines.readline() == f"{number}\n", "the connection broke"
    print("alive", number, flush=True)
    time.sleep(0.05)
