# Sourced by the other scripts: paths, messages, and the processes to stop at the end.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/bae
# The newest libtorrent wheel: a second, newer version of the same client than Debian's.
pylt=$cache/pylt
# Programs without a Debian package, each folder with a bin/: `cloud` (Python wheels), and the programs that cargo
# builds.
tools=$cache/tools
# Debian's own interpreter: its libtorrent module is not found by any other `python3` in PATH.
python=/usr/bin/python3

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

# The path of a program: in PATH, or where scripts/setup puts programs without a Debian package.
tool() {
    local found
    found=$(command -v "$1") || found=$(compgen -G "$cache/tools/*/bin/$1" | head -n 1) || true
    [ -n "$found" ] || die "$1 not found; run scripts/setup ${2:-bench}"
    printf '%s\n' "$found"
}

pids=()
# Registers a process to stop at the end. Processes are stopped only by the id with which they were started.
stop_at_exit() { pids+=("$1"); }

stop() {
    local pid=$1 i
    kill "$pid" 2>/dev/null || return 0
    for ((i = 0; i < 50; i++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

stop_all() {
    local pid
    for pid in "${pids[@]}"; do stop "$pid"; done
    pids=()
}
