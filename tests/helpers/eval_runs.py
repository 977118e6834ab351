"""Result files of made-up runs, with known answers, for the tests of evaluation."""

import json

import numpy as np
import torch
from PIL import Image

from memorization.files.layout import RunFiles
from memorization.files.maps import save_maps
from memorization.files.whole import save_png
from memorization.seeds import image_seed

MODEL = {
    "model_id": "m",
    "unet_id": None,
    "guidance_scale": 7.5,
    "num_inference_steps": 4,
    "image_length": None,
    "gen_seed": 0,
    "dataset": "set.jsonl",
    "clean_prompts": True,
}
LAYERS = [
    f"{n}.transformer_blocks.0.attn2.processor" for n in ("down_blocks.0.attentions.0", "up_blocks.1.attentions.0")
]


def write_run(folder, name, rows, **settings):
    """A results file with its settings; returns its path."""
    path = folder / "det_outputs" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"settings": MODEL | settings, "versions": {"torch": torch.__version__, "commit": "abc"}}
    path.with_suffix(".config.json").write_text(json.dumps(record))
    return path


def make_row(index, count=2, **values):
    seeds = [image_seed(0, index, k) for k in range(count)]
    return {"index": index, "prompt": f"prompt {index}", "seeds": seeds, **values}


def detection_rows(is_memorized, shift, count=2, prompts=12, steps=4, seed=0):
    """Rows with two stepped scores and one without steps; verbatim and template in turn where memorized."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(prompts):
        kind = ("verbatim", "template")[index % 2] if is_memorized else "clutter"
        scores = {k: rng.normal(shift, 1, (count, steps)).round(1).tolist() for k in ("text_noise_norm", "new_score")}
        flat = {"end_token_attention": rng.normal(shift, 1, count).tolist()}
        head = make_row(index, count, kind=kind, is_memorized=is_memorized)
        head["prompt"] += "" if is_memorized else " not memorized"
        rows.append(head | {"uncond_noise_norm": [[1.0] * steps] * count} | scores | flat)
    return rows


def write_images(folder, key, row, images):
    target = folder / "images_data" / key
    target.mkdir(parents=True, exist_ok=True)
    for seed, image in zip(row["seeds"], images, strict=True):
        save_png(target / f"{row['index']}_{seed}.png", image)


def write_maps(folder, key, row, end, diff):
    """A map file with one layer of the given size and a random coarser one."""
    coarse = np.random.default_rng(row["index"]).random((len(end), end.shape[1] // 2, end.shape[2] // 2))
    ends, padding = ({LAYERS[0]: maps, LAYERS[1]: coarse} for maps in (end, end * 0 + 0.1))
    save_maps(RunFiles(folder, key).map(row["index"]), diff, ends, padding, {})


class ColorDescriptor(torch.nn.Module):
    """Centred colours of the image's four quarters: a copy descriptor that needs no training."""

    def forward(self, images):
        features = torch.nn.functional.adaptive_avg_pool2d(images, (2, 2)).flatten(1)
        features = features - features.mean(1, keepdim=True)
        return torch.nn.functional.normalize(features, dim=1)


def write_descriptor(folder):
    path = folder / "color.torchscript.pt"
    torch.jit.script(ColorDescriptor()).save(str(path))
    return path


def quarters(seed, size=16):
    """A picture of four plain quarters in random colours."""
    colors = np.random.default_rng(seed).integers(1, 256, (2, 2, 3), dtype=np.uint8)
    return colors.repeat(size // 2, 0).repeat(size // 2, 1)


def write_ground_truth(folder, count=4, size=16):
    """NAME_groundtruth of `count` prompts, one training image each; odd ones are templates of the left half."""
    root = folder / "tiny_groundtruth"
    rows = []
    (root / "gt_masks").mkdir(parents=True)
    for index in range(count):
        (root / "gt_images" / str(index)).mkdir(parents=True)
        save_png(root / "gt_images" / str(index) / "0.png", quarters(index, size))
        mask = np.full((size, size, 3), 255, np.uint8)
        if index % 2:
            mask[:, size // 2 :] = 0
        save_png(root / "gt_masks" / f"{index}.png", mask)
        kind = ("verbatim", "template")[index % 2]
        rows.append({"caption": f"prompt {index}", "index": index, "kind": kind, "is_memorized": True})
    (root / "tiny_groundtruth_repeated.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return root


def write_mitigation(root, name, method, strength, pictures, **settings):
    """A mitigation run beside a ground-truth folder; `pictures` has a pair per prompt, uint8 (2, height, width, 3)."""
    rows = []
    for index, images in enumerate(pictures):
        row = make_row(index, kind=("verbatim", "template")[index % 2], method=method, unet_evals_per_image=8.0)
        write_images(root.parent, f"{name}_{method}", row, images)
        rows.append(row)
    settings = {"dataset": str(root), "optim_target_loss": strength} | settings
    return write_run(root.parent, f"{name}_{method}_mitigation", rows, **settings)


def mixed(index, share):
    """Two pictures: `share` of the training image of a prompt, the rest of something else."""
    other = np.stack([quarters(100 + 2 * index + k) for k in range(2)])
    return (share * quarters(index)[None] + (1 - share) * other).round().astype(np.uint8)


def write_detection_runs(folder):
    """Memorized prompts at two seeds and two sets of others: paths of the runs of either class."""
    mem = [
        write_run(folder, f"mem{s}", detection_rows(True, 1.5, seed=s), gen_seed=s, dataset="planted") for s in (0, 1)
    ]
    others = [
        write_run(folder, f"{name}{s}", detection_rows(False, 0, seed=s), gen_seed=s % 10, dataset=f"{name}.jsonl")
        for name, s in (("generic", 10), ("near", 20), ("generic", 11), ("near", 21))
    ]
    return mem, others


def write_labelled_run(folder, name, shift, **settings):
    """One run of memorized and other prompts, whose rows say which they are."""
    others = ({**row, "index": row["index"] + 50} for row in detection_rows(False, 0))
    return write_run(folder, name, [*detection_rows(True, shift), *others], **settings)


def write_located_run(folder):
    """A run whose end-token map is the true mask, and whose noise_diff^2 lies outside of it.

    Returns:
        (ground-truth folder, path of the rows).
    """
    root = write_ground_truth(folder)
    rows = [make_row(i, kind=("verbatim", "template")[i % 2]) for i in range(4)]
    for row in rows:
        truth = np.asarray(Image.open(root / "gt_masks" / f"{row['index']}.png"))[::2, ::2, 0] / 255.0
        diff = np.stack([np.stack([1 - truth] * 3)] * 2) + 0.01
        write_maps(folder, "loc_ours", row, np.stack([truth * (k + 1) for k in range(2)]), diff)
        write_images(folder, "loc_ours", row, [quarters(k) for k in range(2)])
    return root, write_run(folder, "loc_ours", rows, dataset=str(root))


def write_mitigated_runs(folder):
    """Plain generation that copies, a mitigation that does not, and one in between; four prompts, two images.

    Returns:
        (ground-truth folder, paths of the rows, path of a copy descriptor).
    """
    root, runs = write_ground_truth(folder), []
    for name, method, strength, share in (("plain", "none", None, 1), ("a", "pe", 2.0, 0.5), ("b", "pe", 1.0, 0)):
        runs.append(write_mitigation(root, name, method, strength, [mixed(i, share) for i in range(4)]))
    return root, runs, write_descriptor(folder)


def find(results, **wanted):
    """Results that have all of some values."""
    return [r for r in results if all(r[k] == v for k, v in wanted.items())]
