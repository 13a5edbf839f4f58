"""Claims judged from made-up lines: borne out, refuted, or lost in the noise of the seeds."""

import pytest
from harness.verdict import checks

HOLDS, UNCLEAR, NOT = "holds", "not distinguishable", "does not hold"


@pytest.fixture
def runs(make_line):
    """Three seeds of a variant."""

    def three(variant, acc, *, store_bytes=100_000, flops=1e9, noise=(0.0, 0.0, 0.0), **changes):
        """Seeds differ by thousandths; `noise` is what this variant has for itself."""
        changes = {"isolation": "exact", "training_flops": flops, **changes}
        return {
            variant: [make_line(variant, seed, acc=acc + seed / 1000 + own, store_bytes=store_bytes, **changes) for seed, own in enumerate(noise)]
        }

    return three


def found(lines, words):
    """The one check whose claim holds these words."""
    (check,) = [check for check in checks(lines) if words in check.claim]
    return check


def test_exact_strategies_forget_nothing(runs, make_line):
    assert found(runs("tsn-10", 0.7), "bwt is exactly 0").words == "holds"
    moved = {"R": [[0.7, None], [0.6999, 0.7]], "bwt": -0.0001}
    check = found({"tsn-10": [make_line("tsn-10", isolation="exact"), make_line("tsn-10", 1, isolation="exact", **moved)]}, "bwt is exactly 0")
    assert check.words == "does not hold so far (2 of 3 seeds)"
    assert check.numbers == "2 runs of 1 variants; largest change of any accuracy after its task: 0.0001"


def test_a_task_that_fell_and_rose_again_has_changed(make_line):
    accuracies = [[0.7, None, None], [0.6, 0.7, None], [0.7, 0.7, 0.7]]
    assert found({"wsn-10": [make_line("wsn-10", isolation="exact", R=accuracies)]}, "bwt is exactly 0").outcome == NOT


@pytest.mark.parametrize(
    ("bwt", "outcome"), [((-0.2, -0.21, -0.22), HOLDS), ((-0.2, 0.1, -0.1), UNCLEAR), ((0.0, 0.0, 0.0), UNCLEAR), ((0.1, 0.11, 0.12), NOT)]
)
def test_fine_tuning_forgets(make_line, bwt, outcome):
    lines = {"finetune": [make_line("finetune", seed, isolation="none", bwt=value) for seed, value in enumerate(bwt)]}
    assert found(lines, "fine-tuning forgets").words == outcome


def test_joint_training_is_the_upper_bound(runs):
    lines = {**runs("joint", 0.8, isolation="none"), **runs("er", 0.7, isolation="none"), **runs("er-class", 0.9, isolation="none")}
    check = found(lines, "joint training is the best")
    assert (check.words, check.numbers, check.sides) == (HOLDS, "the nearest is `er`: -10.00 ± 0.00 points", ("er", "joint"))
    noisy = {**lines, **runs("der", 0.65, isolation="none", noise=(-0.15, 0.0, 0.15))}
    check = found(noisy, "joint training is the best")
    assert (check.words, check.sides) == (UNCLEAR, ("der", "joint")), "der is lower on the mean, but not for sure below"
    assert found({**noisy, **runs("derpp", 0.81, isolation="none")}, "joint training is the best").words == NOT


@pytest.mark.parametrize(
    ("acc", "noise", "outcome"),
    [
        (0.79, (0.001, 0.0, -0.001), HOLDS),
        (0.79, (0.01, 0.0, -0.01), UNCLEAR),
        (0.78, (0.01, 0.0, -0.01), UNCLEAR),
        (0.78, (0.001, 0.0, -0.001), NOT),
    ],
)
def test_accuracy_beside_wsn_in_float32(runs, acc, noise, outcome):
    lines = {**runs("tsn-10", acc, noise=noise), **runs("wsn-fp32-10", 0.8), **runs("wsn-fp32-05", 0.8)}
    assert found(lines, "within 1.5 points of WSN").words == outcome


@pytest.mark.parametrize(("size", "outcome"), [(30_000, HOLDS), (40_000, NOT)])
def test_bytes_beside_wsn_in_float32(runs, size, outcome):
    check = found({**runs("tsn-10", 0.7, store_bytes=size), **runs("wsn-fp32-10", 0.8)}, "less than a third of the bytes of WSN")
    assert check.words == outcome
    assert check.numbers == f"{size / 1000:.1f} against 100.0 kB: {size / 100_000:.3f} ± 0.000"


def test_bytes_that_scatter_around_a_third_are_not_distinguishable(make_line):
    lines = {
        "tsn-10": [make_line("tsn-10", seed, store_bytes=size) for seed, size in enumerate((31_000, 33_000, 35_000))],
        "wsn-fp32-10": [make_line("wsn-fp32-10", seed) for seed in range(3)],
    }
    check = found(lines, "less than a third of the bytes of WSN")
    assert (check.words, check.numbers) == (UNCLEAR, "33.0 against 100.0 kB: 0.330 ± 0.020")


