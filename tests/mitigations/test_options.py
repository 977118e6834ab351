"""What a run's settings amount to."""

import pytest

from memorization.errors import InputError
from memorization.mitigations.base import MITIGATIONS
from memorization.mitigations.options import is_weaker_when_larger, preset_strength


def test_a_larger_target_hides_less_and_a_larger_strength_of_any_other_method_more():
    assert is_weaker_when_larger({"optim_target_loss": 3.0}) and is_weaker_when_larger({"l_target_ss": 3.0})
    assert is_weaker_when_larger({"method": "pe", "strength": 3.0})
    assert not is_weaker_when_larger({"rand_noise_lam": 0.1})
    assert not is_weaker_when_larger({"method": "padding_fix", "strength": 1.0})
    assert not is_weaker_when_larger({"method": "of_a_plugin_not_loaded", "strength": 1.0})


PRESETS = {
    "cfg_delay": 0.5,
    "cfg_delay_dynamic": 1,
    "cfg_opposite": 2,
    "guard": 2,
    "guard_unprojected": 2,
    "attention_attenuate": 0.7,
    "attention_rescale": 0.25,
    "padding_fix": 1,
    "padding_mask": 0.7,
    "gni": 0.1,
    "rna": 4,
    "rt": 4,
    "cwr": 4,
}


@pytest.mark.parametrize("name", PRESETS)
def test_without_a_strength_a_method_is_as_it_was_released(name):
    assert preset_strength(MITIGATIONS[name]) == PRESETS[name]


def test_a_variant_of_ours_has_no_preset_and_is_nobody_elses():
    assert MITIGATIONS["cfg_delay_capped"].source == "ours"
    with pytest.raises(InputError, match="needs --strength"):
        preset_strength(MITIGATIONS["cfg_delay_capped"])
