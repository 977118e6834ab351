"""README.md and docs/: links, paths and commands lead somewhere, tables and quoted numbers are those that are kept."""

import json
import re
import shlex
from collections.abc import Iterator

import pytest

import audit_mem
import detect_mem
import eval_mem
import explore
import inference_mem
from experiments import count_evaluations
from memorization.bundled import ROOT
from memorization.detectors.base import DETECTORS
from memorization.mitigations.base import MITIGATIONS
from memorization.models.flux import LocalFluxPipeline
from memorization.models.stable_diffusion_3 import LocalStableDiffusion3Pipeline
from tools import write_docs

PAGES = [*write_docs.pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "experiments/results/README.md"]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
SCRIPTS = {f"{module.__name__}.py": module for module in (detect_mem, inference_mem, eval_mem, audit_mem, explore)}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INTERVAL = re.compile(r"(-?\d\.\d+) \[(-?\d\.\d+), (-?\d\.\d+)\]")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(name: str) -> Iterator[str]:
    """Command lines of a page: of its blocks, and of lines that are set in by four columns."""
    text = text_of(name)
    blocks = [code for language, code in FENCE.findall(text) if language == ""]
    blocks += re.findall(r"^    (\S.*)$", FENCE.sub("", text), re.MULTILINE)
    for line in "\n".join(blocks).splitlines():
        command = line.split(" #")[0].strip()
        if re.match(r"(python|bash|accelerate|sbatch) ", command):
            yield command


def inline_paths(name: str) -> set[str]:
    """Files of the clone that are named as code, those that a page says were there before left out."""
    text = FENCE.sub("", text_of(name))
    if name == "CHANGELOG.md":
        text = "\n".join(line.split("|")[2] if line.startswith("|") else line for line in text.splitlines())
    tops = {p.name for p in ROOT.iterdir() if p.is_dir()} - {"det_outputs", "attn_data", "images_data"}
    spans = [re.sub(r"^(bash|python) ", "", code) for code in re.findall(r"`([^`\n]+)`", text)]
    words = [re.split(r"[ :]", span)[0] for span in spans]
    return {w for w in words if w.split("/")[0] in tops and "/" in w and not re.search(r"[*{}A-Z]{2}|[*{]", w)}


