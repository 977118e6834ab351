"""What a mitigation does to prompts that did not need it: runs on ordinary prompts beside plain generation.

Every image is compared with the plain one of the same prompt and seed. A method that decides by itself whether to act
leaves most of them alone; one that always acts does not.
"""

from tqdm import tqdm

from memorization.errors import InputError
from memorization.evaluation.mitigation import summarize_measures
from memorization.evaluation.statistics import interval_text
from memorization.finished_runs import PLAIN, by_strength, check_comparable, method_of, strength_of
from memorization.tables import Table

MEASURES = {
    "changed": "changed", "kept": "SSCD to the plain image", "clip": "CLIP",
    "clip_change": "CLIP less plain's",
}  # fmt: skip


def evaluate_damage(runs, evaluators, replicates=1000, seed=0):
    """One result dict a run, with intervals by resampling prompts.

    Args:
        runs: mitigation `Run`s of the same ordinary prompts and seeds, plain generation among them.
        evaluators: `Evaluators`; CLIP and copy descriptor are used where they are given.

    Raises:
        InputError: if the runs cannot be compared, or none of them is plain.
    """
    check_comparable(runs)
    runs = by_strength(runs)
    if method_of(runs[0]) != PLAIN:
        raise InputError("none of the runs is plain generation, which the others are compared with: run it too")
    plain = describe(runs[0], evaluators)
    measured = {run.key: compare(describe(run, evaluators), plain) for run in runs[1:]}
    measured = {runs[0].key: compare(plain, plain)} | measured
    return [summarize(run, measured[run.key], replicates, seed) for run in runs]


def describe(run, evaluators):
    """Images of every prompt, and what the evaluators say of them."""
    found = []
    with tqdm(run.rows, desc=run.key, unit="prompt") as bar:
        for row in bar:
            images = run.images(row)
            one = {"images": images}
            if evaluators.descriptor is not None:
                one["descriptors"] = evaluators.descriptor(list(images))
            if evaluators.clip is not None:
                one["clip"] = evaluators.clip(images, row["prompt"])
            found.append(one)
    return found


def compare(described, plain):
    """For each prompt a dict of lists with a number an image."""
    return [compare_prompt(a, b) for a, b in zip(described, plain, strict=True)]


def compare_prompt(own, plain):
    found = {"changed": [float((a != b).any()) for a, b in zip(own["images"], plain["images"], strict=True)]}
    if "descriptors" in own:
        found["kept"] = (own["descriptors"] * plain["descriptors"]).sum(1).tolist()
    if "clip" in own:
        found["clip"] = own["clip"]
        found["clip_change"] = [a - b for a, b in zip(own["clip"], plain["clip"], strict=True)]
    return found


def summarize(run, measured, replicates, seed):
    result = {"run": run.key, "method": method_of(run), "strength": strength_of(run), "prompts": len(measured)}
    result["images"] = len(measured[0]["changed"])
    return result | summarize_measures(measured, MEASURES, replicates, seed)


def damage_tables(results):
    names = [n for n in MEASURES if n in results[0]]
    rows = [[r["method"], f"{r['strength']:g}", *(interval_text(r[n]) for n in names)] for r in results]
    caption = f"Ordinary prompts ({results[0]['prompts']} prompts, {results[0]['images']} images each)"
    note = "Changed: share of images that are not the plain ones to the last bit."
    return [Table(caption, ["method", "strength", *(MEASURES[n] for n in names)], rows, note)]
