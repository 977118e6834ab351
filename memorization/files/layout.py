"""Where the files of a run lie, each name once."""

from dataclasses import dataclass
from pathlib import Path

from memorization.files.config import config_path

ROWS_FOLDER, IMAGES_FOLDER, ATTENTION_FOLDER = "det_outputs", "images_data", "attn_data"
MITIGATION_SUFFIX = "_mitigation"  # of the rows of inference_mem.py
SHARED_MASKS = "mit_attn_scores"  # masks that mitigation runs make for one another


@dataclass(frozen=True)
class RunFiles:
    """Files of one run below an output folder.

    Attributes:
        output_dir: what `--output_dir` names.
        key: name of the run with its version or method, part of every name.
        is_mitigation: whether the rows are of inference_mem.py.
    """

    output_dir: Path
    key: str
    is_mitigation: bool = False

    @classmethod
    def of_rows(cls, path: Path) -> "RunFiles":
        """The files of the run whose rows lie at `path`."""
        is_mitigation = path.stem.endswith(MITIGATION_SUFFIX)
        return cls(path.resolve().parent.parent, path.stem.removesuffix(MITIGATION_SUFFIX), is_mitigation)

    @property
    def rows_name(self) -> str:
        """Name that rows, settings and logs share."""
        return self.key + (MITIGATION_SUFFIX if self.is_mitigation else "")

    @property
    def rows(self) -> Path:
        return self.output_dir / ROWS_FOLDER / f"{self.rows_name}.jsonl"

    @property
    def columns(self) -> Path:
        """Rows of a screen, in columns."""
        return self.rows.with_suffix(".parquet")

    @property
    def column_parts(self) -> Path:
        """Folder of a screen's finished parts."""
        return self.output_dir / ROWS_FOLDER / f"{self.rows_name}_parts"

    @property
    def config(self) -> Path:
        """Settings and versions of the run."""
        return config_path(self.rows)

    @property
    def decisions(self) -> Path:
        return self.rows.with_suffix(".decisions.jsonl")

    @property
    def similarity(self) -> Path:
        return self.rows.with_suffix(".similarity.jsonl")

    @property
    def images(self) -> Path:
        """Folder of the images."""
        return self.output_dir / IMAGES_FOLDER / self.key

    def image(self, index: int, seed: int) -> Path:
        return self.images / f"{index}_{seed}.png"

    @property
    def images_npz(self) -> Path:
        return images_npz(self.output_dir, self.key)

    @property
    def attention(self) -> Path:
        """Folder of masks and maps."""
        return self.output_dir / ATTENTION_FOLDER

    @property
    def masks(self) -> Path:
        return self.attention / f"{self.key}_attention_scores.npz"

    @property
    def mask_parts(self) -> Path:
        return self.attention / f"{self.key}_parts"

    def whole_attention(self, index: int) -> Path:
        """Attention to every token of one prompt, until the run's file is made of it."""
        return self.mask_parts / f"{index}.npy"

    @property
    def shared_masks(self) -> Path:
        return self.attention / f"{SHARED_MASKS}.npz"

    @property
    def shared_mask_parts(self) -> Path:
        return self.attention / f"{SHARED_MASKS}_parts"

    @property
    def maps(self) -> Path:
        """Folder of maps for localisation."""
        return self.attention / f"{self.key}_maps"

    def map(self, index: int) -> Path:
        return self.maps / f"{index}.npz"


def images_npz(output_dir: Path, name: str) -> Path:
    """All images in one file, of a run's key or, the newest of them, of its `--run_name`."""
    return output_dir / IMAGES_FOLDER / f"{name}_generated_images.npz"