def anchors(text: str) -> set[str]:
    """What links within a page can name: headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    text = text_of(name)
    for link in LINK.findall(text):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), f"{name} links to {link}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{name} links to {link}"


def test_what_is_defined_for_transformers_is_what_the_page_says():
    page = text_of("docs/models.md")
    for lacks in (LocalStableDiffusion3Pipeline.lacks, LocalFluxPipeline.lacks):
        for registry in (DETECTORS, MITIGATIONS):
            asked_for = [method for method in registry.values() if not getattr(method, "always", False)]
            defined = {method.name for method in asked_for if not set(method.needs) & set(lacks)}
            assert defined in [set(re.findall(r"`(\w+)`", cell)) for cell in page.split("|")]


NOT_SHIPPED = ("examples/sdv1_500", "examples/sscd", "examples/downloads.sha256")


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name):
    missing = {p for p in inline_paths(name) if not (ROOT / p).exists() and not p.startswith(NOT_SHIPPED)}
    assert not missing


@pytest.mark.parametrize("name", NAMES)
def test_commands_start_a_file_that_is_there(name):
    for command in commands(name):
        words = [w for w in shlex.split(command) if w not in ("python", "bash", "accelerate", "launch", "sbatch")]
        if words[0] == "-m":
            place = ROOT / words[1].replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), command
        else:
            script = next(w for w in words if w.endswith((".py", ".sh")) or w == ".ci/run")
            assert (ROOT / script).exists(), command


@pytest.mark.parametrize("name", NAMES)
def test_command_lines_of_the_scripts_are_understood(name):
    for command in commands(name):
        words = shlex.split(command.removesuffix("..."))
        script = next((w for w in words if w in SCRIPTS), None)
        if script is not None:
            SCRIPTS[script].make_parser().parse_args([w for w in words[words.index(script) + 1 :] if w != "..."])


def test_the_documented_command_lines_are_as_they_were():
    text = text_of("README.md")
    model = "--gen_seed 0 --model_id PATH_TO_SD_MODEL"
    for version in ("baseline", "ours    "):
        head = f"python detect_mem.py --run_name memorized_prompts --run_version {version}"
        assert f"{head} --dataset examples/sdv1_500_memorized.jsonl {model} --num_images_per_prompt 16\n" in text
    rest = "--reference_model ViT-g-14 --with_tracking --num_images_per_prompt 1 --optim_target_steps 0"
    for options in ("--optim_target_loss 1", "--l_target_pr 3 --mag_thres_pr 5 --l_target_ss 1"):
        for name in ("baseline", "ours_A  "):
            head = f"python inference_mem.py --run_name {name} --run_version {name} --dataset sdv1_500_mem_groundtruth"
            assert f"{head} {model} {rest} {options}\n" in text


def test_the_readme_is_short_and_names_every_page():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 200
    assert all(f"({page.relative_to(ROOT).as_posix()}" in text for page in (ROOT / "docs").glob("*.md"))


def test_tables_are_not_stale(capsys):
    write_docs.main(["--check"])
    assert capsys.readouterr().out == ""


def test_every_table_has_its_place():
    places = [place["name"] for page in PAGES for place in write_docs.PLACE.finditer(page.read_text(encoding="utf-8"))]
    assert {*write_docs.TABLES, "evaluations"} == {*places} and len(places) == len({*places})


def test_a_stale_table_is_named_and_written(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table sources -->\nold\n<!-- end -->\nafter\n<!-- table other -->\nx\n<!-- end -->\n")
    monkeypatch.setattr(write_docs, "ROOT", tmp_path)
    monkeypatch.setattr(write_docs, "pages", lambda: [page])
    with pytest.raises(SystemExit) as stop:
        write_docs.main(["--check"])
    assert stop.value.code == 1 and "page.md: table sources is stale" in capsys.readouterr().out
    write_docs.main([])
    write_docs.main(["--check"])
    text = page.read_text()
    assert text.startswith("before\n<!-- table sources -->\n\n| from ") and "\n\n<!-- end -->\nafter\n" in text
    assert "<!-- table other -->\nx\n<!-- end -->" in text


def test_every_method_has_its_line():
    methods, readme = text_of("docs/methods.md"), text_of("README.md")
    for name in (*DETECTORS, *MITIGATIONS):
        assert f"\n| `{name}` " in methods, name
        assert f"`{name}`" in readme, name
    assert all(f"\n| `{key}` " in methods for d in DETECTORS.values() for key in d.keys)


def test_every_option_has_its_line():
    text = text_of("docs/options.md")
    for module in SCRIPTS.values():
        assert all(
            f"| `{option}` " in text for option in re.findall(r"(--[a-z]\w+)", module.make_parser().format_usage())
        )


def kept_measures() -> set[tuple[float, ...]]:
    """All measures with intervals of the kept results, with either sign and rounded as pages quote them."""
    found: list[tuple[float, ...]] = []

    def walk(value: object) -> None:
        if isinstance(value, dict) and isinstance(value.get("value"), float):
            found.append((value["value"], *value.get("interval", (value.get("low"), value.get("high")))))
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(inner)

    for path in [*(ROOT / "experiments/results").rglob("*.json"), ROOT / "planted/planted_report.json"]:
        walk(json.loads(path.read_text()))
    tables = [path.read_text() for path in (ROOT / "experiments/results").rglob("*.md")]
    tables += [
        place["table"] for name in NAMES for place in write_docs.PLACE.finditer(text_of(name))
    ]  # which are not stale
    for text in tables:
        found += [tuple(map(float, m)) for m in INTERVAL.findall(text)]
    found += [(-v, -high, -low) for v, low, high in found]
    return {tuple(round(x, digits) + 0.0 for x in measure) for measure in found for digits in (2, 3)}


@pytest.mark.parametrize("name", NAMES)
def test_quoted_intervals_are_those_of_the_kept_results(name):
    kept = kept_measures()
    quoted = [tuple(float(x) + 0.0 for x in m) for m in INTERVAL.findall(text_of(name))]
    assert not [q for q in quoted if q not in kept]


def test_the_table_of_evaluations_is_what_its_script_counts(capsys):
    count_evaluations.main()
    assert capsys.readouterr().out.strip() in text_of("docs/scale.md")


@pytest.mark.parametrize("name", ["README.md", "docs/library.md", "docs/methods.md"])
def test_the_examples_run(name, tmp_path, monkeypatch, capsys):
    """The examples of a page, one after another."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for language, code in FENCE.findall(text_of(name)):
        if language == "python":
            exec(compile(code, name, "exec"), space)
    told = capsys.readouterr().out
    assert name != "docs/library.md" or "did you mean sharpness?" in told
