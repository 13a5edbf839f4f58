"""Models of the transformers library, tiny and with random weights: heads, hidden units and channels go, masked equals shrunk."""

import logging
import sys
from pathlib import Path

import pytest
import torch

from tsn_toolkit.graph import trace

sys.path.insert(0, str(Path(__file__).parent))
from removal import check_macs, check_reduction, check_removal  # noqa: E402

transformers = pytest.importorskip("transformers")
logging.getLogger("transformers").setLevel(logging.ERROR)

PIXELS = {"pixel_values": torch.zeros(1, 3, 32, 32)}
IDS = {"input_ids": torch.zeros(1, 9, dtype=torch.int64)}
MASKED = {**IDS, "attention_mask": torch.ones(1, 9, dtype=torch.int64)}
WORDS = {"vocab_size": 30, "num_labels": 5, "bos_token_id": 1, "eos_token_id": 2}
# model, example, options of its configuration, sizes of the groups of the first block: heads and hidden units
CASES = {
    "ResNet": ("ForImageClassification", PIXELS, {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 2], "num_labels": 5}, None),
    "MobileNetV2": ("ForImageClassification", PIXELS, {"image_size": 32, "depth_multiplier": 0.35, "num_labels": 5}, None),
    "ConvNext": ("ForImageClassification", PIXELS, {"hidden_sizes": [64, 96], "depths": [2, 2], "num_stages": 2, "num_labels": 5}, None),
    "ViT": (
        "ForImageClassification",
        PIXELS,
        {"image_size": 32, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40},
        ("vit.layers.0", 4, 40),
    ),
    "Swin": (
        "ForImageClassification",
        PIXELS,
        {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "num_labels": 5},
        ("swin.encoder.layers.1.blocks.1", 4, 64),
    ),
    "Bert": (
        "ForSequenceClassification",
        MASKED,
        {**WORDS, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "max_position_embeddings": 16},
        ("bert.encoder.layer.0", 4, 40),
    ),
    "DistilBert": (
        "ForSequenceClassification",
        MASKED,
        {**WORDS, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40, "max_position_embeddings": 16},
        ("distilbert.transformer.layer.0", 4, 40),
    ),
    "GPT2": (
        "LMHeadModel",
        IDS,
        {**WORDS, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 16, "use_cache": False},
        ("transformer.h.0", 4, 96),
    ),
    "Llama": (
        "ForCausalLM",
        IDS,
        {**WORDS, "hidden_size": 24, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3}
        | {"use_cache": False},
        ("model.layers.0", 3, 80),
    ),
}
CASES["Bert eager"] = ("ForSequenceClassification", MASKED, {**CASES["Bert"][2], "attn_implementation": "eager"}, CASES["Bert"][3])
GRAPHS = {}


def traced(name):
    """A model and its graph, traced once."""
    if name not in GRAPHS:
        task, example, options, _ = CASES[name]
        kind = name.split()[0]
        torch.manual_seed(0)
        model = getattr(transformers, kind + task)(getattr(transformers, f"{kind}Config")(**options)).eval()
        GRAPHS[name] = model, trace(model, example)
    return GRAPHS[name]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_masked_equals_shrunk(name, seed):
    check_removal(*traced(name), seed)


@pytest.mark.parametrize("name", CASES)
def test_really_smaller(name):
    check_reduction(*traced(name))


@pytest.mark.parametrize("name", CASES)
def test_the_plan_counts_the_macs_that_stay(name):
    check_macs(*traced(name))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[3]])
def test_heads_and_hidden_units_are_the_open_groups(name):
    graph, (block, heads, hidden) = traced(name)[1], CASES[name][3]
    sizes = {group.name: group.size for group in graph.groups if not group.frozen and group.name.startswith(block)}
    assert sorted(sizes.values()) == sorted([heads, hidden])
    stays = [group.frozen for group in graph.groups if group.frozen]
    assert stays and all("so that removing one changes the others" in reason and ".py:" in reason for reason in stays)


@pytest.mark.parametrize("name", ["ResNet", "MobileNetV2"])
def test_no_group_of_a_convolutional_network_is_frozen(name):
    assert [group.name for group in traced(name)[1].groups if group.frozen] == []


def test_vocabularies():
    assert [(record.name, record.upper) for record in traced("Bert")[1].inputs] == [("input_ids", 30), ("attention_mask", 2)]
