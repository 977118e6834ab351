"""What mitigations do to ordinary prompts, on made-up runs."""

import numpy as np
import pytest

from helpers.eval_runs import mixed, write_descriptor, write_ground_truth, write_mitigation
from memorization import InputError, evaluate


def test_damage_is_against_the_plain_image_of_the_same_seed(tmp_path):
    root, descriptor = write_ground_truth(tmp_path), write_descriptor(tmp_path)
    plain = [mixed(i, 0) for i in range(4)]
    other = plain[3][1].copy()
    other[:8, :8] = 255 - other[:8, :8]
    some = [*plain[:3], np.stack([plain[3][0], other])]  # one image of eight is another, in one quarter
    paths = [
        write_mitigation(root, "p", "none", None, plain),
        write_mitigation(root, "a", "pe", 2.0, some),
        write_mitigation(root, "b", "pe", 1.0, [mixed(i, 1) for i in range(4)]),
    ]
    rows = evaluate("damage", paths, sscd=descriptor, replicates=50).results
    assert [(r["method"], r["strength"]) for r in rows] == [("none", 0), ("pe", 2), ("pe", 1)]
    assert [r["changed"]["value"] for r in rows] == [0, 1 / 8, 1]
    kept = [r["kept"]["value"] for r in rows]
    assert kept[0] == pytest.approx(1, abs=1e-5) and 7 / 8 - 1 / 8 <= kept[1] < 1 and kept[2] < kept[1]
    with pytest.raises(InputError, match="none of the runs is plain generation"):
        evaluate("damage", paths[1:])
