"""Tables of what `evaluation.copies` finds."""

from collections.abc import Sequence

from memorization.evaluation.controls import EXCHANGEABLE
from memorization.evaluation.copies import Copies
from memorization.evaluation.copy_summary import RARE
from memorization.evaluation.statistics import Result, interval_text
from memorization.similarity.nearest import NORMALISED
from memorization.similarity.pixels import COPY_SIMILARITY
from memorization.tables import Table

CUT = f"SSCD > {COPY_SIMILARITY}"
REGION = "Generation and training picture cropped to the copied region, the rest in its mean colour, beside the whole "
REGION += "pictures of the same prompts. AUC: against controls to the nearest of all regions, or of all pictures."


def copy_tables(copies: Copies) -> list[Table]:
    """Runs, then templates by their copied region where there are any, then how near what is no copy lies."""
    parts = [r for r in copies.results if "region" in r]
    return [runs_table(copies), *([regions_table(parts)] if parts else []), spread_table(copies)]


def runs_table(copies: Copies) -> Table:
    """Every run and kind of prompt: rank, AUC, decisions, and the field's cut beside them."""
    names = {"own": "to its own", "rank1": "rank 1", "auc": "AUC", "copies": f"copies at FDR {copies.settings.fdr:g}"}
    names |= {"above_cut": CUT, "above_background": f"above {RARE:.0%} of different training pictures"}
    rows = [
        [r["run"], r["kind"], r["prompts"], r["images"], *(interval_text(r[name]) for name in names)]
        for r in copies.results
    ]
    note = (
        f"Rank 1: the nearest of {copies.training} training pictures is the prompt's own. AUC: similarity to its own "
    )
    note += f"against that of controls to their nearest. Copies: q of the nearest at most {copies.settings.fdr:g}, "
    note += f"{compared_with(copies)}; {EXCHANGEABLE}. {CUT} is the field's cut."
    if copies.settings.similarity == NORMALISED:
        note += " Similarities are less the mean over the nearest of the background set, but for the cut."
    headers = ["run", "kind", "prompts", "images", *names.values()]
    return Table("Copies", headers, rows, "\n".join([note, *copies.too_few_controls().values()]))


def compared_with(copies: Copies) -> str:
    """What images are decided by."""
    if copies.settings.by_prompt:
        return f"over prompts, by the highest image of each of {copies.controls} control prompts, kind by kind"
    return f"by the first image of each of {copies.controls} control prompts"


def regions_table(results: Sequence[Result]) -> Table:
    """Templates by the copied region alone, and by the whole picture."""
    names = {"region": "region", "region_auc": "AUC, region", "whole": "whole picture", "whole_auc": "AUC, whole"}
    rows = [[r["run"], r["kind"], r["region_prompts"], *(interval_text(r[n]) for n in names)] for r in results]
    return Table("Copied regions", ["run", "kind", "prompts", *names.values()], rows, REGION)


def spread_table(copies: Copies) -> Table:
    """How near the nearest training picture lies."""
    names = {"count": "pictures", "lowest": "lowest", "median": "median", "rare": f"{RARE:.0%}", "highest": "highest"}
    rows = [[r["of"], *(r[n] for n in names), f"{r['above_cut']:.1%}"] for r in copies.spread]
    note = "What different pictures reach is no sign of a copy, whatever the cut says."
    return Table("To the nearest training picture", ["of", *names.values(), CUT], rows, note)
