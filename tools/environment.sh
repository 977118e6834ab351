# Sourced by the other scripts: goes to the root of the clone and makes .venv with requirements.txt once.
# PYTHON names another interpreter than python3; VENV another folder than .venv.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
if ! cmp -s requirements.txt "$venv/installed_requirements.txt"; then
    interpreter=${PYTHON:-python3}
    if ! "$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "error: $interpreter is not Python 3.10 or newer; set PYTHON to one that is" >&2
        exit 2
    fi
    echo "installing requirements.txt into $venv (once)"
    "$interpreter" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt "$venv/installed_requirements.txt"
fi
python=$venv/bin/python
