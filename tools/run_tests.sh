#!/usr/bin/env bash
# Run the tests, two files at a time; arguments go to pytest, as in `bash tools/run_tests.sh -n 0 -m slow -s`.
set -euo pipefail
REQUIREMENTS=requirements-dev.txt
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 # two processes of one thread are quicker than one of two
"$python" -m pytest -q -n 2 --dist loadfile "$@"
