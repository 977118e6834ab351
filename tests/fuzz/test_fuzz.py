"""Bad files and command lines by the hundred: one line and exit code 2, or a good end, and nothing is lost.

Each family damages one thing beside finished runs. `-m slow` makes ten times as many of each.
"""

import io
import json
import random
import shutil

from hypothesis import note
from hypothesis import strategies as st
from PIL import Image

import inference_mem
from helpers.fuzz_inputs import changed, damaged, damaged_json, damaged_lines, damaged_npz, to_json
from helpers.fuzz_world import DETECT, EXAMPLES, MITIGATED, PARTS, ROWS, check_files, fuzz_explore, fuzz_world, read_npz  # noqa: F401  fixtures
from memorization.detectors.base import DETECTORS

KEYS_OF_SCORES = [key for d in DETECTORS.values() for key in d.keys]


def test_there_are_hundreds_of_examples():
    assert sum(EXAMPLES.values()) >= 300


KEYS = ("caption", "index", "kind", "is_memorized", "url", "caption1", "caption2", "prompt")


def test_prompt_files(world, explore):
    bad = world.root / "bad.jsonl"

    def check(example):
        data, clean = example
        world.fresh()
        bad.write_bytes(data)
        options = ("--dataset", bad, "--run_name", "new", "--clean_prompts", clean)
        if not world.detect(*options):
            assert world.detect(*options) is None  # and what was made can be gone on with
        world.call(inference_mem.main, "--l_target_ss", 1, *DETECT, *options)
        world.check_kept()

    explore("prompts", check, st.tuples(damaged_lines(world.rows, KEYS), st.booleans()))


def test_ground_truth_folders(world, explore):
    folder, files = world.root / "bad_groundtruth", [p for p in sorted(world.truth.rglob("*")) if p.is_file()]
    names = [p.relative_to(world.truth) for p in files]

    def check(example):
        name, data = example
        world.fresh()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(world.truth, folder)
        (folder / "tiny_groundtruth_repeated.jsonl").rename(folder / "bad_groundtruth_repeated.jsonl")
        path = folder / str(name).replace("tiny_", "bad_")
        path.unlink()
        if data is None:
            pass
        elif data == "folder":
            path.mkdir()
        else:
            path.write_bytes(data)
        world.call(inference_mem.main, "--dataset", folder, *DETECT, "--run_name", "new")
        world.check_kept()

    black = io.BytesIO()
    Image.new("RGB", (16, 16)).save(black, "PNG")
    some = st.sampled_from([None, "folder", b"", *[black.getvalue()] * 3])
    rows = [json.loads(line) for line in (world.truth / "tiny_groundtruth_repeated.jsonl").read_text().splitlines()]
    faults = [
        st.tuples(st.just(n), damaged_lines(rows, KEYS) if n.suffix == ".jsonl" else damaged(f.read_bytes()) | some)
        for n, f in zip(names, files, strict=True)
    ]
    explore("ground_truth", check, st.one_of(faults))


def test_pair_folders(world, explore):
    folder = world.root / "pairs"

    def check(pairs):
        world.fresh()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text, image in pairs:
            (folder / f"{name}.txt").write_bytes(text)
            if image:
                shutil.copy(world.truth / "gt_images" / "0" / "0.png", folder / f"{name}.png")
        world.call(inference_mem.main, "--dataset", folder, *DETECT, "--run_name", "new")
        world.check_kept()

    names = st.sampled_from(("0", "000", "9" * 100, "²", "٣", "-1", "a b", "x" * 200, "\udcff"))
    explore(
        "pairs", check, st.lists(st.tuples(names, st.binary(max_size=20), st.integers(0, 4)), min_size=1, max_size=3)
    )


def mask_family(world, explore, family, name):
    bad = world.root / "bad.npz"

    def check(data):
        world.fresh()
        bad.write_bytes(data)
        world.detect("--run_name", "new", "--attn_scores", bad)
        world.infer("--run_name", "new", "--attn_scores", bad)
        world.check_kept()

    explore(family, check, damaged_npz(read_npz(world.kept / "attn_data" / name)))


def test_mask_files(world, explore):
    mask_family(world, explore, "masks", "done_ours_attention_scores.npz")


def test_mask_files_of_the_original(world, explore):
    mask_family(world, explore, "whole_token_masks", "whole_baseline_attention_scores.npz")


def test_masks_made_on_the_fly_and_their_parts(world, explore):
    arrays = read_npz(world.kept / "attn_data/mit_attn_scores.npz")
    one = {name: a[:1] if a.ndim else a for name, a in arrays.items()}
    seeds = arrays["seed"].tolist()

    def check(example):
        whole, data = example
        world.fresh()
        masks, parts = world.out / "attn_data/mit_attn_scores.npz", world.out / PARTS
        if whole:
            masks.write_bytes(data)
        else:
            masks.unlink()
            parts.mkdir(exist_ok=True)
            (parts / f"0_{seeds[0]}_1.npz").write_bytes(data)
        if world.infer("--run_name", "new") is not None and whole:
            assert masks.read_bytes() == data
        world.check_kept()

    cases = st.tuples(st.just(True), damaged_npz(arrays)) | st.tuples(st.just(False), damaged_npz(one))
    explore("mitigation_masks", check, cases)