def test_small_vectors_beside_wsn_in_float32(runs):
    lines = {**runs("tsn-10", 0.7, store_bytes=50_000), **runs("tsn-10-small", 0.79, store_bytes=30_000), **runs("wsn-fp32-10", 0.8)}
    assert [check.words for check in checks(lines) if "of WSN" in check.claim] == [NOT, NOT, HOLDS, HOLDS]
    assert found(lines, "4-bit heads, takes less than a third").numbers == "30.0 against 100.0 kB: 0.300 ± 0.000"


def test_only_seeds_of_both_sides_count(runs):
    lines = {**runs("tsn-10", 0.8), **runs("wsn-fp32-10", 0.8)}
    lines["wsn-fp32-10"] = lines["wsn-fp32-10"][:2]
    assert found(lines, "within 1.5 points of WSN").words == "holds so far (2 of 3 seeds)"
    lines["tsn-10"] = lines["tsn-10"][2:]
    assert not [check for check in checks(lines) if "of WSN" in check.claim]


@pytest.mark.parametrize(
    ("acc", "noise", "outcome", "front"),
    [
        (0.6, (0.0, 0.0, 0.0), HOLDS, "`p0`, `tsn-10`"),
        (0.51, (-0.1, 0.0, 0.1), UNCLEAR, "`p0`, `tsn-10`"),
        (0.4, (0.0, 0.0, 0.0), NOT, "`p0`"),
    ],
)
def test_the_front_needs_a_point_of_ours(runs, acc, noise, outcome, front):
    points = {name: own for index in range(11) for name, own in runs(f"p{index}", 0.5, store_bytes=1000 * (index + 2)).items()}
    check = found({**points, **runs("tsn-10", acc, store_bytes=50_000, noise=noise)}, "on the front")
    assert (check.words, check.numbers) == (outcome, f"12 points; on the front: {front}")


def test_the_smallest_point_is_on_the_front(runs):
    points = {name: own for index in range(11) for name, own in runs(f"p{index}", 0.5).items()}
    assert found({**points, **runs("tsn-10", 0.1, store_bytes=50_000)}, "on the front").words == HOLDS


def test_a_front_needs_points(runs):
    assert found(runs("tsn-10", 0.6), "on the front").words == NOT


@pytest.mark.parametrize(
    ("acc", "noise", "outcome"), [(0.72, (0.0, 0.001, 0.0), HOLDS), (0.7107, (0.007, 0.0, -0.007), UNCLEAR), (0.7, (0.0, 0.001, 0.0), NOT)]
)
def test_the_control_of_sharing(runs, acc, noise, outcome):
    lines = {**runs("tsn-10", acc, store_bytes=50_000, noise=noise), **runs("alone-10", 0.71, store_bytes=80_000)}
    assert found(lines, "takes fewer bytes than `alone-10`").numbers == "50.0 against 80.0 kB: 0.625 ± 0.000"
    assert found(lines, "takes fewer bytes than `alone-10`").words == HOLDS
    assert found(lines, "more accurate than `alone-10`").words == outcome


@pytest.mark.parametrize(
    ("always", "never", "noise", "outcome", "numbers"),
    [
        (0.7, 0.65, (0.0, 0.0, 0.0), HOLDS, "the better is `tsn-10`: -0.20 ± 0.00 points"),
        (0.7, 0.65, (0.01, 0.0, -0.01), UNCLEAR, "the better is `tsn-10`: -0.20 ± 1.00 points"),
        (0.7, 0.72, (0.0, 0.0, 0.0), NOT, "the better is `alone-10`: -2.20 ± 0.00 points"),
    ],
)
def test_parents_found_by_similarity(runs, always, never, noise, outcome, numbers):
    lines = {**runs("tsn-10", always), **runs("alone-10", never), **runs("tsn-10-knn", 0.698, noise=noise)}
    check = found(lines, "parents are found by similarity")
    assert (check.words, check.numbers) == (outcome, numbers)
    del lines["alone-10"]
    assert not [check for check in checks(lines) if "similarity" in check.claim]


def test_sparse_replay_beside_replay(runs):
    lines = {
        **runs("er", 0.7, flops=4e9),
        **runs("sparcl-er", 0.69, flops=1e9),
        **runs("er-class", 0.3, flops=1e9),
        **runs("sparcl-er-class", 0.29, flops=2e9),
    }
    assert found(lines, "`sparcl-er` trains").words == HOLDS
    assert found(lines, "`sparcl-er` trains").numbers == "0.250 ± 0.000 of the operations, -1.00 ± 0.00 points"
    assert found(lines, "`sparcl-er-class` trains").words == NOT
    assert found(lines, "`sparcl-er-class` is more accurate").words == NOT


def test_esacls_ablation(runs):
    lines = {**runs("esacl", 0.7), **runs("esacl-sdp", 0.6), **runs("esacl-plain", 0.65, noise=(0.02, 0.0, -0.02))}
    assert found(lines, "SDP with IDS is better").words == HOLDS
    lines.update(runs("esacl-plain", 0.65, noise=(0.05, 0.0, -0.05)))
    assert found(lines, "SDP with IDS is better").words == UNCLEAR
    assert found(lines, "SDP is better").words == UNCLEAR
