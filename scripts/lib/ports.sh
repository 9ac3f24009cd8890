# shellcheck shell=bash
# To be sourced: TCP ports of this machine, without any tool that may be absent.
#
#   taken PORT   whether something listens on 127.0.0.1:PORT
#   free_port    prints a port nothing listens on

taken() {
    (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Below 32768, where Linux starts to hand out ports to outgoing connections: one of those could take it meanwhile.
free_port() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 12000))
        taken "$port" || { echo "$port"; return; }
    done
    echo "no free port found" >&2
    return 1
}
