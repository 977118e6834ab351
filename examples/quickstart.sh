#!/usr/bin/env bash
# Detect, localise and mitigate memorization in the bundled model; pictures and tables go to quickstart_output/.
# Needs Python 3.10+ and pip, no GPU and no download of a model. A run that was cut off goes on where it was.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tools/environment.sh"
export HF_HUB_OFFLINE=1
output=${1:-quickstart_output}

"$python" detect_mem.py --run_name quickstart --num_images_per_prompt 1 --output_dir "$output"

# Six globally and six locally memorized prompts. The thresholds are in units of the bundled model's magnitudes.
mitigate() {
    "$python" inference_mem.py --run_name quickstart --start 18 --end 30 --output_dir "$output" "$@"
}
prss="--l_target_ss 1 --l_target_pr 1 --mag_thres_pr 2"
mitigate
mitigate --prompt_aug_style rand_word_add --repeat_num 4
mitigate --rand_noise_lam 1
mitigate --optim_target_loss 1
mitigate --optim_target_loss 1 --run_version ours_A
mitigate $prss
mitigate $prss --run_version ours_A
mitigate $prss --run_version ours_A --pr_mask

"$python" examples/make_figures.py --output_dir "$output"
