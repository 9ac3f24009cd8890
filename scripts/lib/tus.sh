# shellcheck shell=bash
# To be sourced, after packages.sh. Installs the official client of tus under target/tus, once for each version.

install_tus_client() {
    local sources=scripts/lib/tus tools=$PWD/target/tus wanted
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
