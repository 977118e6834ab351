"""What tables call the scores of rows."""

from memorization.scores import horizon_text, score_label


def test_a_score_carries_its_horizon_only_where_it_is_one_of_steps():
    assert horizon_text("text_noise_norm", 10) == "10" and horizon_text("text_noise_norm", None) == "all"
    assert horizon_text("end_token_attention", None) == "last", "known when the last step is, in every run"
    assert horizon_text("sharpness", None) == "-"
    assert horizon_text("of_a_plugin_not_loaded", None) == "all"
    assert score_label("text_noise_norm", 1) == "D, T=1"
    assert score_label("end_token_attention", None) == "end-token attention"
