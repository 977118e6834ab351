#!/usr/bin/env bash
# Privacy against utility of every mitigation: the same prompts and seeds at several strengths each, then the
# trade-off table and figure. A sweep that was cut off goes on where it was.
#
#   bash experiments/sweep_mitigation.sh --planted          the bundled model, about 45 minutes on two cores
#   bash experiments/sweep_mitigation.sh --model_id PATH --dataset sdv1_500_mem_groundtruth ...
#
# Other arguments go to every run of inference_mem.py. From the environment: OUTPUT, LAMBDAS (targets of PE and
# PRSS, in units of the model's magnitudes), WORDS (added by RNA, RT and CWR), NOISE (scales of GNI), JOBS (runs at
# a time), EVALUATE (options of `eval_mem.py mitigation`, as --sscd FILE --reference_model ViT-g-14).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tools/environment.sh"

if [ "${1:-}" = --planted ]; then
    shift
    export HF_HUB_OFFLINE=1
    output=${OUTPUT:-sweep_output}
    lambdas=${LAMBDAS:-0.5 0.8 1.2 1.8}
    words=${WORDS:-1 2 4}
    noise=${NOISE:-0.3 0.6 1}
    evaluators=planted/planted_evaluators
    evaluate=${EVALUATE:---sscd $evaluators/copy_descriptor.torchscript.pt --reference_model local-dir:$evaluators/planted_clip}
    jobs=${JOBS:-2}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two runs of one thread each are faster than one of two
    # 14 verbatim and 14 template prompts, two images each, at a seed that nothing was tuned on.
    set -- --model_id planted/planted_sd --dataset planted_mem_groundtruth \
        --start 10 --end 38 --num_images_per_prompt 2 --gen_seed 11 "$@"
else
    output=${OUTPUT:-.}
    jobs=${JOBS:-1}
    lambdas=${LAMBDAS:-1 2 3 4 5}
    words=${WORDS:-1 2 4}
    noise=${NOISE:-0.1 0.3 1}
    evaluate=${EVALUATE:-}
fi

common=("$@")
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

generate() { # one entry: the run's name, then the method's options
    local name=$1
    shift
    "$python" inference_mem.py --run_name "sweep_$name" --output_dir "$output" --no-store_img_npz "${common[@]}" "$@"
}

masked="--run_version ours_A"
entries=()
for l in $lambdas; do
    prss="--l_target_ss $l --l_target_pr $l --mag_thres_pr $("$python" -c "print(2 * $l)")"
    # PE with masks comes first: it makes the masks that the others read.
    entries+=("$l --optim_target_loss $l $masked" "$l --optim_target_loss $l")
    entries+=("$l $prss" "$l $prss $masked" "$l $prss --pr_mask")
done
entries+=("plain")
for count in $words; do
    for style in rand_numb_add rand_word_add rand_word_repeat; do
        entries+=("$count --prompt_aug_style $style --repeat_num $count")
    done
done
for scale in $noise; do
    entries+=("$scale --rand_noise_lam $scale")
done

stream() { # every JOBS-th entry from $1 on
    local k
    for ((k = $1; k < ${#entries[@]}; k += jobs)); do
        # shellcheck disable=SC2086  # an entry holds several words
        generate ${entries[k]}
    done
}

# shellcheck disable=SC2086
generate ${entries[0]}
streams=()
for ((k = 0; k < jobs; k++)); do
    stream $((k + 1)) &
    streams+=($!)
done
for pid in "${streams[@]}"; do wait "$pid"; done

# shellcheck disable=SC2086  # EVALUATE holds several words
"$python" eval_mem.py mitigation "$output"/det_outputs/sweep_*_mitigation.jsonl $evaluate --output "$output/evaluation"
