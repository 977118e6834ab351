"""The table that inference_mem.py prints at the end of a run."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from memorization.tables import format_table

MEASURES = ("magnitude_before", "magnitude_after", "pixel_similarity")
WANTED = ("kind", "triggered", "unet_evals_per_image", *MEASURES)


def mitigation_summary(method: str, rows: Iterable[Mapping]) -> str:
    """Markdown table, one line per kind of prompt: what the mitigation did to magnitude and similarity.

    Args:
        rows: read once; kept are a few numbers per image.
    """
    few = [{k: row[k] for k in WANTED if k in row} for row in rows]
    kinds: list[str | None] = [*sorted({row["kind"] for row in few if row["kind"]})]
    measures = [m for m in MEASURES if any(m in row for row in few)]
    table = []
    for kind in [*kinds, None] if len(kinds) != 1 else kinds:
        some = [row for row in few if kind is None or row["kind"] == kind]
        triggered = [t for row in some for t in row["triggered"]]
        means = [mean([v for row in some for v in row.get(m, ())]) for m in measures]
        evals = float(np.mean([row["unet_evals_per_image"] for row in some]))
        table.append([kind or "all", *means, f"{sum(triggered)} of {len(triggered)}", evals])
    headers = ["prompts", *(m.replace("_", " ") for m in measures), "triggered", "UNet evaluations per image"]
    return f"method {method}\n{format_table(headers, table)}"


def mean(values: Sequence[float]) -> float:
    """Mean, NaN of nothing: as of similarity where no prompt of a kind has a training image."""
    return float(np.mean(values)) if values else float("nan")
