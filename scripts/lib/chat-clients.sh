# shellcheck shell=bash
# To be sourced, after packages.sh. Installs the official clients of OpenAI, the AI SDK and AG-UI under
# target/chat-clients, once for each list of versions.

install_chat_clients() {
    local sources=scripts/lib/chat-clients tools=$PWD/target/chat-clients wanted
    need npm nodejs npm && need python3 python3-venv || return
    # Debian splits off the part of venv that brings pip.
    python3 -c 'import venv, ensurepip' 2>/dev/null || install_packages python3-venv || return
    wanted=$(cat "$sources/package.json" "$sources/requirements.txt" | sha256sum)
    if [ "$(cat "$tools/installed" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "$tools"
        mkdir -p "$tools"
        cp "$sources/package.json" "$tools"
        npm install --prefix "$tools" --no-audit --no-fund --silent &&
            python3 -m venv "$tools/python" &&
            "$tools/python/bin/pip" install --quiet --disable-pip-version-check -r "$sources/requirements.txt" || return
        echo "$wanted" >"$tools/installed"
    fi
    cp "$sources"/*.mjs "$sources"/*.py "$tools" # node looks for the packages beside the program
}
