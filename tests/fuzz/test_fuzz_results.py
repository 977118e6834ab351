"""Damaged results of finished runs: the same command, and evaluation, refuse them in one line or mend them."""

import json
import shutil

from hypothesis import strategies as st

import eval_mem
from helpers.fuzz_inputs import damaged, damaged_json, damaged_lines, damaged_npz
from helpers.fuzz_world import MITIGATED, ROWS, WHOLE, call, check_files, fuzz_explore, fuzz_world, read_npz  # noqa: F401  fixtures


def whole_rows(data):
    """Lines of a damaged results file that are rows, by their index; the first of several counts."""
    rows = {}
    for line in data.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("index")) is int:
            rows.setdefault(row["index"], line)
    return rows


def results_family(world, explore, family, name, run):
    """Damage the rows, the settings, or leftovers of several processes; what is a row must stay one."""
    path = world.kept / name
    config = path.with_suffix(".config.json")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    overwrite = st.sampled_from((False, False, True))
    shards = [path.name + s for s in (".shard0", ".shard1", ".shardx")]

    def check(example):
        which, data, overwrite = example
        world.fresh()
        results, bad = world.out / name, world.out / "det_outputs" / which
        bad.write_bytes(data)
        before = whole_rows(results.read_bytes())
        error = run(*(["--overwrite"] if overwrite else []))
        after = results.read_bytes()
        if overwrite:
            assert error is None and after == path.read_bytes() and not list(results.parent.glob("*.shard*"))
        elif error is None:
            kept = whole_rows(after)
            assert all(kept[k] == line for k, line in before.items()) and set(kept) >= {0, 1}
            check_files(world.out)
        else:
            assert before.items() <= whole_rows(after).items()
            assert which != path.name or data.startswith(after)  # at most a line without an end is gone
        assert not list(world.out.rglob("*.tmp"))

    lines, text = damaged_lines(rows, ("index", "seeds")), damaged_json(json.loads(config.read_text()))
    names = st.sampled_from((path.name, path.name, path.name, *shards, config.name))
    files = names.flatmap(lambda n: st.tuples(st.just(n), text if n == config.name else lines, overwrite))
    explore(family, check, files)


def test_results_of_detection(world, explore):
    results_family(world, explore, "detect_results", ROWS, world.detect)


def test_results_of_mitigation(world, explore):
    results_family(world, explore, "inference_results", MITIGATED, world.infer)


def test_leftovers_of_finished_runs(world, explore):
    runs = {"done_ours": (world.detect,), "whole_baseline": (world.detect, *WHOLE), "done_pe_be": (world.infer,)}
    files = [p for p in sorted(world.kept.rglob("*")) if p.suffix in (".npz", ".npy", ".png")]
    names = [str(p.relative_to(world.kept)) for p in files]

    def check(example):
        name, data = example
        world.fresh()
        (world.out / name).unlink()
        if data is not None:
            (world.out / name).write_bytes(data)
        for key, (run, *argv) in runs.items():
            if key in name or "mit_attn" in name:
                run(*argv)
                run(*argv, "--start", 1)
        world.check_kept()

    faults = [st.tuples(st.just(n), damaged(p.read_bytes()) | st.none()) for n, p in zip(names, files, strict=True)]
    explore("leftovers", check, st.one_of(faults))


def test_evaluation(world, explore):
    maps, picture = "attn_data/done_ours_maps/0.npz", next(world.kept.glob("images_data/done_pe_be/*.png"))
    files = {n: [json.loads(line) for line in (world.kept / n).read_text().splitlines()] for n in (ROWS, MITIGATED)}

    def check(example):
        name, data = example
        world.fresh()
        other = world.out / "det_outputs/other_ours.jsonl"
        for end in (".jsonl", ".config.json"):
            shutil.copy((world.out / ROWS).with_suffix(end), other.with_suffix(end))
        (world.out / name).write_bytes(data)
        where = ("--output", world.root / "eval")
        few = ("--bootstrap", 3, *where)
        rows, truth = world.out / ROWS, ("--dataset", world.truth)
        if name == maps or name.startswith("det_outputs/done_ours"):
            call(eval_mem.main, ["localisation", rows, *truth, *few])
        if name.startswith("det_outputs/done_ours"):
            call(eval_mem.main, ["detection", "--mem", rows, "--nonmem", other, "--calibrate", "0.1", *where])
        if name.endswith((".png", "_mitigation.jsonl", "_mitigation.config.json")):
            call(eval_mem.main, ["mitigation", world.out / MITIGATED, *truth, *few])
        assert (world.out / name).read_bytes() == data and not list(world.root.rglob("*.tmp"))

    faults = [st.tuples(st.just(n), damaged_lines(rows, ("text_noise_norm", "method"))) for n, rows in files.items()]
    for name in files:
        config = (world.kept / name).with_suffix(".config.json")
        faults.append(st.tuples(st.just(f"det_outputs/{config.name}"), damaged_json(json.loads(config.read_text()))))
    faults.append(st.tuples(st.just(maps), damaged_npz(read_npz(world.kept / maps))))
    faults.append(st.tuples(st.just(str(picture.relative_to(world.kept))), damaged(picture.read_bytes())))
    explore("evaluation", check, st.one_of(faults))


def test_a_run_called_star_leaves_the_rows_of_other_runs(world):
    world.fresh()
    shard = world.out / f"{ROWS}.shard0"
    shard.write_bytes((world.out / ROWS).read_bytes())
    assert world.detect("--run_name", "*") is None and shard.exists()
    world.check_kept()
