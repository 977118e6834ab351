"""Imports go one way."""

import ast

import pytest

from memorization.bundled import ROOT

LAYERS = {
    "metrics": 0, "descent": 0, "run_utils": 0, "background": 0, "cli_types": 0,
    "prompt_aug": 0, "attn_utils": 0, "eval_utils": 0, "trackers": 0,
    "npz_files": 1, "row_files": 1, "processes": 1, "data_utils": 1, "local_sd_pipeline": 2,
    "map_files": 2, "result_files": 2, "similarity": 2, "mask_files": 2, "kind_labels": 2, "generation": 2,
    "guidance": 1, "attention_edits": 1, "latent_optim": 1, "predictions": 0, "generation_trace": 0,
    "embedding_search": 1,
    "optim_utils": 2, "detectors": 2, "mask_parts": 3, "run_masks": 4,
    "eval_detection": 3, "eval_localisation": 3, "mitigation": 3, "session": 3, "eval_tradeoff": 3, "signals": 3,
    "methods": 4, "cli_args": 5, "thresholds": 4, "eval_mitigation": 4, "eval_damage": 5, "eval_audit": 5,
    "eval_cli": 6, "eval_figures": 5, "eval_report": 6,
    "detect_mem": 7, "inference_mem": 7, "eval_mem": 7,
}  # fmt: skip


@pytest.mark.parametrize("module", LAYERS)
def test_imports_go_down(module):
    tree = ast.parse((ROOT / f"{module}.py").read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert all(LAYERS[n] < LAYERS[module] for n in names & LAYERS.keys())


def test_every_module_has_its_layer_and_the_unet_one_call_site():
    modules = {p.stem: p.read_text() for p in ROOT.glob("*.py")}
    assert modules.keys() == LAYERS.keys()
    calls = [(name, text.count(".unet(")) for name, text in modules.items() if ".unet(" in text]
    assert calls == [("local_sd_pipeline", 1)]
