"""What a run's settings amount to."""

import pytest

from memorization.detectors.base import DETECTORS
from memorization.errors import InputError
from memorization.files.config import differences
from memorization.mitigations.base import MITIGATIONS
from memorization.mitigations.options import is_weaker_when_larger, preset_strength, revisions_of


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


def test_a_run_made_before_what_its_method_computes_changed_is_not_gone_on_with():
    flags = ("prompt_aug_style", "rand_noise_lam", "l_target_ss", "optim_target_loss", "l_target_pr")
    off = dict.fromkeys(flags)
    by_flag = revisions_of(off | {"method": None, "prompt_aug_style": "rand_word_add", "rand_noise_lam": 0.1})
    assert by_flag == {"rt": 2, "gni": 2} and revisions_of(off | {"method": "sail"}) == {"sail": 2}
    assert revisions_of(off | {"method": None, "optim_target_loss": 1.0}) is None
    assert differences({"method": "sail"}, {"method": "sail", "revisions": {"sail": 2}}) == [
        "what sail computes has changed since"
    ]


def test_what_bears_an_authors_name_says_what_it_was_released_with():
    lacking = {m.name for m in MITIGATIONS.values() if not m.released}
    assert lacking == {m.name for m in MITIGATIONS.values() if m.source == "ours"} == {"cfg_delay_capped", "neuron_off"}


@pytest.mark.parametrize("registry", [DETECTORS, MITIGATIONS])
def test_records_are_in_the_order_of_their_files_whichever_was_imported_first(registry):
    files = [r.function.__module__ for r in registry.values() if r.function.__module__.startswith(registry.package)]
    assert files == sorted(files) and len(files) >= 22
