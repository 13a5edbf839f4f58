"""The page of post-training steps."""

from post_training import page


def test_a_step_that_was_kept_and_one_that_had_no_place():
    numbers = {"sqnr_codes_db": 21.26, "sqnr_activations_db": 30.0, "sqnr_all_db": 20.0}
    numbers |= {"loss": 0.51234, "accuracy_store": 0.9, "accuracy_integer": 0.885}
    rows = [
        {"bits": 3, "steps": "none", "verdicts": [], "bytes": 12_340, "processor_s": 2.4, **numbers},
        {"bits": 3, "steps": "equalize", "verdicts": ["equalize kept, 4 layers"], "bytes": 12_340, "processor_s": 2.6, **numbers},
    ]
    text = page({"processor": "p", "versions": {"torch": "2"}, "recipe": "net", "train_limit": 100, "rows": rows})
    assert "`python benchmarks/post_training.py --recipe net --bits 3 --limit 100`; p; torch 2." in text
    assert "| 3 | none | - | 21.3 | 30.0 | 20.0 | 0.5123 | 90.0 | 88.5 | 12.34 | 2 |" in text
    assert "| 3 | equalize | equalize kept, 4 layers | 21.3 |" in text
