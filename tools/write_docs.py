"""Write the tables of README.md and docs/: those of the registries, of the command lines, and of the kept results.

    python -m tools.write_docs             rewrites what lies between <!-- table NAME --> and <!-- end -->
    python -m tools.write_docs --check     changes nothing; names the stale ones, and ends with 1 where there are any

Nothing is measured: after a sweep or a benchmark its numbers are put into experiments/results/ (cost: results.json in
experiments/cost/), and this pastes them. Tables of other names are left to the scripts that make them, by `paste`.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import audit_mem
import detect_mem
import eval_mem
import explore
import inference_mem
from experiments import audit_tables, planted_tables, published, screen_scale
from experiments.cost import families, gradient_memory, weights
from experiments.coverage import coverage_table
from experiments.decisions_simulation import decisions_table
from experiments.index_scale import index_scale_table
from memorization.bundled import ROOT, bundled_name
from memorization.catalogue import detector_table, mitigation_table
from memorization.detectors.base import in_order_of_cost
from memorization.errors import exit_on_input_error
from memorization.files.whole import write_text
from memorization.finetuning.base import SOMEPALLI, TRAINING_MITIGATIONS
from memorization.mitigations.base import MITIGATIONS
from memorization.released import SD1, SD2, values_text
from memorization.runs.arguments import HelpFormatter, Switch
from memorization.tables import Table, format_table

PLACE = re.compile(r"(?P<start><!-- table (?P<name>\w+) -->\n)(?P<table>.*?)(?P<end><!-- end -->)", re.DOTALL)
COMMAND = "python -m tools.write_docs"
FAMILIES = (SD1, SD2)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# Registries


def registry_table(table: Table, columns: Sequence[str]) -> str:
    """Some columns of a table of the registry, with names as code and its note below."""
    places = [table.headers.index(name) for name in columns]
    rows = [[f"`{row[0]}`", *(escaped(row[k]) for k in places[1:])] for row in table.rows]
    return f"{format_table(columns, rows)}\n\n{table.note}"


def score_keys() -> str:
    """Which keys of a row each detector gives, and what tables call them."""
    rows = [[f"`{key}`", text, f"`{d.name}`"] for d in in_order_of_cost() for key, text in d.keys.items()]
    return format_table(["key in the rows", "in tables", "detector"], rows)


def sources() -> str:
    """Detectors and mitigations by the paper that they are from, in the order of cost of the first."""
    names: dict[str, tuple[list[str], list[str]]] = {}
    for k, records in enumerate((in_order_of_cost(), MITIGATIONS.values())):
        for record in records:
            source = re.split(r"[;,] (?=as a mask|a control)", record.source)[0]
            names.setdefault(source, ([], []))[k].append(f"`{record.name}`")
    rows = [[source, *(", ".join(cell) for cell in cells)] for source, cells in names.items()]
    return format_table(["from", "detectors: `--scores`", "mitigations: `--method`"], rows)


def training_mitigations() -> str:
    """What keeps a fine-tuning from memorizing, with the released numbers."""
    rows = [
        [f"`{r.name}`", escaped(r.what), r.acts_on, f"{r.probability:g}", r.knob, f"{r.strength:g}" if r.knob else ""]
        for r in TRAINING_MITIGATIONS.values()
    ]
    headers = ["name", "what", "acts on", "probability", "strength", "released"]
    return f"{format_table(headers, rows)}\n\nFrom {SOMEPALLI}."


def released() -> str:
    """Hyper-parameters that methods were released with, by family of models."""
    records = [*in_order_of_cost(), *sorted(MITIGATIONS.values(), key=lambda m: (m.reads, m.name))]
    rows = [[f"`{r.name}`", *(values_text(r.released.get(f, {})) for f in FAMILIES)] for r in records if r.released]
    return format_table(["name", *FAMILIES], rows)


# Command lines


def option_tables(script: ModuleType) -> str:
    """Every option of a script, by the groups of its help; the commands of eval_mem.py one after another."""
    parser = script.make_parser()
    commands = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not commands:
        return "\n\n".join(group_tables(parser))
    parts = []
    for name, command in commands[0].choices.items():
        parts += [f"### {name}", *group_tables(command)]
    return "\n\n".join(parts)


def group_tables(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A table of what is in no group of its own, then one for each group under its name."""
    ungrouped, groups = parser._action_groups[:2], parser._action_groups[2:]
    titled = [("", [a for group in ungrouped for a in group._group_actions])]
    titled += [(f"Of {g.title}:\n\n", g._group_actions) for g in groups]
    for title, actions in titled:
        rows = [option_row(a) for a in actions if not isinstance(a, argparse._HelpAction)]
        if rows:
            yield title + format_table(["option", "default", "what it does"], rows)


