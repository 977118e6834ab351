#!/usr/bin/env bash
# Fine-tune the bundled model on captioned pictures of which some are repeated, then audit it: which of them come back.
# Pages go to audit_example/. Takes five to nine minutes on two idle CPU cores after the installation; no GPU and no
# download of a model. A run that was cut off goes on where it was. Every number is at the top of audit.py.
set -euo pipefail
EXTRA=lora
source "$(dirname "${BASH_SOURCE[0]}")/../tools/environment.sh"
export HF_HUB_OFFLINE=1
"$python" examples/audit.py "$@"
