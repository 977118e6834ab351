# Sourced by the other scripts: goes to the root of the clone, makes .venv once and sets `python` to its interpreter.
#
# REQUIREMENTS=requirements-dev.txt installs what tests, notebooks and checks need as well. PYTHON names another
# interpreter than python3, VENV another folder than .venv. What was installed is kept as copies in .venv/installed, so
# that a changed file, or a clone that was moved, is installed again.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
python=$venv/bin/python
requirements=${REQUIREMENTS:-requirements.txt}

is_installed() {
    local file
    for file in requirements.txt "$requirements" pyproject.toml; do
        cmp -s "$file" "$venv/installed/$file" || return 1
    done
    [[ $(cat "$venv/installed/root" 2>/dev/null) == "$PWD" ]]
}

install_project() {
    local file interpreter=${PYTHON:-python3} pip=("$python" -m pip install --quiet --disable-pip-version-check)
    if ! "$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "error: $interpreter is not Python 3.10 or newer; set PYTHON to one that is" >&2
        exit 2
    fi
    echo "installing $requirements into $venv (once)"
    "$interpreter" -m venv "$venv"
    rm -rf "$venv/installed"
    "${pip[@]}" -r "$requirements"
    pip+=(--no-deps -e .)
    # Without a download of setuptools where a new enough one is there.
    if "$python" -c 'import setuptools, sys; sys.exit(int(setuptools.__version__.split(".")[0]) < 77)' 2>/dev/null; then
        pip+=(--no-build-isolation)
    fi
    "${pip[@]}"
    mkdir "$venv/installed"
    for file in requirements.txt "$requirements" pyproject.toml; do
        cp "$file" "$venv/installed/$file"
    done
    echo "$PWD" >"$venv/installed/root"
}

is_installed || install_project
