"""The protocol of the benchmark: which runs are made and evaluated, in which order, and what they are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.benchmark_tables import strengths, write_page
from experiments.runs import Command, Entry, Runner, module, parse_entries, script
from memorization import evaluate
from memorization.errors import InputError
from memorization.files.layout import RunFiles
from memorization.files.whole import make_folder
from memorization.mitigations.base import PLAIN

BENCH, AUDIT, CONTROL = "bench", "audit", "control"  # begin the names of runs
THREADS = "OMP_NUM_THREADS"
NUM_PARAPHRASES = 10  # of ordinary prompts, as the memorized ones have


@dataclass(frozen=True)
class Benchmark:
    """What is measured, on what, and where it goes.

    Attributes:
        control: pictures never trained on, in the layout of `mem`; None for none.
        detect: options of detection.
        prompts, harmless: options that choose the memorized and the ordinary prompts to mitigate.
        evaluators: what images are measured with, arguments of `evaluate`.
        common: options of every run.
        model, plugins: those of `common` that other scripts take too.
    """

    output: Path
    seed: int
    mem: str
    nonmem: Sequence[str]
    ordinary: str
    control: str | None
    detect: Sequence[str]
    prompts: Sequence[str]
    harmless: Sequence[str]
    images: int
    evaluators: dict[str, Any]
    entries: Sequence[Entry]
    common: Sequence[str]
    model: Sequence[str]
    plugins: Sequence[str]
    num_inference_steps: int
    runner: Runner

    @property
    def timed(self) -> list[str]:
        return [*self.model, "--num_inference_steps", str(self.num_inference_steps)]

    @property
    def evaluation(self) -> Path:
        return self.output / "evaluation"

    @property
    def ordinary_dir(self) -> Path:
        return self.output / "ordinary"

    @property
    def harmless_prompts(self) -> str:
        """Ordinary prompts to mitigate: those in a file get paraphrases, for semantic search."""
        return str(self.output / "ordinary.jsonl") if self.ordinary.endswith(".jsonl") else self.ordinary

    # The commands

    def detection(self, name: str, prompts: str, *options: object) -> Command:
        head = ("--run_name", f"{BENCH}_{name}", "--dataset", prompts, "--output_dir", self.output)
        return script("detect_mem", *head, "--no-store_img_npz", *self.detect, *self.common, *options)

    def detected(self, name: str) -> Path:
        return RunFiles(self.output, f"{BENCH}_{name}_ours").rows

    def mitigation(self, entry: Entry, stem: str, *options: object) -> Command:
        how = ("--gen_seed", self.seed, "--no-store_img_npz", "--num_images_per_prompt", self.images)
        name = ("--run_name", entry.run_name(stem))
        return script("inference_mem", *name, *entry.options, *how, *self.common, *options)

    def on_memorized(self, entry: Entry, stem: str = BENCH, *options: object) -> Command:
        where = ("--dataset", self.mem, "--output_dir", self.output)
        return self.mitigation(entry, stem, *where, *self.prompts, *options)

    def on_ordinary(self, entry: Entry) -> Command:
        where = ("--dataset", self.harmless_prompts, "--output_dir", self.ordinary_dir)
        return self.mitigation(entry, BENCH, *where, *self.harmless)

    def both(self, entry: Entry) -> list[Command]:
        return [self.on_memorized(entry), self.on_ordinary(entry)]

    def search(self, dataset: str, path: Path, *options: object) -> Command:
        head = ("--dataset", dataset, "--output", path, "--gen_seed", self.seed)
        return module("tools.search_embeddings", *head, *self.model, *options)

    # What is done, in this order

    def run(self) -> None:
        make_folder(self.ordinary_dir, "--output")
        self.prepare()
        self.detect_all()
        self.mitigate_all()
        self.audit()
        self.finish()

    def prepare(self) -> None:
        """What the others read: paraphrases, norms of other noise than what they are compared with, images, masks."""
        rewording = ("--output", self.harmless_prompts, "--template_only", "--num", NUM_PARAPHRASES)
        if self.harmless_prompts != self.ordinary and not Path(self.harmless_prompts).exists():
            self.runner.work([module("tools.paraphrases.make", self.ordinary, *rewording)], "paraphrases")
        calibrate = ("--gen_seed", self.seed + 1, "--scores", "broken_memories")
        first = [Entry(PLAIN), *[entry for entry in self.entries if entry.variant is not None][:1]]
        commands = [self.detection("calibration", self.ordinary, *calibrate)]
        self.runner.work([*commands, *(c for entry in first for c in self.both(entry))], "calibration, masks")

    def detect_all(self) -> None:
        """All signals, and evaluation where both classes are there."""
        how = ("--gen_seed", self.seed, "--scores", "all", "--calibration", self.detected("calibration"))
        names = {prompts: Path(prompts).name.removesuffix(".jsonl") for prompts in (self.mem, *self.nonmem)}
        commands = [self.detection(names[self.mem], self.mem, *how, "--store_maps")]
        commands += [self.detection(names[prompts], prompts, *how) for prompts in self.nonmem]
        self.runner.work(commands, "detection")
        mem, nonmem = self.detected(names[self.mem]), [self.detected(names[prompts]) for prompts in self.nonmem]
        evaluate("detection", mem, nonmem=nonmem).save(self.evaluation)
        try:
            evaluate("localisation", mem).save(self.evaluation)
        except InputError as error:
            tqdm.write(f"localisation is left out: {error}")

    def mitigate_all(self) -> None:
        """Every mitigation, on memorized and on ordinary prompts; beside them, whether scores know the image."""
        swap = self.evaluation / "caption_swap.md"
        options = ("--dataset", self.mem, "--gen_seed", self.seed, "--output", swap, *self.model)
        commands = [] if swap.exists() else [module("experiments.caption_swap", *options)]
        self.runner.work([*commands, *(c for entry in self.entries for c in self.both(entry))], "mitigation")
        for topic, folder in (("mitigation", self.output), ("damage", self.ordinary_dir)):
            runs = sorted(RunFiles(folder, "").rows.parent.glob(f"{BENCH}_*_mitigation.jsonl"))
            evaluate(topic, runs, **self.evaluators).save(self.evaluation)

    def audit(self) -> None:
        """What a searched embedding brings back, each method at the weakest strength that hides.

        Methods that change words do nothing to an embedding, and those that search paraphrases would know the prompt
        that it stands for: both are left out.
        """
        found, found_control = self.output / "found.safetensors", self.output / "found_control.safetensors"
        searches = [self.search(self.mem, found, *self.prompts)]
        if self.control is not None:
            searches.append(self.search(self.control, found_control))
        self.runner.work(searches, "search of embeddings")
        hiding = self.hiding_entries()
        entries = [Entry(PLAIN), *(e for e in hiding if not (e.reads_words or e.searches_paraphrases))]
        commands = [self.on_memorized(entry, AUDIT, "--prompt_embeds", found) for entry in entries]
        controls = []
        if self.control is not None:
            folder = self.output / CONTROL
            where = ("--dataset", self.control, "--output_dir", folder, "--prompt_embeds", found_control)
            commands.append(self.mitigation(Entry(PLAIN), CONTROL, *where))
            controls = [Entry(PLAIN).rows(folder, CONTROL)]
        self.runner.work(commands, "audit")
        own, audited = ([entry.rows(self.output, stem) for entry in entries] for stem in (BENCH, AUDIT))
        evaluate("audit", own, audited=audited, control=controls, **self.evaluators).save(self.evaluation)

    def hiding_entries(self) -> list[Entry]:
        return [entry for text in strengths(self.evaluation) for entry in parse_entries(text)]

    def finish(self) -> None:
        """What each costs in seconds, alone on the machine with all its cores, and everything on one page."""
        seconds = self.evaluation / "seconds.json"
        if not seconds.exists():
            options = ("--methods", *self.hiding_entries(), "--output", seconds)
            alone = Runner(self.output, environment={k: v for k, v in self.runner.environment.items() if k != THREADS})
            alone.work([module("experiments.cost.time_methods", *options, *self.plugins, *self.timed)], "seconds")
        print(write_page(self.evaluation, self.num_inference_steps))
