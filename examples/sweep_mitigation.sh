#!/usr/bin/env bash
# Privacy against utility of every mitigation: the same prompts and seeds at several strengths each, then the
# trade-off table and figure. A sweep that was cut off goes on where it was.
#
#   bash examples/sweep_mitigation.sh --planted          the bundled model, about 40 minutes on two cores
#   bash examples/sweep_mitigation.sh --model_id PATH --dataset sdv1_500_mem_groundtruth ...
#
# Other arguments go to every run of inference_mem.py. From the environment: OUTPUT, LAMBDAS (targets of PE and
# PRSS, in units of the model's magnitudes), WORDS (added by RNA, RT and CWR), NOISE (scales of GNI), EVALUATE
# (options of `eval_mem.py mitigation`, as --sscd FILE --reference_model ViT-g-14).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [ "${1:-}" = --planted ]; then
    shift
    export HF_HUB_OFFLINE=1
    output=${OUTPUT:-sweep_output}
    lambdas=${LAMBDAS:-0.5 0.8 1.2 1.8}
    words=${WORDS:-1 2 4}
    noise=${NOISE:-0.3 0.6 1}
    evaluators=examples/planted_evaluators
    evaluate=${EVALUATE:---sscd $evaluators/copy_descriptor.torchscript.pt --reference_model local-dir:$evaluators/planted_clip}
    # 14 verbatim and 14 template prompts, two images each, at a seed that nothing was tuned on.
    set -- --model_id examples/planted_sd --dataset planted_mem_groundtruth \
        --start 10 --end 38 --num_images_per_prompt 2 --gen_seed 11 "$@"
else
    output=${OUTPUT:-.}
    lambdas=${LAMBDAS:-1 2 3 4 5}
    words=${WORDS:-1 2 4}
    noise=${NOISE:-0.1 0.3 1}
    evaluate=${EVALUATE:-}
fi

generate() { # NAME of the run, then the method's options
    local name=$1
    shift
    "$python" inference_mem.py --run_name "sweep_$name" --output_dir "$output" "${common[@]}" "$@"
}
common=("$@")

generate plain
for l in $lambdas; do
    prss=(--l_target_ss "$l" --l_target_pr "$l" --mag_thres_pr "$("$python" -c "print(2 * $l)")")
    generate "$l" --optim_target_loss "$l"
    generate "$l" --optim_target_loss "$l" --run_version ours_A
    generate "$l" "${prss[@]}"
    generate "$l" "${prss[@]}" --run_version ours_A
    generate "$l" "${prss[@]}" --pr_mask
done
for count in $words; do
    for style in rand_numb_add rand_word_add rand_word_repeat; do
        generate "$count" --prompt_aug_style "$style" --repeat_num "$count"
    done
done
for scale in $noise; do
    generate "$scale" --rand_noise_lam "$scale"
done

# shellcheck disable=SC2086  # EVALUATE holds several words
"$python" eval_mem.py mitigation "$output"/det_outputs/sweep_*_mitigation.jsonl $evaluate --output "$output/evaluation"
