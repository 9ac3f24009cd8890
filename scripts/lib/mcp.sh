# shellcheck shell=bash
# To be sourced, after packages.sh. Installs the official clients of MCP under target/mcp, once for each version.

install_mcp_clients() {
    local sources=scripts/lib/mcp tools=$PWD/target/mcp wanted
    need npm nodejs npm || return
    wanted=$(cat "$sources/package.json" | sha256sum)
    if [ "$(cat "$tools/installed" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "$tools"
        mkdir -p "$tools"
        cp "$sources/package.json" "$tools"
        npm install --prefix "$tools" --no-audit --no-fund --silent || return
        echo "$wanted" >"$tools/installed"
    fi
    cp "$sources/client.mjs" "$tools" # node looks for the packages beside the program
}
