"""What is timed alone."""

from types import SimpleNamespace

from experiments.cost.time_methods import score_jobs
from memorization.detectors.base import DETECTORS


def test_every_score_is_timed_alone_but_those_that_need_a_base():
    jobs = SimpleNamespace(steps=50, num_images=4, detection=lambda **options: options)
    found = score_jobs(jobs)
    assert found["anisotropy"]()["scores"] == "anisotropy"
    assert {n for n, d in DETECTORS.items() if not d.always} - found.keys() == {"tuned_minus_base"}
