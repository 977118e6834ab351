#!/usr/bin/env bash
# Every published signal and every published mitigation under one protocol: detection and localisation with all
# scores, and each mitigation at five strengths. A benchmark that was cut off goes on where it was.
#
#   bash examples/benchmark_planted.sh          the bundled model
#   MEM=sdv1_500_mem_groundtruth NONMEM="Gustavosta/Stable-Diffusion-Prompts" CALIBRATION=random \
#       bash examples/benchmark_planted.sh --model_id PATH --end 500
#
# Arguments go to every run. From the environment: OUTPUT, SEED (nothing may have been tuned on it), IMAGES (a prompt,
# in detection and mitigation), MEM (with training images), NONMEM, CALIBRATION (ordinary prompts that broken_memories
# is compared with), PROMPTS (options that choose the prompts to mitigate), EVALUATE (options of `eval_mem.py
# mitigation`), METHODS (a list of NAME:STRENGTH,STRENGTH,...).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

output=${OUTPUT:-benchmark_output}
seed=${SEED:-21}
images=${IMAGES:-2}
mem=${MEM:-planted_mem_groundtruth}
nonmem=${NONMEM:-examples/planted_nonmemorized.jsonl examples/planted_near_miss.jsonl}
calibration=${CALIBRATION:-examples/planted_nonmemorized.jsonl}
prompts=${PROMPTS:---start 10 --end 38}
evaluators=examples/planted_evaluators
evaluate=${EVALUATE:---sscd $evaluators/copy_descriptor.torchscript.pt --reference_model local-dir:$evaluators/planted_clip}
methods=${METHODS:-pe:1.8,1.2,0.8,0.5,0.3 prss:1.8,1.2,0.8,0.5,0.3 rna:1,2,3,4,6 rt:1,2,3,4,6 cwr:1,2,3,4,6
    gni:0.3,0.6,1,1.5,2 sail:1,2,4,7,10 init_noise:1,2,3,4 init_noise_adam:5,10,20,35,50 cfg_delay:0.1,0.2,0.3,0.4,0.6
    cfg_delay_dynamic:0.1,0.2,0.3,0.4,0.6 attention_rescale:0.1,0.2,0.3,0.5,1 padding_fix:0.1,0.3,0.5,0.8,1
    attention_attenuate:0.5,1,2,4,8 neuron_off:0.01,0.02,0.05,0.1,0.2}
common=(--output_dir "$output" --no-store_img_npz --num_images_per_prompt "$images" "$@")

detect() { # NAME PROMPTS SEED, then further options; adds the rows to the list
    "$python" detect_mem.py --run_name "$1" --dataset "$2" --gen_seed "$3" "${common[@]}" "${@:4}"
    files+=("$output/det_outputs/$1_ours.jsonl")
}

# The calibration is of other noise than what is compared with it.
files=()
detect bench_calibration "$calibration" $((seed + 1)) --scores broken_memories
all=(--scores all --calibration "${files[0]}")
files=()
detect "bench_$(basename "$mem")" "$mem" "$seed" "${all[@]}" --store_maps
mem_files=("${files[@]}")
files=()
for set in $nonmem; do detect "bench_$(basename "$set" .jsonl)" "$set" "$seed" "${all[@]}"; done
"$python" eval_mem.py detection --mem "${mem_files[@]}" --nonmem "${files[@]}" --output "$output/evaluation"
"$python" eval_mem.py localisation "${mem_files[@]}" --output "$output/evaluation"

mitigate() { # NAME of the run, then the method's options
    # shellcheck disable=SC2086  # PROMPTS holds several words
    "$python" inference_mem.py --run_name "bench_$1" --dataset "$mem" $prompts --gen_seed "$seed" "${common[@]}" "${@:2}"
}

mitigate plain
for entry in $methods; do
    strengths=${entry#*:}
    for value in ${strengths//,/ }; do mitigate "$value" --method "${entry%%:*}" --strength "$value"; done
done
# shellcheck disable=SC2086  # EVALUATE holds several words
"$python" eval_mem.py mitigation "$output"/det_outputs/bench_*_mitigation.jsonl $evaluate --output "$output/evaluation"
