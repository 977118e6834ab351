#!/usr/bin/env bash
# Make a model that memorizes your images, and see that it does: fine-tune with duplicates, then detect.
#
#   bash examples/finetune.sh --model_id PATH --dataset MINE_groundtruth --background PAIRS_FOLDER
#   bash examples/finetune.sh --steps 20           a few steps on the bundled model
#
# Arguments go to finetune_memorize.py, to which --mitigation and --drop_above are what keeps from memorizing. From the
# environment: OUTPUT (folder), DETECT (options of detect_mem.py).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tools/environment.sh"
output=${OUTPUT:-finetune_output}
launch=("$python" -m accelerate.commands.launch --mixed_precision no --dynamo_backend no)
"${launch[@]}" tools/finetune_memorize.py --output "$output" "$@"
result=(--unet_id "$output")
[ -f "$output/pytorch_lora_weights.safetensors" ] && result=(--lora "$output")
[ -f "$output/model_index.json" ] && result=(--model_id "$output")
# shellcheck disable=SC2086  # DETECT holds several words
"$python" detect_mem.py "${result[@]}" --output_dir "$output" --run_name finetuned ${DETECT:-}
