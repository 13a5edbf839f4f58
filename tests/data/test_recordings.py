"""Windows of one recording: found by what they share, and never on both sides of a split."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import Split
from tsn_toolkit.data.held_out import split_test, split_validation
from tsn_toolkit.data.loading import load_data
from tsn_toolkit.data.recordings import recordings_by_overlap
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.errors import DataError
from tsn_toolkit.pipeline.founding import strategy_config
from tsn_toolkit.recipe import schema
from tsn_toolkit.recipe.loading import load_recipe

SAMPLES, STEP = 8, 4


def windows(lengths, seed=0):
    """Windows (n, 2, 8) of recordings with so many windows each, overlapping by half, shuffled; and which recording each is from."""
    generator = torch.Generator().manual_seed(seed)
    cut = [torch.randn(2, STEP * (count + 1), generator=generator).unfold(1, SAMPLES, STEP).transpose(0, 1) for count in lengths]
    x, source = torch.cat(cut), torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    order = torch.randperm(len(x), generator=generator)
    return x[order], source[order]


def same_parts(one, other):
    return (one[:, None] == one[None]).equal(other[:, None] == other[None])


def test_recordings_are_found_whatever_the_order():
    x, source = windows([5, 1, 7, 2])
    assert same_parts(recordings_by_overlap(x, torch.zeros(len(x), dtype=torch.int64), 0.5, origin="a"), source)


def test_equal_halves_of_different_labels_do_not_join():
    x, source = windows([9, 8])
    labels = (torch.arange(len(x)) % 3 == 0).long()
    found = recordings_by_overlap(x, labels, 0.5, origin="a")
    assert all(len(set(labels[found == number].tolist())) == 1 and len(set(source[found == number].tolist())) == 1 for number in found.unique())


@pytest.mark.parametrize(("fraction", "message"), [(0.3, "no whole number of samples"), (0.25, "no window begins with the 2 samples")])
def test_an_overlap_that_is_not_there_is_refused(fraction, message):
    x, _ = windows([5, 4])
    with pytest.raises(DataError, match=f"a: .*{message}"):
        recordings_by_overlap(x, torch.zeros(len(x), dtype=torch.int64), fraction, origin="a")


@pytest.mark.parametrize("seed", range(5))
def test_whole_recordings_are_held_out_as_near_the_fraction_as_they_allow(seed):
    x, source = windows([6, 5, 7, 4, 6, 5, 8, 3], seed)
    labels = (source >= 4).long()
    data = Split(x, labels, recording=source)
    for train, held in (split_test(data, schema.TestSplitSection(fraction=0.3, seed=seed)), split_validation(data, 0.3, seed, 1)):
        assert not set(train.recording.tolist()) & set(held.recording.tolist()) and len(train) + len(held) == len(x)
        for label in (0, 1):
            share = float((held.y == label).sum()) / float((labels == label).sum())
            assert 0 < share < 1 and abs(share - 0.3) < 0.2


def test_one_recording_alone_cannot_be_split():
    data = Split(torch.zeros(6, 1), torch.tensor([0, 0, 0, 1, 1, 1]), recording=torch.tensor([0, 0, 0, 1, 2, 2]))
    with pytest.raises(DataError, match="all 3 examples of class 0 are of one recording"):
        split_test(data, schema.TestSplitSection(fraction=0.3))


def section(path, **options):
    settings = {"source": "npz", "path": str(path), "options": {"is_test": None, **options}, "test_split": {"fraction": 0.4}}
    return schema.DataSection.model_validate(settings)


def test_archive_with_channels_last_and_overlapping_windows(tmp_path: Path):
    x, source = windows([4, 5, 6, 5])
    flat = x.transpose(1, 2).reshape(len(x), 2, SAMPLES).numpy()  # bytes sample by sample under a shape of channels first
    np.savez(tmp_path / "a.npz", x=flat, y=(source % 2).numpy(), r=source.numpy())
    layout = {"shape": [SAMPLES, 2], "channels_last": True}
    train, test = load_data(section(tmp_path / "a.npz", overlap=0.5, **layout))
    assert {tuple(window.flatten().tolist()) for window in torch.cat([train.x, test.x])} == {tuple(window.flatten().tolist()) for window in x}
    named_train, named_test = load_data(section(tmp_path / "a.npz", recording="r", **layout))
    for here, there in ((train, test), (named_train, named_test)):
        assert not set(here.recording.tolist()) & set(there.recording.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": [3, 5]}, r"cannot be read as \(3, 5\)"),
        ({"overlap": 0.5, "recording": "r"}, "set one of the two"),
        ({"overlap": 1.5}, "less than 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options, message):
    np.savez(tmp_path / "a.npz", x=np.zeros((8, 2, 4), np.float32), y=np.arange(8) % 2, r=np.arange(8))
    with pytest.raises((DataError, ValueError), match=message):
        load_data(section(tmp_path / "a.npz", **options))


@pytest.mark.data
@pytest.mark.parametrize("recipe", ["har", "har_subjects"])
def test_no_window_of_a_recipe_shares_samples_with_another_split(tsn_data: Path, recipe):
    if not (tsn_data / "har" / "har_f16.npz").is_file():
        pytest.skip("har/har_f16.npz is not in TSN_DATA")
    data = load_task(load_recipe(recipe, strategy_config=strategy_config), 0)
    splits = (data.train, data.validation, data.test)
    halves = [{half.tobytes() for window in split.x.numpy() for half in np.split(window, 2, axis=1)} for split in splits]
    assert not (halves[0] & halves[1] or halves[0] & halves[2] or halves[1] & halves[2])
    assert abs(float(data.train.x[:, 6].mean())) > 0.5 and data.train.x[:, 0].mean().abs() < 0.1  # gravity on one axis of the total acceleration
