# Completion of fernvpn for bash; made from the tables of the program: make documents

_fernvpn() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} options='' at
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W 'genkey encrypt decrypt rotate inspect explain capture server client unlock status reload clean-up check add-client remove-client reset-client help' -- "$word")
        return
    fi
    # What follows `client --` is the command line of another program.
    for ((at = 2; at < COMP_CWORD; at++)); do
        if [ "$command ${COMP_WORDS[at]}" = 'client --' ]; then
            if declare -F _command_offset >/dev/null; then
                _command_offset $((at + 1))
            else
                mapfile -t COMPREPLY < <(compgen "$([ $((at + 1)) = "$COMP_CWORD" ] && echo -c || echo -f)" -- "$word")
            fi
            return
        fi
    done
    case "$command $before" in
        'genkey --passphrase-file') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'genkey --salt') :; return ;;
        'genkey --iterations') :; return ;;
        'encrypt -k') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'encrypt --time') :; return ;;
        'decrypt -k') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'decrypt --ttl') :; return ;;
        'decrypt --now') :; return ;;
        'rotate -k') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'inspect -k') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'inspect --ttl') :; return ;;
        'inspect --now') :; return ;;
        'explain --html') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'explain --suite') :; return ;;
        'explain --seed') :; return ;;
        'capture --keylog') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'capture --inner') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'server -c') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'server -k') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'server --listen') :; return ;;
        'server --proxy-protocol-from') :; return ;;
        'server --address') :; return ;;
        'server --tun') :; return ;;
        'server --mtu') :; return ;;
        'server --suite') mapfile -t COMPREPLY < <(compgen -W 'aes-256-gcm fernet' -- "$word"); return ;;
        'server --push-routes') :; return ;;
        'server --nat') mapfile -t COMPREPLY < <(compgen -W 'auto no' -- "$word"); return ;;
        'server --push-dns') :; return ;;
        'server --keepalive') :; return ;;
        'server --max-clients') :; return ;;
        'server --hello-max-age') :; return ;;
        'server --congestion') :; return ;;
        'server --keylog') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'server --name') :; return ;;
        'client -c') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'client -k') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'client --connect') :; return ;;
        'client --tun') :; return ;;
        'client --namespace') :; return ;;
        'client --routes') :; return ;;
        'client --dns') :; return ;;
        'client --suite') mapfile -t COMPREPLY < <(compgen -W 'aes-256-gcm fernet' -- "$word"); return ;;
        'client --send') :; return ;;
        'client --count') :; return ;;
        'client --congestion') :; return ;;
        'client --keylog') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'client --name') :; return ;;
        'status --format') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'clean-up -c') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'clean-up --tun') :; return ;;
        'check -c') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'add-client -c') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'add-client --address') :; return ;;
        'add-client --server') :; return ;;
        'remove-client -c') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        'reset-client -c') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    esac
    case $command in
        genkey) options='--passphrase-file --salt --iterations --help' ;;
        encrypt) options='-k --time --help' ;;
        decrypt) options='-k --ttl --now --help' ;;
        rotate) options='-k --help' ;;
        inspect) options='-k --ttl --now --help' ;;
        explain) options='--html --suite --seed --help' ;;
        capture) options='--keylog --inner --whole --verbose --help' ;;
        server) options='-c -k --listen --proxy-protocol-from --address --tun --no-tun --private --private-if-allowed --mtu --suite --client-to-client --push-routes --nat --push-dns --keepalive --max-clients --hello-max-age --congestion --keylog --name --verbose --help' ;;
        client) options='-c -k --ratchet --connect --tun --no-tun --private --private-if-allowed --namespace --routes --dns --kill-switch --suite --send --ping --count --once --congestion --keylog --name --verbose --help' ;;
        unlock) options=' --help' ;;
        status) options='--format --help' ;;
        reload) options=' --help' ;;
        clean-up) options='-c --tun --help' ;;
        check) options='-c --connect --help' ;;
        add-client) options='-c --address --server --ratchet --help' ;;
        remove-client) options='-c --help' ;;
        reset-client) options='-c --help' ;;
        help) options='genkey encrypt decrypt rotate inspect explain capture server client unlock status reload clean-up check add-client remove-client reset-client help' ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
}
complete -F _fernvpn fernvpn
