"""What a run's settings amount to."""

from memorization.mitigations.options import is_weaker_when_larger


def test_a_larger_target_hides_less_and_a_larger_strength_of_any_other_method_more():
    assert is_weaker_when_larger({"optim_target_loss": 3.0}) and is_weaker_when_larger({"l_target_ss": 3.0})
    assert is_weaker_when_larger({"method": "pe", "strength": 3.0})
    assert not is_weaker_when_larger({"rand_noise_lam": 0.1})
    assert not is_weaker_when_larger({"method": "padding_fix", "strength": 1.0})
    assert not is_weaker_when_larger({"method": "of_a_plugin_not_loaded", "strength": 1.0})
