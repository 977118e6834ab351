"""Runs of the scripts as commands of their own, several at a time, and what the runs of a sweep are called."""

import contextlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from memorization.bundled import ROOT
from memorization.errors import InputError, warn
from memorization.files.layout import RunFiles
from memorization.mitigations.base import MITIGATIONS, PLAIN, Mitigation

VARIANTS = {"be": ("--run_version", "ours_A"), "prmask": ("--pr_mask",)}  # options of each
LOG_FILE = "commands.log"

Command = Sequence[str]
Cell = TypeVar("Cell")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Calls within print nothing, as a script's run in this process."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@dataclass(frozen=True)
class Entry:
    """A mitigation at one strength, by the name that it has in result files: prss_be is prss with the mask."""

    name: str
    strength: float = 0

    @property
    def variant(self) -> str | None:
        method, _, suffix = self.name.rpartition("_")
        return suffix if suffix in VARIANTS and method in MITIGATIONS else None

    @property
    def method(self) -> str:
        return self.name if self.variant is None else self.name.removesuffix(f"_{self.variant}")

    @property
    def reads_words(self) -> bool:
        """Whether it does nothing to an embedding that is given instead of a prompt."""
        return self.method in MITIGATIONS and MITIGATIONS[self.method].reads == "words"

    @property
    def searches_paraphrases(self) -> bool:
        """Whether it needs paraphrases of the prompt, which an embedding that is given instead of it does not tell."""
        return self.sets("l_target_ss")

    @property
    def counts_words(self) -> bool:
        """Whether its strength is a number of words, which stands in the names of its files."""
        return self.sets("prompt_aug_style")

    def sets(self, flag: str) -> bool:
        """Whether it is one of the methods that are switched on by flags, and this flag among them."""
        method = MITIGATIONS.get(self.method)
        return method is not None and method.flags is not None and flag in method.flags(1)

    @property
    def options(self) -> list[str]:
        """Of inference_mem.py."""
        if self.name == PLAIN:
            return []
        more = () if self.variant is None else VARIANTS[self.variant]
        return ["--method", self.method, "--strength", f"{self.strength:g}", *more]

    def run_name(self, stem: str) -> str:
        return f"{stem}_{self.strength:g}"

    def rows(self, output_dir: Path, stem: str) -> Path:
        """Result file of its run."""
        label = f"{self.name}{self.strength:g}" if self.counts_words else self.name
        return RunFiles(output_dir, f"{self.run_name(stem)}_{label}", is_mitigation=True).rows

    def __str__(self) -> str:
        return f"{self.name}:{self.strength:g}"


def parse_entries(text: str) -> list[Entry]:
    """Entries out of `NAME:STRENGTH,STRENGTH`.

    Raises:
        InputError: if there is no such method, or a strength is no number.
    """
    name, _, strengths = text.partition(":")
    try:
        entries = [Entry(name, float(strength)) for strength in strengths.split(",")]
    except ValueError:
        raise InputError(f"{text!r} is not NAME:STRENGTH or NAME:STRENGTH,STRENGTH,...") from None
    if name != PLAIN:
        MITIGATIONS.get_known(entries[0].method, "a list of methods")
    return entries


def sweep_entries(methods: Iterable[Mitigation], bundled: bool, variants: bool = True) -> list[Entry]:
    """Every method and variant at the strengths of its record, for the bundled model or for Stable Diffusion 1."""
    entries = []
    for method in methods:
        names = [method.name, *(f"{method.name}_{v}" for v in method.variants if variants)]
        strengths = (method.bundled_sweep if bundled else ()) or method.sweep
        for name in names:
            entries += [Entry(name, strength) for strength in strengths]
    return entries


def is_given(option: str, argv: Sequence[str] | None) -> bool:
    """Whether a command line, by default this program's, has an option that other defaults hang on."""
    return any(word.split("=")[0] == option for word in (sys.argv[1:] if argv is None else argv))


def script(name: str, *options: object) -> Command:
    """The command line of a script of the root."""
    return [sys.executable, str(ROOT / f"{name}.py"), *map(str, options)]


def module(name: str, *options: object) -> Command:
    """The command line of a module of the clone, as `experiments.caption_swap`."""
    return [sys.executable, "-m", name, *map(str, options)]


@dataclass(frozen=True)
class Runner:
    """Runs commands, `jobs` at a time; what they print goes to a log file.

    Attributes:
        output: folder of the log.
        environment: variables that the commands get besides those that are set.
    """

    output: Path
    jobs: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    def work(self, commands: Sequence[Command], title: str) -> None:
        """Run all commands under a progress bar.

        Raises:
            InputError: if one fails, with its last line; those that have not begun are left out.
        """
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self.run, command) for command in commands]
            try:
                for done in tqdm(as_completed(futures), desc=title, total=len(futures), unit="run"):
                    self.log(done.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def run(self, command: Command) -> subprocess.CompletedProcess:
        environment = {**os.environ, "TQDM_DISABLE": "1", **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")

    def log(self, done: subprocess.CompletedProcess) -> None:
        path = self.output / LOG_FILE
        with path.open("a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(done.args)}\n{done.stdout}{done.stderr}\n")
        if done.returncode:
            last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
            raise InputError(f"{shlex.join(done.args[1:])}: {last.removeprefix('error: ')} (all of it is in {path})")


def make_each(
    cells: Sequence[Cell],
    make: Callable[[Cell], object],
    name: Callable[[Cell], str],
    keep: Callable[[], object],
    title: str,
    jobs: int = 1,
) -> list[str]:
    """Make cells of an experiment under a progress bar, `jobs` at a time; one that fails leaves the others alone.

    Args:
        make: makes one, in a thread of its own; an InputError is said in a line.
        name: what a cell is called there.
        keep: called after each that is made, by this thread.

    Returns:
        Names of those that failed.
    """
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(make, cell): cell for cell in cells}
        try:
            for done in tqdm(as_completed(futures), desc=title, total=len(futures), unit="cell"):
                try:
                    done.result()
                except InputError as error:
                    failed.append(name(futures[done]))
                    warn(f"{failed[-1]}: {error}")
                else:
                    keep()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def refuse_failed(failed: Sequence[str]) -> None:
    """
    Raises:
        InputError: if anything failed, at the end of what went on without it.
    """
    if failed:
        raise InputError(f"not measured: {', '.join(failed)}; the same command tries them again")
