"""Claims judged from made-up lines, each once borne out and once not."""

import pytest
from harness.verdict import checks


@pytest.fixture
def runs(make_line):
    """Three seeds of a variant."""

    def three(variant, acc, *, store_bytes=100_000, flops=1e9, **changes):
        changes = {"isolation": "exact", "training_flops": flops, **changes}
        return {variant: [make_line(variant, seed, acc=acc + seed / 1000, store_bytes=store_bytes, **changes) for seed in range(3)]}

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
    assert not found({"wsn-10": [make_line("wsn-10", isolation="exact", R=accuracies)]}, "bwt is exactly 0").holds


@pytest.mark.parametrize(("bwt", "holds"), [(-0.2, True), (0.0, False)])
def test_fine_tuning_forgets(runs, bwt, holds):
    assert found(runs("finetune", 0.4, isolation="none", bwt=bwt), "fine-tuning forgets").holds is holds


def test_joint_training_is_the_upper_bound(runs):
    lines = {**runs("joint", 0.8, isolation="none"), **runs("er", 0.7, isolation="none"), **runs("er-class", 0.9, isolation="none")}
    check = found(lines, "joint training is the best")
    assert (check.holds, check.numbers) == (True, "the nearest is `er`: -10.00 ± 0.00 points")
    assert not found({**lines, **runs("derpp", 0.81, isolation="none")}, "joint training is the best").holds


@pytest.mark.parametrize(("acc", "size", "near", "small"), [(0.79, 30_000, True, True), (0.78, 40_000, False, False)])
def test_beside_wsn_in_float32(runs, acc, size, near, small):
    lines = {**runs("tsn-10", acc, store_bytes=size), **runs("wsn-fp32-10", 0.8, store_bytes=100_000), **runs("wsn-fp32-05", 0.8)}
    assert found(lines, "within 1.5 points of WSN").holds is near
    check = found(lines, "less than a third of the bytes of WSN")
    assert check.holds is small
    assert check.numbers == f"{size / 1000:.1f} against 100.0 kB: {size / 100_000:.3f}"


def test_small_vectors_beside_wsn_in_float32(runs):
    lines = {**runs("tsn-10", 0.7, store_bytes=50_000), **runs("tsn-10-small", 0.79, store_bytes=30_000), **runs("wsn-fp32-10", 0.8)}
    assert [check.holds for check in checks(lines) if "of WSN" in check.claim] == [False, False, True, True]
    assert found(lines, "4-bit heads, takes less than a third").numbers == "30.0 against 100.0 kB: 0.300"


def test_only_seeds_of_both_sides_count(runs):
    lines = {**runs("tsn-10", 0.8), **runs("wsn-fp32-10", 0.8)}
    lines["wsn-fp32-10"] = lines["wsn-fp32-10"][:2]
    assert found(lines, "within 1.5 points of WSN").words == "holds so far (2 of 3 seeds)"


def test_the_front_needs_points_and_one_of_ours(runs):
    points = {name: own for index in range(11) for name, own in runs(f"p{index}", 0.5, store_bytes=1000 * (index + 2)).items()}
    check = found({**points, **runs("tsn-10", 0.6, store_bytes=50_000)}, "on the front")
    assert (check.holds, check.numbers) == (True, "12 points; on the front: `p0`, `tsn-10`")
    assert not found({**points, **runs("tsn-10", 0.4, store_bytes=50_000)}, "on the front").holds
    assert not found(runs("tsn-10", 0.6), "on the front").holds


def test_the_control_of_sharing(runs):
    lines = {**runs("tsn-10", 0.7, store_bytes=50_000), **runs("alone-10", 0.71, store_bytes=80_000)}
    assert found(lines, "takes fewer bytes than `alone-10`").numbers == "50.0 against 80.0 kB: 0.625"
    assert found(lines, "takes fewer bytes than `alone-10`").holds
    assert not found(lines, "more accurate than `alone-10`").holds


@pytest.mark.parametrize(("always", "never", "acc", "holds", "numbers"), [
    (0.7, 0.65, 0.698, True, "the better is `tsn-10`: -0.20 ± 0.00 points"),
    (0.7, 0.72, 0.7, False, "the better is `alone-10`: -2.00 ± 0.00 points"),
])
def test_parents_found_by_similarity(runs, always, never, acc, holds, numbers):
    lines = {**runs("tsn-10", always), **runs("alone-10", never), **runs("tsn-10-knn", acc)}
    check = found(lines, "parents are found by similarity")
    assert (check.holds, check.numbers) == (holds, numbers)
    del lines["alone-10"]
    assert not [check for check in checks(lines) if "similarity" in check.claim]


def test_sparse_replay_beside_replay(runs):
    lines = {
        **runs("er", 0.7, flops=4e9),
        **runs("sparcl-er", 0.69, flops=1e9),
        **runs("er-class", 0.3, flops=1e9),
        **runs("sparcl-er-class", 0.29, flops=2e9),
    }
    assert found(lines, "`sparcl-er` trains").holds
    assert found(lines, "`sparcl-er` trains").numbers == "0.250 of the operations, -1.00 ± 0.00 points"
    assert not found(lines, "`sparcl-er-class` trains").holds
    assert not found(lines, "`sparcl-er-class` is more accurate").holds


def test_esacls_ablation(runs):
    lines = {**runs("esacl", 0.7), **runs("esacl-sdp", 0.6), **runs("esacl-plain", 0.65)}
    assert found(lines, "SDP with IDS is better").holds
    assert not found(lines, "SDP is better").holds
