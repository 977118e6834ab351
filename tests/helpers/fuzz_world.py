"""What fuzzed tests share: finished runs to damage, and the rule that both programs keep.

A program ends well, or with exit code 2 and one line that says why.
"""

import contextlib
import io
import json
import shutil
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import detect_mem
import inference_mem
from helpers.eval_runs import write_ground_truth
from memorization.files import json_lines

EXAMPLES = {
    "prompts": 40, "ground_truth": 25, "pairs": 12, "masks": 40, "whole_token_masks": 30, "mitigation_masks": 25,
    "thresholds": 35, "detect_arguments": 45, "inference_arguments": 35, "detect_results": 40, "inference_results": 30,
    "leftovers": 25, "evaluation": 25,
}  # fmt: skip
DETECT = ("--run_name", "done", "--num_images_per_prompt", 1, "--num_inference_steps", 1)
PE = (*DETECT, "--run_version", "ours_A", "--optim_target_loss", 1, "--optim_iters", 1)
WHOLE = ("--run_name", "whole", "--run_version", "baseline", "--store_all_tokens")
ROWS, MITIGATED = "det_outputs/done_ours.jsonl", "det_outputs/done_pe_be_mitigation.jsonl"
PARTS = "attn_data/mit_attn_scores_parts"


def call(main, argv):
    """Run a program in this process; returns its error line, None where it ended well.

    Raises:
        AssertionError: if it did not keep the rule: end well, or with exit code 2 and one line that says why.
    """
    out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors=e) for e in ("strict", "backslashreplace"))
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main([str(a) for a in argv])
        except SystemExit as stop:
            code = stop.code
        out.flush()
        error.flush()
    lines = error.buffer.getvalue().decode().splitlines()
    told = [line for line in lines if "error: " in line]
    assert not any("Traceback" in line for line in lines), lines
    assert code in (0, None, 2) and len(told) == (code == 2), (code, lines)
    return told[0] if told else None


def check_files(folder):
    """No temporary files, and each line of each results file, as strict readers take it, is JSON."""
    assert not list(folder.rglob("*.tmp"))
    for path in (folder / "det_outputs").glob("*.jsonl"):
        data = path.read_bytes()
        assert not data or data.endswith(b"\n"), path
        for line in data.splitlines():
            json.loads(line, parse_constant=no_constant)


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


def read_npz(path):
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(name="explore", params=[1, pytest.param(10, marks=pytest.mark.slow)], ids=["few", "many"])
def fuzz_explore(request):
    """Call a check with many things that hypothesis makes; the same ones every time."""

    def run(family, check, strategy):
        count = EXAMPLES[family] * request.param
        seen = []

        def one(example):
            seen.append(None)
            check(example)

        quiet = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
        settings(max_examples=count, derandomize=True, **quiet)(given(strategy)(one))()
        assert len(seen) >= count

    return run


class World:
    """Finished runs of both programs, and what they were made of."""

    def __init__(self, root, model, pipe):
        self.root, self.model, self.pipe, self.out = root, model, pipe, root / "out"
        self.prompts, self.truth = root / "prompts.jsonl", write_ground_truth(root, 2)
        self.rows = [{"caption": f"a {c} owl", "index": k, "caption1": "an owl"} for k, c in enumerate(("red", "blue"))]
        self.prompts.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        assert self.detect("--store_maps") is None and self.infer() is None
        assert self.detect(*WHOLE) is None
        self.kept = root / "kept"
        shutil.copytree(self.out, self.kept)
        files = [path for path in self.kept.rglob("*") if path.is_file()]
        self.files = {path.relative_to(self.kept): path.read_bytes() for path in files}

    def fresh(self):
        """The folder of results as the finished runs left it."""
        for path in list(self.out.rglob("*")):
            if path.is_file() and path.relative_to(self.out) not in self.files:
                path.unlink()
        for name, data in self.files.items():
            path = self.out / name
            if not path.exists() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def detect(self, *argv):
        return self.call(detect_mem.main, "--dataset", self.prompts, *DETECT, *argv)

    def infer(self, *argv):
        return self.call(inference_mem.main, "--dataset", self.truth, *PE, *argv)

    def call(self, main, *argv):
        pipe = None if any(str(a).startswith(LOADING) for a in argv) else self.pipe
        argv = ["--model_id", self.model, "--output_dir", self.out, "--end", 2, *argv]
        return call(partial(main, pipe=pipe), argv)

    def check_kept(self):
        """The finished results are what they were, and there is nothing half made."""
        check_files(self.out)
        for path in (self.kept / "det_outputs").iterdir():
            assert (self.out / "det_outputs" / path.name).read_bytes() == path.read_bytes()


LOADING = (
    *("--model_id", "--unet_id", "--transformer_id", "--vae_id", "--lora", "--embedding", "--config"),
    *("--device", "--dtype", "--channels_last", "--compile"),
)


@pytest.fixture(name="world", scope="module")
def fuzz_world(loaded, model_folder, tmp_path_factory):
    """The tiny model is loaded once; a command line that names another model or device loads what it names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(json_lines, "versions", cache(json_lines.versions))  # which asks git
        patch.setattr("matplotlib.figure.Figure.savefig", lambda *args, **kwargs: None)  # drawn, but not rendered
        yield World(tmp_path_factory.mktemp("fuzz"), model_folder, loaded)
