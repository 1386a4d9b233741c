#!/bin/bash
# Tool: nft 1.0.6 (Debian 12, nftables 1.0.6-2+deb12u2), with Linux 5.12 or later. It needs root.
# Behaviour: while a program holds a table with "flags owner", "nft flush ruleset" succeeds and leaves that table, with its rules.
#   "nft delete table" fails. What "nft list ruleset" prints of it is taken by "nft -f" without an error once the owner has gone,
#   and then there is no table.
# Expected otherwise: nft(8), RULESET: "flush" removes all tables, which gives an empty ruleset; by design the output of
#   "list ruleset" may be the input of "nft -f". The page does not name the flag.
# Seen: status 0 and the table after "flush ruleset"; status 1 of "delete table"; status 0 and no table after "nft -f".
set -euo pipefail
[ "${1:-}" = inside ] || {
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    chmod 755 "$dir"
    (cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download {nftables,libnftables1}=1.0.6-2+deb12u2)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; done
    export PATH=$dir/usr/sbin:$PATH LD_LIBRARY_PATH=$dir/usr/lib/x86_64-linux-gnu
    unshare --net bash "$0" inside || { echo 'this has changed'; exit 1; }
    echo 'as described'
    exit
}
nft --version
coproc OWNER { exec nft -i 2>&1; }
owner=$OWNER_PID # the shell forgets its own variable when that process ends
echo 'add table inet held { flags owner; }; add chain inet held c { type filter hook input priority 0; }; list tables' >&"${OWNER[1]}"
read -r -t 20 made <&"${OWNER[0]}"
[ "$made" = 'table inet held' ] || { echo "the owner says: $made"; exit 1; }
nft add table inet free
flushed=0 deleted=0
nft flush ruleset || flushed=$?
left=$(nft list tables)
nft delete table inet held 2>/dev/null || deleted=$?
saved=$(nft list ruleset)
kill "$owner"
wait "$owner" 2>/dev/null || true
for _ in {1..500}; do [ -n "$(nft list tables)" ] || break; done # the kernel removes the table with its owner
restored=0
nft -f - <<<"$saved" || restored=$?
there=$(nft list ruleset)
printf 'flush ruleset: status %s, left: %s\ndelete table: status %s\n' $flushed "$left" $deleted
printf 'saved:\n%s\nnft -f of that: status %s, there is now: "%s"\n' "$saved" $restored "$there"
[ "$flushed $left $deleted $restored $there" = '0 table inet held 1 0 ' ] && [[ $saved = *'chain c'* ]]
