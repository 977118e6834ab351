#!/usr/bin/env bash
# Detect, localise and mitigate memorization in the bundled model; pictures and tables go to quickstart_output/.
# Needs Python 3.10+ and pip, no GPU and no download of a model. A run that was cut off goes on where it was.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tools/environment.sh"
export HF_HUB_OFFLINE=1
"$python" examples/quickstart.py "$@"
