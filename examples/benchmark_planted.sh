#!/usr/bin/env bash
# Every published signal and every published mitigation under one protocol: detection and localisation with all
# scores, each mitigation at five strengths on memorized and on ordinary prompts, caption swap, and an audit of what
# the mitigations hide. A benchmark that was cut off goes on where it was.
#
#   bash examples/benchmark_planted.sh          the bundled model, about two hours on two cores
#   MEM=sdv1_500_mem_groundtruth NONMEM="Gustavosta/Stable-Diffusion-Prompts" \
#       bash examples/benchmark_planted.sh --model_id PATH
#
# Arguments go to every run. From the environment: OUTPUT, SEED (nothing may have been tuned on it), JOBS (runs at a
# time), MEM (with training images), NONMEM, ORDINARY (prompts that are calibrated on, and mitigated without need),
# CONTROL (pictures never trained on, in the layout of MEM, or none), DETECT, MITIGATE and HARMLESS (options that choose
# prompts and numbers of images), EVALUATE (options of `eval_mem.py mitigation`), METHODS (a list of
# NAME:STRENGTH,STRENGTH,... with +be or +pr_mask behind NAME for the mask).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

output=${OUTPUT:-benchmark_output}
seed=${SEED:-31}
detect=${DETECT:---num_images_per_prompt 2}
evaluators=examples/planted_evaluators
targets=1.8,1.2,0.8,0.5,0.3
if [[ " $* " == *" --model_id "* ]]; then # magnitudes of Stable Diffusion 1, and one run at a time
    jobs=${JOBS:-1}
    targets=5,4,3,2,1
    mem=${MEM:-sdv1_500_mem_groundtruth}
    nonmem=${NONMEM:-Gustavosta/Stable-Diffusion-Prompts}
    ordinary=${ORDINARY:-random}
    control=${CONTROL:-none}
    mitigate=${MITIGATE:---end 100 --num_images_per_prompt 4}
    harmless=${HARMLESS:---end 100 --num_images_per_prompt 1}
    evaluate=${EVALUATE:---sscd sscd_disc_large.torchscript.pt --reference_model ViT-g-14}
else
    export HF_HUB_OFFLINE=1
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two runs of one thread each are faster than one of two
    jobs=${JOBS:-2}
    mem=${MEM:-planted_mem_groundtruth}
    nonmem=${NONMEM:-examples/planted_nonmemorized.jsonl examples/planted_near_miss.jsonl}
    ordinary=${ORDINARY:-examples/planted_ordinary.jsonl}
    control=${CONTROL:-planted_control_groundtruth}
    mitigate=${MITIGATE:---start 12 --end 36 --num_images_per_prompt 1}
    harmless=${HARMLESS:---start 16 --end 32 --num_images_per_prompt 1}
    evaluate=${EVALUATE:---sscd $evaluators/copy_descriptor.torchscript.pt --reference_model local-dir:$evaluators/planted_clip}
fi
methods=${METHODS:-pe:$targets pe+be:$targets prss:$targets prss+be:$targets prss+pr_mask:$targets
    rna:1,2,3,4,6 rt:1,2,3,4,6 cwr:1,2,3,4,6 gni:0.3,0.6,1,1.5,2
    sail:1,2,4,7,10 init_noise:1,2,3,4,6 init_noise_adam:5,10,20,35,50
    cfg_delay:0.1,0.2,0.3,0.4,0.6 cfg_delay_dynamic:0.1,0.2,0.3,0.4,0.6 attention_rescale:0.1,0.2,0.3,0.5,1
    padding_fix:0.1,0.3,0.5,0.8,1 attention_attenuate:0.5,1,2,4,8 neuron_off:0.01,0.02,0.05,0.1,0.2}
common=("$@")

commands=()
queue() { # a python command line, for `work`
    local line
    line=$(printf '%q ' "$@")
    commands+=("${line% }")
}

work() { # all that is queued, JOBS at a time
    if [ ${#commands[@]} -gt 0 ]; then printf '%s\n' "${commands[@]}" | xargs -P "$jobs" -L 1 "$python"; fi
    commands=()
}

# shellcheck disable=SC2086  # DETECT and the others hold several words
detection() { # NAME PROMPTS, then further options
    queue detect_mem.py --run_name "bench_$1" --dataset "$2" --output_dir "$output" --no-store_img_npz $detect \
        "${common[@]}" "${@:3}"
}

# shellcheck disable=SC2086
mitigation() { # NAME:STRENGTH as METHODS has them, then further options
    local name=${1%%:*} value=${1#*:} method options=()
    method=${name%%+*}
    if [[ $name == *+be* ]]; then options+=(--run_version ours_A); fi
    if [[ $name == *+pr_mask* ]]; then options+=(--pr_mask); fi
    if [ "$method" != none ]; then options+=(--method "$method" --strength "$value"); fi
    queue inference_mem.py --run_name "bench_$value" "${options[@]}" --gen_seed "$seed" --no-store_img_npz "${common[@]}" \
        "${@:2}"
}

on_memorized=(--dataset "$mem" --output_dir "$output")
on_ordinary=(--dataset "$output/ordinary.jsonl" --output_dir "$output/ordinary")
# shellcheck disable=SC2206
on_memorized+=($mitigate) on_ordinary+=($harmless)
both() {
    mitigation "$1" "${on_memorized[@]}"
    mitigation "$1" "${on_ordinary[@]}"
}

entries=()
for method in $methods; do
    strengths=${method#*:}
    for value in ${strengths//,/ }; do entries+=("${method%%:*}:$value"); done
done

# The ordinary prompts get paraphrases as the memorized ones have, for semantic search.
mkdir -p "$output"
if [ ! -e "$output/ordinary.jsonl" ]; then
    "$python" examples/make_paraphrases.py "$ordinary" --output "$output/ordinary.jsonl" --template_only --num 10
fi

# First what the others read: norms to calibrate with, of other noise than what they are compared with, and masks.
detection calibration "$ordinary" --gen_seed $((seed + 1)) --scores broken_memories
both none:0
for entry in "${entries[@]}"; do
    if [[ $entry == *+* ]]; then both "$entry" && break; fi
done
work

# Then all signals, and evaluation where both classes are there.
all=(--gen_seed "$seed" --scores all --calibration "$output/det_outputs/bench_calibration_ours.jsonl")
detection "$(basename "$mem")" "$mem" "${all[@]}" --store_maps
files=()
for set in $nonmem; do
    name=$(basename "$set" .jsonl)
    detection "$name" "$set" "${all[@]}"
    files+=("$output/det_outputs/bench_${name}_ours.jsonl")
done
work
mem_file=$output/det_outputs/bench_$(basename "$mem")_ours.jsonl
"$python" eval_mem.py detection --mem "$mem_file" --nonmem "${files[@]}" --output "$output/evaluation"
"$python" eval_mem.py localisation "$mem_file" --output "$output/evaluation"

# Every mitigation, on memorized and on ordinary prompts.
for entry in "${entries[@]}"; do both "$entry"; done
work
# shellcheck disable=SC2086
"$python" eval_mem.py mitigation "$output"/det_outputs/bench_*_mitigation.jsonl $evaluate --output "$output/evaluation"
