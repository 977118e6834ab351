#!/usr/bin/env bash
# Published signals and mitigations under one protocol: detection and localisation with all
# scores, each mitigation at five strengths on memorized and on ordinary prompts, caption swap, and an audit of what
# the mitigations hide. A benchmark that was cut off goes on where it was.
#
#   bash experiments/benchmark_planted.sh          the bundled model, two and a quarter hours on two cores
#   MEM=sdv1_500_mem_groundtruth NONMEM="Gustavosta/Stable-Diffusion-Prompts" \
#       bash experiments/benchmark_planted.sh --model_id PATH
#
# Arguments go to every run. From the environment: OUTPUT, SEED (nothing may have been tuned on it), JOBS (runs at a
# time), MEM (with training images), NONMEM, ORDINARY (prompts that are calibrated on, and mitigated without need),
# CONTROL (pictures never trained on, in the layout of MEM, or none), DETECT (options of detection), PROMPTS and HARMLESS
# (options that choose the memorized and the ordinary prompts to mitigate), IMAGES (of each of them), EVALUATE (options
# of `eval_mem.py mitigation`), METHODS (a list of NAME:STRENGTH,... with _be or _prmask behind NAME for the mask).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tools/environment.sh"

output=${OUTPUT:-benchmark_output}
seed=${SEED:-31}
detect=${DETECT:---num_images_per_prompt 2}
evaluators=planted/planted_evaluators
targets=1.8,1.2,0.8,0.5,0.3
if [[ " $* " == *" --model_id "* ]]; then # magnitudes of Stable Diffusion 1, and one run at a time
    jobs=${JOBS:-1}
    targets=5,4,3,2,1
    mem=${MEM:-sdv1_500_mem_groundtruth}
    nonmem=${NONMEM:-Gustavosta/Stable-Diffusion-Prompts}
    ordinary=${ORDINARY:-random}
    control=${CONTROL:-none}
    prompts=${PROMPTS:---end 100}
    harmless=${HARMLESS:---end 100}
    images=${IMAGES:-4}
    evaluate=${EVALUATE:---sscd examples/sscd/sscd_disc_large.torchscript.pt --reference_model ViT-g-14}
else
    export HF_HUB_OFFLINE=1
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two runs of one thread each are faster than one of two
    jobs=${JOBS:-2}
    mem=${MEM:-planted_mem_groundtruth}
    nonmem=${NONMEM:-planted/planted_nonmemorized.jsonl planted/planted_near_miss.jsonl}
    ordinary=${ORDINARY:-planted/planted_ordinary.jsonl}
    control=${CONTROL:-planted_control_groundtruth}
    prompts=${PROMPTS:---start 12 --end 36} # as many verbatim as template
    harmless=${HARMLESS:---start 16 --end 32}
    images=${IMAGES:-1}
    evaluate=${EVALUATE:---sscd $evaluators/copy_descriptor.torchscript.pt --reference_model local-dir:$evaluators/planted_clip}
fi
methods=${METHODS:-pe:$targets pe_be:$targets prss:$targets prss_be:$targets prss_prmask:$targets
    rna:1,2,3,4,6 rt:1,2,3,4,6 cwr:1,2,3,4,6 gni:0.3,0.6,1,1.5,2
    sail:1,2,4,7,10 init_noise:1,2,3,4,6 init_noise_adam:5,10,20,35,50
    cfg_delay:0.1,0.2,0.3,0.4,0.6 cfg_delay_dynamic:0.1,0.2,0.3,0.4,0.6 attention_rescale:0.1,0.2,0.3,0.5,1
    padding_fix:0.1,0.3,0.5,0.8,1 attention_attenuate:0.5,1,2,4,8 neuron_off:0.01,0.02,0.05,0.1,0.2}
common=("$@")
model=() steps=(--num_inference_steps 50) # for the scripts that know these only
for ((k = 1; k < $#; k++)); do
    case ${!k} in
        --model_id) model=("${@:k:2}") ;;
        --num_inference_steps) steps=("${@:k:2}") ;;
    esac
done

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
mitigation() { # NAME:STRENGTH as METHODS has them, what the run is called, then further options
    local name=${1%%:*} value=${1#*:} options=()
    case $name in
        none) ;;
        *_be) options=(--method "${name%_be}" --strength "$value" --run_version ours_A) ;;
        *_prmask) options=(--method "${name%_prmask}" --strength "$value" --pr_mask) ;;
        *) options=(--method "$name" --strength "$value") ;;
    esac
    queue inference_mem.py --run_name "$2_$value" "${options[@]}" --gen_seed "$seed" --no-store_img_npz \
        --num_images_per_prompt "$images" "${common[@]}" "${@:3}"
}

