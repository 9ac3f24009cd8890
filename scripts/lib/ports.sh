# shellcheck shell=bash
# To be sourced. Finds TCP ports of this machine with no other tool than bash.
#
#   taken PORT   whether something listens on 127.0.0.1:PORT
#   free_port    prints a port nothing listens on

taken() {
    (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Below 32768, where Linux begins to use ports for outgoing connections. Such a connection could
# take the port meanwhile.
free_port() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 12000))
        taken "$port" || { echo "$port"; return; }
    done
    echo "no free port found" >&2
    return 1
}
