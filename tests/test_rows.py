"""What the columns of a row must be."""

import pytest

from memorization.errors import InputError
from memorization.rows import are_scores, check_row, find_fault, score_names

ROW = {"index": 3, "prompt": "p", "seeds": [30, 31], "kind": None, "text_noise_norm": [[1.0, 2], [3, 4.0]]}


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ([1, 2.5], True),
        ([[1], [2]], True),
        ([1], False),
        ([[1], [2, 3]], False),
        ([[], []], False),
        ([1, [2]], False),
        ([1, float("nan")], False),
        ([True, 1], False),
        ([1, 10**400], False),
        ("ab", False),
    ],
)
def test_scores_are_a_number_or_as_many_steps_per_image(values, right):
    assert are_scores(values, 2) is right


@pytest.mark.parametrize(
    ("changes", "needed", "fault"),
    [
        ({}, ("seeds", "prompt", "text_noise_norm"), None),
        ({}, ("seeds", "triggered"), "triggered"),
        ({"triggered": [1, 0]}, (), "triggered"),
        ({"seeds": []}, (), "seeds"),
        ({"seeds": [2**63, 1]}, (), "seeds"),
        ({"kind": 3}, (), "kind"),
        ({"text_noise_norm": [1.0]}, (), "text_noise_norm"),
        ({}, ("seeds", "of_another_script"), "of_another_script"),
    ],
)
def test_the_first_fault_of_a_row(changes, needed, fault):
    assert find_fault(ROW | changes, needed) == fault


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "a row of another version, without index, prompt, seeds"),
        ({"index": 1, "prompt": "p"}, "without seeds; run the script again"),
        (ROW | {"index": -1}, "index and seeds are not whole numbers"),
        (ROW | {"prompt": 5}, "prompt is not what a run writes"),
        (ROW | {"sharpness": [1.0]}, "sharpness is of 1 images, the row's seeds are 2"),
        (ROW | {"sharpness": [1.0, float("inf")]}, "sharpness holds NaN or infinity"),
        (ROW | {"sharpness": [[1.0], [1.0, 2.0]]}, "sharpness has steps or images missing"),
    ],
)
def test_a_row_that_is_read_back_is_refused_by_file_and_line(row, message):
    with pytest.raises(InputError, match=f"^x.jsonl, line 4: .*{message}"):
        check_row("x.jsonl", 4, row)


def test_scores_are_told_from_other_lists():
    assert check_row("x", 1, dict(ROW)) == ROW
    assert score_names(ROW | {"latent_norm": [1.0, 2.0], "triggered": [True, False]}) == ["text_noise_norm"]
