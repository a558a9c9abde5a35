#!/usr/bin/env bash
# Sets up .venv where needed, then serves the model store. All flags: bash run.sh --help
set -euo pipefail
unset CDPATH PYTHONPATH PYTHONHOME

here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
venv="${VENV:-$here/.venv}"

fail() { echo "error: $1" >&2; exit 1; }

find_python() {
    local candidate found=""
    for candidate in "${PYTHON:-python3}" ${PYTHON:-python3.12 python3.11 python3.10}; do
        version="$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" || continue
        case "$version" in 3.10 | 3.11 | 3.12) python="$candidate"; return ;; esac
        found="${found:+$found, }$candidate is $version"
    done
    fail "Python 3.10, 3.11 or 3.12 is needed (${found:-${PYTHON:-python3} cannot be run}): install one, or name it with PYTHON="
}

find_python
action=start
for argument in "$@"; do
    case "$argument" in -h | --help | --setup | --stop | --status | --update | --switch) action="$argument" ;; esac
done

case "$action" in
    -h | --help) exec "$python" "$here/deploy/torchserve/serve.py" --help ;;
    --setup) exec "$python" "$here/deploy/environment.py" "$venv" requirements.txt requirements-no-deps.txt requirements-test.txt ;;
    --stop | --status | --update | --switch)
        if [ ! -x "$venv/bin/python" ]; then
            echo "not running"
            if [ "$action" = --stop ]; then exit 0; else exit 3; fi
        fi
        ;;
    *) "$python" "$here/deploy/environment.py" "$venv" requirements.txt requirements-no-deps.txt ;;
esac
exec "$venv/bin/python" "$here/deploy/torchserve/serve.py" "$@"
