"""The comparison of encodings: masks of several densities and granularities, bit widths, planes, small vectors, and what they are judged by."""

from __future__ import annotations

from collections.abc import Sequence

from harness.variants import NOBODY, SMALL, Variant, dense_variants, density_keys, frozen_variant

DENSITIES = (0.5, 0.2, 0.1, 0.05)


def encoding_variants(*, by_layer_names: bool) -> tuple[Variant, ...]:
    """Every encoding, in the order of the table.

    Args:
        by_layer_names: the network is `alexnet_cifar`, for whose layers there are densities by hand, the first of them a small one.
    """
    return (
        *dense_variants(),
        *(_masked(rule, density, by_layer_names) for rule in ("uniform", "erk", "learned") for density in DENSITIES),
        *_bit_widths(),
        *_granularities(),
        *_encodings(by_layer_names),
        *_small_parts(),
        *_best(by_layer_names),
        *_controls(),
    )


def _masked(rule: str, density: float, small_layer: bool) -> Variant:
    name = f"{rule}-{round(100 * density):02d}"
    full = rule != "uniform" and density >= (0.2 if small_layer else 0.5)  # a layer may get density 1
    settings = (*density_keys(density, rule), *(LAYER_OWNED_WHOLE if full else ()))
    return Variant(name, f"element masks, density {density} {_RULES[rule]}, 4-bit codes", settings, f"density {_RULES[rule]}")


_RULES = {"uniform": "in every layer", "erk": "by layer (ERK)", "learned": "by layer (learned)"}


LAYER_OWNED_WHOLE = ("trunk.word_bits=64",)
"""For layers that every one of ten tasks owns whole."""

ERK_05 = density_keys(0.05, "erk")
"""What fewer bits, small vectors and rewards are tried on."""


def _bit_widths() -> tuple[Variant, ...]:
    return (
        Variant("erk-05-2bit", "as erk-05, 2-bit codes", (*ERK_05, "plan.bit_width=2"), "bits per code"),
        Variant("erk-05-adapted", "as erk-05, at most 4 bits, adapted", (*ERK_05, "plan.adapt_bits=true"), "bits per code"),
    )


def _granularities() -> tuple[Variant, ...]:
    def variant(name: str, what: str, granularity: str, density: float, *overrides: str) -> Variant:
        return Variant(name, f"{what}, 4-bit codes", (f"plan.granularity={granularity}", *density_keys(density), *overrides), "granularity")

    return (
        variant("block4-20", "blocks of 4 inputs, density 0.2 in every layer", "block(4)", 0.2),
        variant("block16-20", "blocks of 16 inputs, density 0.2 in every layer", "block(16)", 0.2),
        variant("nm-2-4", "2 of every 4 inputs", "2:4", 0.5),
        variant("unit-50", "half of the units, all their weights", "unit", 1.0, "plan.units_keep=0.5"),
    )


def _encodings(small_layer: bool) -> tuple[Variant, ...]:
    settings = ("plan.encoding=planes", *density_keys(1.0), *(LAYER_OWNED_WHOLE if small_layer else ()))  # the small layer has codes
    return (Variant("planes", "one plane of signs per task over the parent", settings, "planes"),)


def _small_parts() -> tuple[Variant, ...]:
    reward = "strategy.options.reuse_bonus=0.1"
    return (
        Variant("erk-05-vectors8", "as erk-05, int8 vectors, 4-bit heads", (*ERK_05, *SMALL), "small vectors"),
        Variant("erk-05-reuse", "as erk-05, reuse of the parent's slots rewarded", (*ERK_05, reward), "reuse bonus"),
    )


LAYERS = ("features.0.0", "features.1.0", "features.2.0", "hidden.0.0", "hidden.1.0")
"""Of `alexnet_cifar`: convolutions, whose weights work at every position, and linear layers, whose weights work once."""


PLANES = "encoding: planes"


def _by_layer(key: str, values: Sequence[float | str | None]) -> str:
    """One density, or some keys, per layer, as one would write them into the plan; None leaves a layer as it is."""
    said = [f"{name}: {{{f'density: {value}' if isinstance(value, float) else value}}}" for name, value in zip(LAYERS, values, strict=True) if value]
    return f"plan.{key}={{{', '.join(said)}}}"


def _best(by_layer_names: bool) -> tuple[Variant, ...]:
    """Several savings together, over the densities that suit the network."""
    more: tuple[Variant, ...] = ()
    if by_layer_names:
        by_hand = (*density_keys(0.05), _by_layer("layer_overrides", (0.6, 0.3, 0.15, 0.01, 0.02)))
        layers = (*density_keys(0.05), _by_layer("layer_overrides", (0.6, PLANES, PLANES, 0.01, 0.02)), "trunk.word_bits=32")
        settings = (*layers, *SMALL, "plan.bit_width=3")
        what = "planes in two convolutions, 0.6 of the first, 0.01, 0.02 of the linear layers, 3-bit codes, int8 vectors, 4-bit heads"
        child = _by_layer("child_overrides", (0.4, None, None, 0.005, 0.01))
        more = (
            _wide("wide", 3),
            _wide("wide-2bit", 2),
            Variant("convs-denser", "0.6, 0.3, 0.15 of the convolutions, 0.01, 0.02 of the linear layers, 4-bit codes", by_hand, "density by hand"),
            Variant("mixed", what, settings, "best combination"),
        )
        what = "as mixed; later tasks own 0.4, 0.005, 0.01, in place of or beside what the parent uses"
        best = Variant("best", what, (*settings, child), "best combination")
    else:
        settings = (*ERK_05, *SMALL, "plan.bit_width=3")
        best = Variant("best", "as erk-05, 3-bit codes, int8 vectors, 4-bit heads", settings, "best combination")
    alone = Variant("alone-best", "control: as best, nothing inherited", (*settings, *NOBODY), "no sharing (control)")
    return (*more, best, alone)


def _wide(name: str, bits: int) -> Variant:
    """For accuracy: later tasks have two convolutions of their own, at so many bits."""
    whole = f"encoding: codes, density: 1.0, granularity: element, bit_width: {bits}"
    layers = _by_layer("layer_overrides", (1.0, PLANES, PLANES, 0.02, 0.04))
    settings = (*density_keys(0.05), layers, _by_layer("child_overrides", (1.0, whole, whole, 0.02, 0.04)), "trunk.word_bits=48", *SMALL)
    what = f"later tasks own all of the convolutions, {bits} and 4 bits, and 0.02, 0.04 of the linear layers"
    return Variant(name, what, settings, "best combination")


def _controls() -> tuple[Variant, ...]:
    """What the same bytes buy without sharing, and sharing without own weights. Wider words: nobody reads what another task owns."""

    def alone(name: str, *overrides: str) -> Variant:
        return Variant(f"alone-{name}", f"control: as {name}, nothing inherited", (*overrides, *NOBODY), "no sharing (control)")

    return (
        alone("uniform-10", *density_keys(0.1)),
        alone("erk-05", *ERK_05),
        alone("planes", "plan.encoding=planes", *density_keys(1.0)),
        frozen_variant("frozen-heads", "a head per task"),
        frozen_variant("frozen-norms", "norms and a head per task", "strategy.options.norms=true"),
    )
