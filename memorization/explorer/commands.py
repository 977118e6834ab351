"""The command lines that give a view's numbers and pictures again."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from memorization.bundled import GROUND_TRUTH, bundled_name
from memorization.explorer.asked import Asked
from memorization.explorer.controls import CONTROL_SEED
from memorization.explorer.models import Models, model_options
from memorization.explorer.view import View
from memorization.explorer.world import World
from memorization.runs.arguments import common_parser
from memorization.runs.settings import RunSettings, from_arguments


def command_lines(world: World, view: View) -> list[str]:
    """Shell commands, in their order: a file with the prompt where it is in none, then the scripts."""
    asked, name = view.asked, view_name(world, view)
    sampling = [*sampling_options(asked), "--num_images_per_prompt", "1"]
    model, prompt = own_options(world.models, asked), prompt_options(world, view, name)
    lines = [] if view.place is not None else [prompt_file(asked.prompt, f"{name}.jsonl")]
    seed = ["--gen_seed", str(asked.seed)]
    lines.append(line("detect_mem.py", ["--run_name", name, *prompt, *seed, *sampling, *model]))
    if view.controls is not None:
        source, controls = str(bundled_name(world.controls.source)), f"{name}_controls"
        some = ["--dataset", source, "--end", str(len(view.controls)), "--gen_seed", str(CONTROL_SEED)]
        lines.append(line("detect_mem.py", ["--run_name", controls, *some, *sampling, *model]))
        files = [f"det_outputs/{name}_ours.jsonl", "--controls", f"det_outputs/{controls}_ours.jsonl"]
        lines.append(line("eval_mem.py", ["decisions", *files]))
    tools = evaluator_options(world)
    for one in view.mitigated.values():
        how = ["--method", one.method, "--strength", f"{one.strength:.10g}"]
        tracked = ["--with_tracking", *tools] if tools else []
        lines.append(line("inference_mem.py", ["--run_name", name, *how, *prompt, *seed, *sampling, *model, *tracked]))
    if view.tiles:
        own = view.asked.sampling.seeds(view.record)[0]
        shown = [view.record.prompt, "--seed", str(own), *sampling_options(asked), "--output", f"{name}.png"]
        lines.append(line("tools/show_attention.py", [*shown, *model[: 2 * ("--model_id" in model)]]))
    return lines


def line(script: str, words: Sequence[str]) -> str:
    return shlex.join(["python", script, *words])


def prompt_file(prompt: str, name: str) -> str:
    return f"printf '%s\\n' {shlex.quote(json.dumps({'caption': prompt}))} > {name}"


def view_name(world: World, view: View) -> str:
    """A name of the view's runs that no other view's have."""
    told = repr((view.asked, world.models.run_settings(view.asked.chosen), world.dataset, view.place))
    return "view_" + hashlib.sha256(told.encode()).hexdigest()[:8]


def prompt_options(world: World, view: View, name: str) -> list[str]:
    if view.place is None:
        return ["--dataset", f"{name}.jsonl"]
    dataset = str(bundled_name(world.dataset))
    return ["--dataset", dataset, "--start", str(view.place), "--end", str(view.place + 1)]


def sampling_options(asked: Asked) -> list[str]:
    words = ["--num_inference_steps", str(asked.num_inference_steps)]
    scale = asked.guidance_scale
    return words if scale is None else [*words, "--guidance_scale", f"{scale:.10g}"]


def own_options(models: Models, asked: Asked) -> list[str]:
    usual = common_parser(None, GROUND_TRUTH).parse_args([])
    default = from_arguments(RunSettings, usual, dataset="", num_images_per_prompt=1)
    return list(model_options(models.run_settings(asked.chosen), default))


def evaluator_options(world: World) -> list[str]:
    """Options of the evaluators; the bundled ones by where they lie in the clone."""
    given, words = world.evaluator_settings, []
    if given.sscd is not None:
        words += ["--sscd", relative(given.sscd)]
    if given.sscd_preprocessing is not None:
        words += ["--sscd_preprocessing", given.sscd_preprocessing]
    if given.reference_model is not None:
        words += ["--reference_model", relative(given.reference_model)]
        if not Path(given.reference_model).exists():
            words += ["--reference_model_pretrain", given.reference_model_pretrain]
    return words


def relative(path: str | Path) -> str:
    """A path inside the clone by its place there; another as it is."""
    root = GROUND_TRUTH.parent.parent
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else str(path)
