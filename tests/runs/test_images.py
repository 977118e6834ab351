"""All images of a run in one npz."""

import numpy as np
import pytest

from memorization.errors import InputError
from memorization.files.npz import Streamed, write_npz
from memorization.files.whole import save_png
from memorization.runs.images import read_equal


def images_npz(path, pngs, shape):
    write_npz(path, {"images": Streamed((len(pngs), *shape), np.uint8, read_equal(pngs, shape))})


def test_streamed_npz_equals_savez_and_refuses_images_of_two_sizes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 4, 3), dtype=np.uint8)
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, image in zip(paths, images, strict=True):
        save_png(path, image)
    images_npz(tmp_path / "a.npz", paths, (6, 4, 3))
    np.savez(tmp_path / "b.npz", images=images)
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert a.files == b.files and a["images"].dtype == b["images"].dtype
        assert np.array_equal(a["images"], b["images"])
    before = (tmp_path / "a.npz").read_bytes()
    save_png(paths[2], images[2][:5])
    with pytest.raises(InputError, match="differ in size"):
        images_npz(tmp_path / "a.npz", paths, (6, 4, 3))
    paths[1].write_bytes(b"torn")
    with pytest.raises(InputError, match="1.png is not a readable image"):
        images_npz(tmp_path / "a.npz", paths, (6, 4, 3))
    assert (tmp_path / "a.npz").read_bytes() == before and not list(tmp_path.glob("*.tmp"))
