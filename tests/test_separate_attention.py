"""nn.MultiheadAttention with layers of its own: the same answers, and a network that can be stored, pruned by heads and exported."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tsn_toolkit.model_loading import load_model
from tsn_toolkit.separate_attention import SeparateAttention, separate_attention_

CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)
PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


def randomised(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def both(module):
    return randomised(module), separate_attention_(copy.deepcopy(module))


def assert_close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}, {"kdim": 6, "vdim": 4}, {"dropout": 0.2}])
@pytest.mark.parametrize("masks", ["none", "causal", "bool", "per head", "padding", "both"])
def test_answers_and_weights_are_those_of_torch(options, masks):
    torch.manual_seed(0)
    theirs, ours = both(nn.MultiheadAttention(8, 2, **options))
    assert isinstance(ours, SeparateAttention)
    query, key, value = (torch.randn(2, 5, width) for width in (8, options.get("kdim", 8), options.get("vdim", 8)))
    if not options.get("batch_first"):
        query, key, value = (item.transpose(0, 1) for item in (query, key, value))
    attn_mask = {"causal": CAUSAL, "both": CAUSAL, "bool": CAUSAL.isinf(), "per head": torch.randn(4, 5, 5)}.get(masks)
    padding = PADDING if masks in ("padding", "both") else None
    if masks == "both":
        padding = torch.zeros(PADDING.shape).masked_fill(PADDING, float("-inf"))  # torch wants both of one kind
    for average in (True, False):
        given = {"attn_mask": attn_mask, "key_padding_mask": padding, "average_attn_weights": average}
        for found, wanted in zip(ours(query, key, value, **given), theirs(query, key, value, **given), strict=True):
            assert_close(found, wanted)
    assert ours(query, key, value, need_weights=False)[1] is None


def test_one_sequence_without_a_batch():
    theirs, ours = both(nn.MultiheadAttention(8, 2))
    x = torch.randn(5, 8)
    for found, wanted in zip(ours(x, x, x), theirs(x, x, x), strict=True):
        assert found.shape == wanted.shape
        assert_close(found, wanted)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_own_encoder_and_decoder_take_it(batch_first, norm_first):
    torch.manual_seed(0)
    options = {"dropout": 0.0, "batch_first": batch_first, "norm_first": norm_first}
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, **options), 2, enable_nested_tensor=False)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, **options), 2)
    x, memory = torch.randn(5, 5, 8), torch.randn(5, 5, 8)
    theirs, ours = both(encoder)
    assert sum(isinstance(module, SeparateAttention) for module in ours.modules()) == 2
    assert_close(ours(x), theirs(x))
    assert_close(ours(x, mask=CAUSAL, is_causal=True), theirs(x, mask=CAUSAL, is_causal=True))
    assert_close(ours.train()(x), theirs.train()(x))
    theirs, ours = both(decoder)
    assert_close(ours(x, memory, tgt_mask=CAUSAL), theirs(x, memory, tgt_mask=CAUSAL))


def test_parameters_are_the_packed_ones_and_no_random_number_is_drawn():
    packed = nn.MultiheadAttention(8, 2)
    packed.in_proj_weight.requires_grad_(False)
    before = torch.get_rng_state()
    ours = separate_attention_(copy.deepcopy(packed))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight]), packed.in_proj_weight)
    assert not ours.q_proj.weight.requires_grad and ours.out_proj.weight.requires_grad
    assert ours.k_proj.weight.is_contiguous() and ours.k_proj.weight.untyped_storage().nbytes() == 8 * 8 * 4


def test_a_module_at_two_places_stays_one():
    shared = nn.MultiheadAttention(8, 2)
    model = separate_attention_(nn.ModuleDict({"a": shared, "b": nn.ModuleDict({"c": shared})}))
    assert isinstance(model["a"], SeparateAttention) and model["a"] is model["b"]["c"]


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_what_has_no_separate_form_is_left_alone(options):
    module = nn.MultiheadAttention(8, 2, **options)
    assert separate_attention_(module) is module


def test_dropout_is_of_training_alone():
    ours = separate_attention_(nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True))
    x = torch.randn(4, 5, 8)
    assert torch.equal(ours.eval()(x, x, x)[0], ours(x, x, x)[0])
    assert not torch.equal(ours.train()(x, x, x)[0], ours(x, x, x)[0])


def test_a_checkpoint_has_the_users_own_keys(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef net():\n    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)\n"
    )
    trained = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert "self_attn.in_proj_weight" in trained.state_dict()
    save_file(trained.state_dict(), tmp_path / "net.safetensors")
    x = torch.randn(3, 5, 8)
    assert_close(load_model(f"{tmp_path / 'net.py'}:net", tmp_path / "net.safetensors")(x), trained(x))