def test_threshold_files(world, explore):
    bad, saved = world.root / "bad.json", json.loads((world.kept / ROWS).with_suffix(".config.json").read_text())
    good = dict(key="text_noise_norm", T=1, threshold=2.5, fpr=0.1, num_negatives=9, num_images=1)
    good["settings"] = saved["settings"]

    def check(data):
        world.fresh()
        bad.write_bytes(data)
        world.detect("--threshold_file", bad)
        world.check_kept()

    other = {
        "key": (*KEYS_OF_SCORES, "nothing"),
        "T": (None, 1, 2, 10**30),
        "threshold": (-1, 10**400),
        "num_images": (2,),
    }
    near = st.sampled_from(sorted(other)).flatmap(lambda k: st.sampled_from(other[k]).map(lambda v: {**good, k: v}))
    named = changed(good["settings"], ("early_exit",)).map(lambda s: {**good, "settings": s})
    explore("thresholds", check, damaged_json(good) | near.map(to_json) | named.map(to_json))


ODD = (
    "", "-1", "0", "1", "2", "3", "nan", "inf", "-inf", "1e309", "1e-320", "1e30", "9" * 30, "9" * 5000, "1.5", " 2 ",
    "\u0661", "\x00", "a\nb", "..", "../x", "a/b", "x" * 300, "\udcff", "*", "done*", "[d]one", "true", "False", "-",
    "--", "%s",
)  # fmt: skip
BAD_NAMES = ("é 1", "*", "../x", "a/b", "x" * 300, "a\x00b")
SWITCHES = ("overwrite", "with_tracking", "clean_prompts", "channels_last", "store_img_npz", "store_img_png")
NUMBERS = (
    "start",
    "end",
    "gen_seed",
    "image_length",
    "guidance_scale",
    "num_inference_steps",
    "batch_size",
    "num_images_per_prompt",
)
WORDS = (
    "dataset", "prompt_key", "model_id", "unet_id", "transformer_id", "vae_id", "lora", "embedding", "config", "device",
    "dtype", "tracker", "seed_mode", "run_version",
)  # fmt: skip
DETECTION = {
    "": ("store_attn_npz", "store_all_tokens", "store_maps"), "x": ("attn_scores", "early_exit", "threshold_file"),
}  # fmt: skip
MITIGATION = {
    "": ("pr_mask",),
    "x": ("attn_scores", "optim_target_steps", "optim_target_loss", "optim_lr", "optim_iters", "l_target_ss",
          "l_target_pr", "mag_thres_pr", "prompt_aug_style", "repeat_num", "rand_noise_lam", "sscd"),
}  # fmt: skip
GOOD = {
    "dataset": ("random", "", "a/b\x00"), "dtype": ("float32", "float16"),
    "device": ("cpu", "cuda", "cuda:7", "mps"), "tracker": ("wandb",), "seed_mode": ("original", "per_image"),
    "run_version": ("baseline", "ours", "ours_A"), "image_length": ("32", "64"), "early_exit": ("1", "1"),
    "prompt_aug_style": ("rand_numb_add", "rand_word_repeat"), "num_images_per_prompt": ("2",),
    "mag_thres_pr": ("5", "9"), "l_target_pr": ("4", "0.1"), "l_target_ss": ("1",), "optim_target_loss": ("0.1",),
}  # fmt: skip


def arguments(own, seed):
    """A run's name and up to four options of a program, with odd values and good ones, in any combination.

    Drawn by the seed: hypothesis alone comes back to the same few options again and again.
    """
    rng, switches = random.Random(seed), (*SWITCHES, *own[""])
    argv = ["--run_name", rng.choice(("done", "new") * 4 + BAD_NAMES)]
    for name in rng.sample((*switches, *NUMBERS, *WORDS, *own["x"]), rng.randrange(5)):
        if name in switches:
            argv.append(rng.choice((f"--{name}", f"--no-{name}")))
        else:
            good = GOOD.get(name, ("1", "2"))
            argv += [f"--{name}", rng.choice(rng.choice((good, good, good, ODD)))]
    return argv


def argument_family(world, explore, family, run, own):
    folders = set(world.out.iterdir())

    def check(seed):
        argv = arguments(own, seed)
        note(argv)
        world.fresh()
        error = run(*argv)
        if "--overwrite" not in argv:
            world.check_kept()
        elif error is None:  # rows replaced are whole rows
            assert all((world.out / name).read_bytes() for name in (ROWS, MITIGATED))
        check_files(world.out)
        assert set(world.out.iterdir()) == folders  # nothing is written elsewhere
        assert all(path.is_file() for path in (world.out / "det_outputs").iterdir())

    explore(family, check, st.integers(0, 2**63))


def test_arguments_of_detection(world, explore):
    argument_family(world, explore, "detect_arguments", world.detect, DETECTION)


def test_arguments_of_mitigation(world, explore):
    argument_family(world, explore, "inference_arguments", world.infer, MITIGATION)


def test_output_folders_that_are_none(world):
    for folder in (world.prompts, world.root / "\x00", world.root / ("x" * 300), world.root / "\ud800"):
        assert "choose another --output_dir" in world.detect("--output_dir", folder)
