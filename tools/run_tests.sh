#!/usr/bin/env bash
# Run the tests; arguments go to pytest, as in `bash tools/run_tests.sh -m slow -s`.
set -euo pipefail
REQUIREMENTS=requirements-dev.txt
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
export HF_HUB_OFFLINE=1
"$python" -m pytest -q "$@"