def option_row(action: argparse.Action) -> list[str]:
    name = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest).upper()
    text = escaped(action.help or "")
    if action.choices is not None and not all(str(choice) in text for choice in action.choices):
        text = f"{text} ({', '.join(map(str, action.choices))})"
    return [f"`{name}`", default_text(action), text]


def default_text(action: argparse.Action) -> str:
    """The default as one types it; what is in the clone by its name, wherever the clone lies."""
    if action.required:
        return "required"
    if isinstance(action, Switch):
        return "on" if action.default else "off"
    value = bundled_name(action.default)
    if value in (None, argparse.SUPPRESS) or value == []:
        return ""
    return f"`{' '.join(map(word, value)) if isinstance(value, list) else word(value)}`"


def word(value: object) -> str:
    return "all" if value is None else str(value)


def escaped(text: object) -> str:
    """Text as the cell of a table."""
    return str(text).replace("|", r"\|").replace("%%", "%")


TABLES: Mapping[str, Callable[[], str]] = {
    "sources": sources,
    "detectors": lambda: registry_table(detector_table(), ("name", "what", "cost", "source")),
    "score_keys": score_keys,
    "mitigations": lambda: registry_table(mitigation_table(), ("name", "what", "knob", "cost", "source")),
    "released": released,
    "training_mitigations": training_mitigations,
    "coverage": coverage_table,
    "decisions": decisions_table,
    "family_cost": families.kept_results,
    "gradient_memory": gradient_memory.kept_results,
    "index_scale": index_scale_table,
    "published_weights": weights.weights_table,
    "options_audit_mem": partial(option_tables, audit_mem),
    "options_detect_mem": partial(option_tables, detect_mem),
    "options_inference_mem": partial(option_tables, inference_mem),
    "options_eval_mem": partial(option_tables, eval_mem),
    "options_explore": partial(option_tables, explore),
    **published.TABLES,
    **planted_tables.TABLES,
    **screen_scale.TABLES,
    **{name: partial(planted_tables.table, make, audit_tables.RESULTS) for name, make in audit_tables.TABLES.items()},
}


# Pages


def fill(text: str, tables: Mapping[str, str]) -> str:
    """A page with these tables in their places."""

    def put(place: re.Match) -> str:
        table = tables.get(place["name"])
        return place[0] if table is None else f"{place['start']}\n{table}\n\n{place['end']}"

    return PLACE.sub(put, text)


def paste(name: str, table: str) -> None:
    """Put one table into its place, for scripts that measure it."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text, {name: table})) != text:
            write_text(page, filled)


def stale_tables() -> list[tuple[Path, str]]:
    """Page and name of every table that is not as it would be written."""
    found, made = [], {}
    for page in pages():
        for place in PLACE.finditer(page.read_text(encoding="utf-8")):
            name = place["name"]
            if name in TABLES:
                made[name] = made.get(name) or TABLES[name]()
                if fill(place[0], {name: made[name]}) != place[0]:
                    found.append((page, name))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; end with 1 where a table is stale")
    args = parser.parse_args(argv)
    with exit_on_input_error():
        stale = stale_tables()
        for page, name in stale:
            if args.check:
                print(f"{page.relative_to(ROOT)}: table {name} is stale; write it by {COMMAND}")
            else:
                paste(name, TABLES[name]())
                print(f"{page.relative_to(ROOT)}: table {name}")
    if args.check and stale:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
