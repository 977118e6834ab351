"""Imports go one way: the rules of the house, over the graph of who imports whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from memorization.bundled import ROOT

SCRIPTS = ("detect_mem", "inference_mem", "eval_mem", "audit_mem", "explore")
ROOT_CORE = ("local_sd_pipeline", "attn_utils", "noise_norms", "optim_utils")
CORE = (*ROOT_CORE, "memorization.gradients")
# What each room of memorization/ may import, besides itself. The core is one room, the scripts another.
GROUND = {"errors", "seeds", "bundled", "identity", "tables", "registry", "released", "needs", "sequences"}
MAY_IMPORT = {
    "core": {"decoding"},
    "decoding": set(),
    "errors": set(),
    "seeds": set(),
    "bundled": set(),
    "identity": {"bundled"},
    "tables": set(),
    "sequences": set(),
    "registry": {"errors"},
    "released": set(),
    "needs": {"errors"},
    "trace": {"core"},
    "observation": {"core", "trace"},
    "detectors": {"core", "trace", *GROUND},
    "mitigations": {"core", *GROUND},
    "rows": GROUND,
    "files": GROUND,
    "data": {"files", *GROUND},
    "scores": {"core", "detectors", *GROUND},
    "models": {"core", "decoding", *GROUND},
    "ordinary": {"data", *GROUND},
    "contrast": {"core", "mitigations", *GROUND},
    "embedding_search": {"core"},
    "token_attention": {"core", *GROUND},
    "tiles": {"core", "token_attention", *GROUND},
    "sampling": {"data", *GROUND},
    "plugins": {"detectors", "mitigations", *GROUND},
    "catalogue": {"detectors", "mitigations", *GROUND},
    "finished_runs": {"files", "rows", "mitigations", *GROUND},
    "similarity": {"data", "files", "finished_runs", *GROUND},
    "evaluation": {"core", "data", "files", "finished_runs", "mitigations", "rows", "scores", "similarity", *GROUND},
}
MAY_IMPORT["finetuning"] = {"core", "data", "files", "mitigations", "models", *GROUND}
MAY_IMPORT["report"] = {"evaluation", "tiles", *MAY_IMPORT["evaluation"]}
MAY_IMPORT["runs"] = {
    *(
        "contrast",
        "core",
        "data",
        "decoding",
        "detectors",
        "embedding_search",
        "evaluation",
        "files",
        "finished_runs",
        "mitigations",
        "models",
        "observation",
    ),
    *("ordinary", "plugins", "rows", "scores", "similarity", "trace", *GROUND),
}
MAY_IMPORT["audit"] = {"contrast", "embedding_search", "plugins", "report", "runs", *MAY_IMPORT["report"]}
MAY_IMPORT["api"] = {"runs", "sampling", *MAY_IMPORT["runs"]}
MAY_IMPORT["explorer"] = {"api", "report", "tiles", *MAY_IMPORT["api"]}
MAY_IMPORT["scripts"] = {"api", "audit", "catalogue", "explorer", "report", *MAY_IMPORT["api"]}
MAY_IMPORT["memorization"] = set()  # its names are loaded when they are used
WITHOUT_DIFFUSERS = ("memorization", "memorization.scores", "memorization.finished_runs", "eval_mem")
PLUG_IN_FOLDERS = {
    "detectors": {"base"},
    "mitigations": {
        *("base", "batch", "first_step", "local_minimum", "perturb", "spikes", "structural_similarity"),
        "value_neurons",
    },
}


def find_modules() -> dict[str, Path]:
    """The nine modules of the root and all of memorization/, by their names."""
    paths = [*ROOT.glob("*.py"), *(ROOT / "memorization").rglob("*.py")]
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


MODULES = find_modules()


def imports_of(path: Path) -> set[str]:
    """Names of our modules that a file imports when it runs: what only type checkers read does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    for_types = {id(inner) for block in blocks for inner in ast.walk(block)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & MODULES.keys()) or {str(node.module)}
    return found & MODULES.keys()


GRAPH = {name: imports_of(path) for name, path in MODULES.items()}


def room_of(name: str) -> str:
    if name in SCRIPTS:
        return "scripts"
    return "core" if name in CORE else name.removeprefix("memorization.").split(".")[0]


def test_the_root_holds_nine_modules():
    assert {p.stem for p in ROOT.glob("*.py")} == {*SCRIPTS, *ROOT_CORE}


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_what_lies_below_it(name):
    room = room_of(name)
    wrong = {other for other in GRAPH[name] if room_of(other) not in {room, *MAY_IMPORT[room]}}
    assert not wrong, f"{name} must not import {', '.join(sorted(wrong))}"


def test_scripts_import_no_other_script_but_the_audit_which_runs_two():
    importing = {name: {other for other in GRAPH[name] if other in SCRIPTS} for name in MODULES}
    assert {name: found for name, found in importing.items() if found} == {"audit_mem": {"detect_mem", "inference_mem"}}


def test_there_is_no_circle():
    finished: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way, name])
        for other in GRAPH[name] if name not in finished else ():
            walk(other, (*way, name))
        finished.add(name)

    for name in MODULES:
        walk(name, ())


@pytest.mark.parametrize("folder", PLUG_IN_FOLDERS)
def test_plug_ins_import_their_base_and_never_one_another(folder):
    shared = {f"memorization.{folder}.{name}" for name in PLUG_IN_FOLDERS[folder]}
    for name in MODULES:
        if name.startswith(f"memorization.{folder}.") and name not in shared and not name.endswith(".options"):
            inside = {other for other in GRAPH[name] if other.startswith(f"memorization.{folder}.")}
            assert inside <= shared, name


@pytest.mark.parametrize("folder", ["planted", "tools", "experiments", "examples", "tests"])
def test_the_library_knows_nothing_of_what_is_built_with_it(folder):
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        modules += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        assert not any(m.split(".")[0] == folder for m in modules), name


def test_the_denoiser_has_one_call_site_another_in_training_and_the_loop_one_place():
    texts = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
    calls = {name: text.count("self.denoiser(") for name, text in texts.items() if "self.denoiser(" in text}
    assert calls == {"local_sd_pipeline": 1}
    trains = {name for name, text in texts.items() for part in ("unet", "transformer") if f".{part}(" in text}
    assert trains == {"memorization.finetuning.loss"} and texts[trains.pop()].count(".unet(") == 1
    assert [name for name, text in texts.items() if "scheduler.step(" in text] == ["local_sd_pipeline"]


def test_evaluation_and_report_load_no_diffusion_code_and_open_no_gpu():
    rooms = ("evaluation", "report", "similarity")
    names = [*WITHOUT_DIFFUSERS, *(n for n in MODULES if room_of(n) in rooms)]
    code = f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
    code += "import torch\nassert 'diffusers' not in sys.modules and not torch.cuda.is_initialized()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_modules_stay_short():
    long = {name: lines for name, path in MODULES.items() if (lines := len(path.read_text().splitlines())) > 320}
    assert not long