# Ordinary prompts in a file get paraphrases as the memorized ones have, for semantic search.
mkdir -p "$output"
harmless_prompts=$ordinary
if [[ $ordinary == *.jsonl ]]; then
    harmless_prompts=$output/ordinary.jsonl
    if [ ! -e "$harmless_prompts" ]; then
        "$python" tools/paraphrases/make.py "$ordinary" --output "$harmless_prompts" --template_only --num 10
    fi
fi
on_memorized=(--dataset "$mem" --output_dir "$output")
on_ordinary=(--dataset "$harmless_prompts" --output_dir "$output/ordinary")
# shellcheck disable=SC2206
on_memorized+=($prompts) on_ordinary+=($harmless)
both() {
    mitigation "$1" bench "${on_memorized[@]}"
    mitigation "$1" bench "${on_ordinary[@]}"
}

entries=()
for method in $methods; do
    strengths=${method#*:}
    for value in ${strengths//,/ }; do entries+=("${method%%:*}:$value"); done
done

# First what the others read: norms to calibrate with, of other noise than what they are compared with, and masks.
detection calibration "$ordinary" --gen_seed $((seed + 1)) --scores broken_memories
both none:0
for entry in "${entries[@]}"; do
    if [[ $entry == *_be:* || $entry == *_prmask:* ]]; then both "$entry" && break; fi
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
"$python" eval_mem.py localisation "$mem_file" --output "$output/evaluation" ||
    echo "localisation is left out: $mem has no true masks" >&2

# Every mitigation, on memorized and on ordinary prompts; beside them, whether scores know the image.
swap=$output/evaluation/caption_swap.md
if [ ! -e "$swap" ]; then
    queue experiments/caption_swap.py --dataset "$mem" --gen_seed "$seed" --output "$swap" "${model[@]}"
fi
for entry in "${entries[@]}"; do both "$entry"; done
work
rows=$output/det_outputs
# shellcheck disable=SC2086
{
    "$python" eval_mem.py mitigation "$rows"/bench_*_mitigation.jsonl $evaluate --output "$output/evaluation"
    "$python" eval_mem.py damage "$output"/ordinary/det_outputs/bench_*_mitigation.jsonl $evaluate --output "$output/evaluation"
}

# The audit: what a searched embedding brings back, each method at the weakest strength that hides. Methods that change
# words do nothing to an embedding, and are left out.
"$python" experiments/benchmark_tables.py strengths "$output/evaluation" >"$output/strengths.txt"
search() { # DATASET FILE, then options that choose prompts
    queue tools/search_embeddings.py --dataset "$1" --output "$2" --gen_seed "$seed" "${model[@]}" "${@:3}"
}
# shellcheck disable=SC2086
search "$mem" "$output/found.safetensors" $prompts
if [ "$control" != none ]; then search "$control" "$output/found_control.safetensors"; fi
work
own=("$rows/bench_0_none_mitigation.jsonl") audited=("$rows/audit_0_none_mitigation.jsonl")
mitigation none:0 audit "${on_memorized[@]}" --prompt_embeds "$output/found.safetensors"
while read -r entry; do
    name=${entry%%:*} value=${entry#*:}
    case $name in rna | rt | cwr | padding_fix) continue ;; esac
    mitigation "$entry" audit "${on_memorized[@]}" --prompt_embeds "$output/found.safetensors"
    own+=("$rows/bench_${value}_${name}_mitigation.jsonl")
    audited+=("$rows/audit_${value}_${name}_mitigation.jsonl")
done <"$output/strengths.txt"
controls=()
if [ "$control" != none ]; then
    mitigation none:0 control --dataset "$control" --output_dir "$output/control" \
        --prompt_embeds "$output/found_control.safetensors"
    controls=(--control "$output/control/det_outputs/control_0_none_mitigation.jsonl")
fi
work
# shellcheck disable=SC2086
"$python" eval_mem.py audit --own "${own[@]}" --audited "${audited[@]}" "${controls[@]}" $evaluate --output "$output/evaluation"

# What each costs in seconds, alone on the machine with all its cores, and everything on one page.
unset OMP_NUM_THREADS
if [ ! -e "$output/evaluation/seconds.json" ]; then
    mapfile -t chosen <"$output/strengths.txt"
    "$python" experiments/cost/time_methods.py --methods "${chosen[@]}" --output "$output/evaluation/seconds.json" \
        "${model[@]}" "${steps[@]}"
fi
"$python" experiments/benchmark_tables.py page "$output/evaluation" "${steps[@]}"
