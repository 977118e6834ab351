"""The original's flags and the methods by name: from one to the other, and what a run's settings amount to.

Settings are a mapping with the names of the command line, as a run keeps them; those of old runs may lack some.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from memorization.errors import InputError
from memorization.mitigations.base import MITIGATIONS, PLAIN, Mitigation
from memorization.mitigations.perturb import AUGMENTATIONS
from memorization.needs import refuse_undefined
from memorization.registry import revised
from memorization.released import released_strength

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

CONTRAST = "contrast"  # what a run by contrast with the base is called
MASK_RUN_VERSION = "ours_A"  # magnitudes are weighted by the bright-ending mask
Settings = Mapping[str, object]


def flags_of_method(settings: Settings) -> dict[str, object]:
    """What `--method NAME --strength S` changes in the settings: a method with flags of its own becomes them.

    Raises:
        InputError: if only one of them is given, or flags besides, or the strength is none of the method's.
    """
    name, strength = settings["method"], settings["strength"]
    if name is None:
        if strength is not None:
            raise InputError("--strength is the knob of a --method: give both")
        return {}
    method = MITIGATIONS.get_known(str(name), "--method")
    if strength is None:
        strength = preset_strength(method)
    assert isinstance(strength, int | float)
    refuse_flags_beside(method, settings)
    if method.largest is not None and strength > method.largest:
        raise InputError(f"--strength of {name} is {method.knob}, {method.largest:g} at most")
    if method.whole and strength != round(strength):
        raise InputError(f"--strength of {name} is a whole number ({method.knob})")
    if method.flags is None:
        return {"strength": strength}
    off: dict[str, object] = {"method": None, "strength": None}
    return off | method.flags(strength) if strength else off


def preset_strength(method: Mitigation) -> float:
    """The strength that the method was released with.

    Raises:
        InputError: if there is none, or one per family of models.
    """
    strength = released_strength(method.released)
    if strength is None:
        told = {family: values["strength"] for family, values in method.released.items() if "strength" in values}
        known = "; it was released with " + " and ".join(f"{v:g} on {f}" for f, v in told.items()) if told else ""
        raise InputError(f"--method {method.name} needs --strength, {method.knob}{known}")
    return strength


def refuse_flags_beside(method: Mitigation, settings: Settings) -> None:
    """
    Raises:
        InputError: if a flag of another method is given as well.
    """
    flags = {name for m in MITIGATIONS.values() if m.flags is not None for name in m.flags(1)} - {"repeat_num"}
    if method.stops:
        flags -= {"optim_target_loss"}
    given = next((name for name in sorted(flags) if settings[name] is not None), None)
    restricted = settings["pr_mask"] and method.flags is None
    if given is not None or restricted:
        raise InputError(f"--method {method.name} does not combine with --{given or 'pr_mask'}")


def uses_masks(settings: Settings) -> bool:
    """Whether the mitigation that the settings ask for looks at bright-ending masks."""
    searches = settings.get("l_target_ss") is not None or settings.get("optim_target_loss") is not None
    measures = settings.get("method") is None and searches
    return bool(settings.get("pr_mask")) or (settings.get("run_version") == MASK_RUN_VERSION and measures)


def measures_first_step(settings: Settings) -> bool:
    """Whether the mitigation decides by, or lowers, the magnitude at the first step: PE, SS, PR and starting noise."""
    method = settings.get("method")
    if method is None:
        return any(settings.get(flag) is not None for flag in ("l_target_ss", "optim_target_loss", "l_target_pr"))
    record = MITIGATIONS.get(str(method))
    return bool(settings.get("strength")) and record is not None and (record.stops or record.reads == "latents")


def style_name(style: object) -> str:
    """The method that an augmentation style is: rna of rand_numb_add."""
    return next(
        n for n, m in MITIGATIONS.items() if m.flags is not None and m.flags(1).get("prompt_aug_style") == style
    )


def name_parts(settings: Settings, with_count: bool) -> list[str]:
    """The methods that the settings switch on, in the order in which they act."""
    style, parts = settings.get("prompt_aug_style"), []
    if style in AUGMENTATIONS:
        parts.append(style_name(style) + (str(settings.get("repeat_num")) if with_count else ""))
    switches = {"gni": "rand_noise_lam", "ss": "l_target_ss", "pe": "optim_target_loss", "pr": "l_target_pr"}
    return parts + [name for name, flag in switches.items() if settings.get(flag) is not None]


def methods_of(settings: Settings) -> list[Mitigation]:
    """The methods that the settings switch on; re-anchoring alone has no record of its own."""
    method = settings.get("method")
    names = [str(method)] if method is not None else name_parts(settings, with_count=False)
    return [MITIGATIONS[name] for name in names if name in MITIGATIONS]


def refuse_undefined_method(settings: Settings, pipe: "DenoisingPipeline") -> None:
    """
    Raises:
        InputError: if a method that the settings switch on is not defined for the model.
    """
    if settings.get("method") is None or settings.get("strength"):
        for method in methods_of(settings):
            refuse_undefined(method.name, method.needs, pipe)
    if settings.get("l_target_pr") is not None:
        refuse_undefined("re-anchoring", MITIGATIONS["prss"].needs, pipe)


def revisions_of(settings: Settings) -> dict[str, int] | None:
    """Revisions of the run's methods whose numbers changed since their first; None without any."""
    return revised({method.name: method.revision for method in methods_of(settings)})


def method_label(settings: Settings, with_count: bool = False) -> str:
    """What tables call the mitigation of a run: pe_be, prss_prmask, rna, ss_pe_pr, or a method's own name.

    Args:
        with_count: with the number of words behind rna, rt and cwr, as in names of files.
    """
    if settings.get("method") is not None:
        return str(settings["method"])
    if settings.get("contrast") is not None:
        return CONTRAST
    parts = name_parts(settings, with_count)
    name = "_".join(parts).replace("ss_pr", "prss") or PLAIN
    masked = "_be" if settings.get("run_version") == MASK_RUN_VERSION and parts else ""
    return name + masked + ("_prmask" if settings.get("pr_mask") else "")


def strength_of_settings(settings: Settings) -> float:
    """The strength of a run's mitigation: PE's or SS's target, scale of noise or contrast, number of words; else 0."""
    if settings.get("method") is not None:
        return number(settings.get("strength"))
    if settings.get("prompt_aug_style") in AUGMENTATIONS:
        return number(settings.get("repeat_num"))
    flags = ("contrast", "rand_noise_lam", "l_target_ss", "optim_target_loss")
    return next((number(settings[flag]) for flag in flags if settings.get(flag) is not None), 0.0)


def number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def is_weaker_when_larger(settings: Settings) -> bool:
    """Whether a larger strength of a run's mitigation hides less, as a target magnitude does."""
    method = settings.get("method")
    if method is not None:
        return method in MITIGATIONS and MITIGATIONS[str(method)].stronger == "less"
    return any(
        MITIGATIONS[name].stronger == "less" for name in name_parts(settings, with_count=False) if name in MITIGATIONS
    )
