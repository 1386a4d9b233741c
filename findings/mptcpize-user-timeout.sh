#!/bin/bash
# Tool: mptcpize 0.12 (Debian 12, mptcpize and libmptcpwrap0 0.12-1), with Linux 6.18.
# Behaviour: under "mptcpize run", a program that sets TCP_USER_TIMEOUT on a connection of TCP fails with "Protocol not
#   available": the socket is now one of MPTCP, which takes TCP_KEEPIDLE and TCP_NODELAY, and not this. TCP_SYNCNT neither.
# Expected otherwise: mptcpize(8): it enables MPTCP for existing programs. tcp(7): TCP_USER_TIMEOUT is an option of TCP, with no
#   condition but its version of Linux. Where MPTCP cannot be used, connections fall back to TCP without a sign of it.
# Seen: both options succeed alone and fail with ENOPROTOOPT under mptcpize; TCP_KEEPIDLE and TCP_NODELAY succeed in both.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
(cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download {mptcpize,libmptcpwrap0}=0.12-1)
for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; done
cat >"$dir/show.py" <<'PYTHON'
import errno, socket

def outcome(name):
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), 1)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]

print(*(f"{name}={outcome(name)}" for name in ("TCP_USER_TIMEOUT", "TCP_SYNCNT", "TCP_KEEPIDLE", "TCP_NODELAY")))
PYTHON
# The launcher looks for its library in its own place, so it is preloaded here as the launcher does it.
library=$(echo "$dir"/usr/lib/*/mptcpize/libmptcpwrap.so.0.0.1)
alone=$(python3 "$dir/show.py")
wrapped=$(LD_PRELOAD=$library python3 "$dir/show.py")
printf 'Linux %s\nalone:    %s\nmptcpize: %s\n' "$(uname -r)" "$alone" "$wrapped"
[ "$alone" = 'TCP_USER_TIMEOUT=ok TCP_SYNCNT=ok TCP_KEEPIDLE=ok TCP_NODELAY=ok' ] &&
    [ "$wrapped" = 'TCP_USER_TIMEOUT=ENOPROTOOPT TCP_SYNCNT=ENOPROTOOPT TCP_KEEPIDLE=ok TCP_NODELAY=ok' ] || { echo 'this has changed'; exit 1; }
echo 'as described'
