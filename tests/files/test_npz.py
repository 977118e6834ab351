"""Arrays in npz files, written and read piece by piece."""

import numpy as np

from memorization.files.npz import open_array, slabs, write_npz
from memorization.files.whole import replace_link


def test_arrays_are_read_in_place_or_slab_by_slab_and_a_link_replaced(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
    write_npz(tmp_path / "all.npz", {"images": images, "name": np.array("x"), "none": np.empty((0, 3))})
    np.savez_compressed(tmp_path / "small.npz", images=images)
    replace_link(tmp_path / "all.npz", tmp_path / "newest.npz")
    for name in ("newest.npz", "small.npz"):
        assert np.array_equal(open_array(tmp_path / name, "images"), images)
        assert all(np.array_equal(a, b) for a, b in zip(slabs(tmp_path / name, "images"), images, strict=True))
    assert isinstance(open_array(tmp_path / "all.npz", "images"), np.memmap)
    assert open_array(tmp_path / "all.npz", "none").shape == (0, 3)
    assert str(open_array(tmp_path / "all.npz", "name")) == "x"
