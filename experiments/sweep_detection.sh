#!/usr/bin/env bash
# Detection over T, number of images and seeds, with localisation and controls: every prompt set at several
# seeds with one pass each, then the tables and figures. A sweep that was cut off goes on where it was.
#
#   bash experiments/sweep_detection.sh --planted          the bundled model, about 35 minutes on two cores
#   MEM=examples/sdv1_500_memorized.jsonl NONMEM="Gustavosta/Stable-Diffusion-Prompts" \
#       bash experiments/sweep_detection.sh --model_id PATH
#
# T and the numbers of images are read off one generation, so they cost nothing. Other arguments go to every run
# of detect_mem.py. From the environment: OUTPUT, SEEDS, IMAGES (numbers that are compared; the largest is
# generated), MEM and NONMEM (prompt sets), MASKS (folder of true masks, where MEM has none of its own).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tools/environment.sh"

if [ "${1:-}" = --planted ]; then
    shift
    export HF_HUB_OFFLINE=1
    output=${OUTPUT:-sweep_output}
    seeds=${SEEDS:-11 12 13}
    mem=${MEM:-planted_mem_groundtruth}
    nonmem=${NONMEM:-planted/planted_nonmemorized.jsonl planted/planted_near_miss.jsonl}
    maps=--store_maps
    set -- --model_id planted/planted_sd "$@"
else
    output=${OUTPUT:-.}
    seeds=${SEEDS:-0 1 2}
    mem=${MEM:?name the set of memorized prompts by MEM}
    nonmem=${NONMEM:?name the sets of other prompts by NONMEM}
    maps=${MASKS:+--store_maps}
fi
images=${IMAGES:-1 4}
largest=$(printf '%s\n' $images | sort -n | tail -n 1)
common=("$@")

detect() { # PROMPTS SEED, then further options; the run is named by both
    local name
    name=sweep_$(basename "$1" .jsonl)_$2
    "$python" detect_mem.py --run_name "$name" --dataset "$1" --gen_seed "$2" --num_images_per_prompt "$largest" \
        --output_dir "$output" --no-store_img_npz "${common[@]}" "${@:3}"
    echo "$output/det_outputs/${name}_ours.jsonl" >> "$list"
}

list=$(mktemp)
trap 'rm -f "$list"' EXIT
for seed in $seeds; do detect "$mem" "$seed" ${maps:+"$maps"}; done
mem_files=$(cat "$list")
: > "$list"
for seed in $seeds; do for prompts in $nonmem; do detect "$prompts" "$seed"; done; done
nonmem_files=$(cat "$list")

# shellcheck disable=SC2086  # lists of files and numbers
"$python" eval_mem.py detection --mem $mem_files --nonmem $nonmem_files --num_images $images \
    --output "$output/evaluation" --calibrate 0.03
if [ -n "$maps" ]; then
    # shellcheck disable=SC2086
    "$python" eval_mem.py localisation $mem_files ${MASKS:+--masks "$MASKS"} --output "$output/evaluation"
fi
