# Sourced by the other scripts: goes to the root of the clone, makes .venv once and sets `python` to its interpreter.
#
# REQUIREMENTS=requirements-dev.txt installs what tests, notebooks and checks need as well; EXTRA=lora an extra of
# pyproject.toml, without which it goes on where it cannot be had. PYTHON names another interpreter than python3, VENV
# another folder than .venv. What was installed is kept as copies in .venv/installed, so that a changed file, or a clone
# that was moved, is installed again.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
python=$venv/bin/python
requirements=${REQUIREMENTS:-requirements.txt}
extra=${EXTRA:-}
pip=("$python" -m pip install --quiet --disable-pip-version-check)

is_installed() {
    local file
    for file in requirements.txt "$requirements" pyproject.toml; do
        cmp -s "$file" "$venv/installed/$file" || return 1
    done
    [[ $(cat "$venv/installed/root" 2>/dev/null) == "$PWD" ]]
}

# Without a download of setuptools where a new enough one is there.
install_editable() {
    if "$python" -c 'import setuptools, sys; sys.exit(int(setuptools.__version__.split(".")[0]) < 77)' 2>/dev/null; then
        set -- "$@" --no-build-isolation
    fi
    "${pip[@]}" "$@"
}

install_project() {
    local file interpreter=${PYTHON:-python3}
    if ! "$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "error: $interpreter is not Python 3.10 or newer; set PYTHON to one that is" >&2
        exit 2
    fi
    echo "installing $requirements into $venv (once)"
    "$interpreter" -m venv "$venv"
    rm -rf "$venv/installed"
    "${pip[@]}" -r "$requirements"
    install_editable --no-deps -e .
    mkdir "$venv/installed"
    for file in requirements.txt "$requirements" pyproject.toml; do
        cp "$file" "$venv/installed/$file"
    done
    echo "$PWD" >"$venv/installed/root"
}

install_extra() {
    echo "installing the extra $extra into $venv (once)"
    if install_editable -e ".[$extra]"; then
        touch "$venv/installed/extra_$extra"
    else
        echo "warning: the extra $extra could not be installed; going on without it" >&2
    fi
}

is_installed || install_project
[[ -z $extra || -e $venv/installed/extra_$extra ]] || install_extra
