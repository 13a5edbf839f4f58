"""Small models of further architectures: attention of all kinds, norms, shapes, several inputs and outputs."""

import torch
from torch import nn
from torch.nn import functional


class SplitConcat(nn.Module):
    """Split into unequal parts, chunk into equal ones, concat again."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.norm, self.out, self.head = nn.BatchNorm2d(14), nn.Conv2d(14, 10, 3), nn.Linear(10, 4)

    def forward(self, x):
        left, right = self.a(x).chunk(2, 1)
        x = torch.cat([torch.relu(self.b(left)), self.c(torch.relu(right))], 1)
        return self.head(torch.relu(self.out(self.norm(x))).mean((2, 3)))


class ChannelShuffle(nn.Module):
    """Grouped convolutions with a shuffle between them, as in ShuffleNet."""

    def __init__(self):
        super().__init__()
        self.a, self.g1, self.norm = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=2), nn.BatchNorm2d(12)
        self.g2, self.out, self.head = nn.Conv2d(12, 8, 1, groups=2), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.g1(torch.relu(self.a(x))))
        n, channels, height, width = x.shape
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)
        return self.head(self.out(torch.relu(self.g2(torch.relu(x)))).mean((2, 3)))


class PixelShuffled(nn.Module):
    """Upsampling by PixelShuffle, and a depthwise convolution that doubles the channels."""

    def __init__(self):
        super().__init__()
        self.a, self.up = nn.Conv2d(3, 16, 3, padding=1), nn.PixelShuffle(2)
        self.depth, self.out, self.head = nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu(self.out(torch.relu(self.depth(self.up(self.a(x)))))).mean((2, 3)))


class Transposed(nn.Module):
    """An encoder and a decoder of transposed convolutions, one of them grouped, with PReLU."""

    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.PReLU(8), nn.Conv2d(8, 12, 3, padding=1)
        self.up, self.norm = nn.ConvTranspose2d(12, 8, 2, stride=2), nn.InstanceNorm2d(8, affine=True)
        self.grouped, self.out = nn.ConvTranspose2d(8, 8, 3, groups=2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.norm(self.up(torch.relu(self.b(self.act(self.a(x))))))
        return self.out(torch.relu(self.grouped(functional.leaky_relu(x))))


class OneDimensional(nn.Module):
    """Convolutions over sequences, flattened into a linear layer."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(4, 10, 3, padding=1), nn.BatchNorm1d(10), nn.Conv1d(10, 8, 3, padding=1)
        self.pool, self.fc, self.last, self.head = nn.MaxPool1d(2), nn.Linear(8 * 4, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.pool(torch.relu(self.b(torch.relu(self.norm(self.a(x))))))
        return self.head(torch.relu(self.last(self.fc(x.reshape(x.shape[0], -1)))))


class GroupNormed(nn.Module):
    """Whole groups of a GroupNorm are units."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.whole = nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(4, 12), nn.Conv2d(12, 10, 3), nn.GroupNorm(10, 10)
        self.c, self.head = nn.Conv2d(10, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.c(self.whole(self.b(torch.relu(self.norm(self.a(x))))))).mean((2, 3)))


class DenseBlock(nn.Module):
    """Every layer reads all earlier ones, with a norm before each."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, padding=1) for i in range(3))
        self.head = nn.Linear(26, 4)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        return self.head(functional.avg_pool2d(x, 2).mean((2, 3)))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each with a norm before and a residual around."""

    def __init__(self, attention, width, hidden):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Fused(nn.Module):
    """One projection for query, key and value; the heads' order as in timm."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, -1))


class Chunked(nn.Module):
    """One projection, chunked; matmul, softmax, matmul; heads counted by an attribute, widths written out."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.dim_head, self.inner_dim = heads, width // heads, width
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = (part.view(n, length, self.heads, self.dim_head).transpose(1, 2) for part in self.to_qkv(x).chunk(3, dim=-1))
        weights = (q @ k.transpose(-1, -2) * self.dim_head**-0.5).softmax(-1)
        return self.to_out((weights @ v).transpose(1, 2).reshape(n, length, self.inner_dim))


class Separate(nn.Module):
    """Three projections, a learned bias per head and distance, norms over the width of a head, einsum."""

    def __init__(self, width, heads):
        super().__init__()
        self.n_heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width // heads)
        self.bias = nn.Parameter(torch.zeros(11, heads))
        self.register_buffer("distance", torch.arange(6)[:, None] - torch.arange(6)[None] + 5)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = (layer(x).unflatten(-1, (self.n_heads, -1)) for layer in (self.q, self.k, self.v))
        scores = torch.einsum("nqhd,nkhd->nhqk", self.norm(q), self.norm(k)) + self.bias[self.distance].permute(2, 0, 1)
        return self.o(torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), v).flatten(2))


class Grouped(nn.Module):
    """Grouped-query attention with rotary positions, as in Llama."""

    def __init__(self, width, heads):
        super().__init__()
        self.head_dim, self.repeats = width // heads, 2
        self.q, self.k = nn.Linear(width, width, bias=False), nn.Linear(width, width // 2, bias=False)
        self.v, self.o = nn.Linear(width, width // 2, bias=False), nn.Linear(width, width, bias=False)
        self.register_buffer("frequency", torch.linspace(0.1, 1, self.head_dim // 2))

    def rotate(self, x):
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * self.frequency
        angle = torch.cat([angle, angle], -1)
        one, other = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-other, one], -1) * angle.sin()

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = (layer(x).view(n, length, -1, self.head_dim).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (item.repeat_interleave(self.repeats, 1) for item in (self.rotate(k), v))
        y = functional.scaled_dot_product_attention(self.rotate(q), k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(n, length, -1))


class Torch(nn.Module):
    """nn.MultiheadAttention."""

    def __init__(self, width, heads, **options):
        super().__init__()
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True, **options)

    def forward(self, x):
        return self.attend(x, x, x)[0]


class Transformer(nn.Module):
    """Tokens of width 8 (n, 6, 8), two blocks, a classifier."""

    def __init__(self, attention, heads=4, width=16):
        super().__init__()
        self.embed, self.position = nn.Linear(8, width), nn.Parameter(torch.zeros(6, width))
        self.blocks = nn.Sequential(*(Block(attention(width, heads), width, 40) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.embed(x) + self.position)).mean(1))


class Encoder(nn.Module):
    """nn.TransformerEncoder over (n, 6, 16)."""

    def __init__(self, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 40, batch_first=True, **options)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


class CrossAttention(nn.Module):
    """Two inputs of different widths, a mask, two outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(5, 12)
        self.attend = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)
        self.mix, self.head, self.second = nn.Linear(16, 24), nn.Linear(24, 3), nn.Linear(24, 2)

    def forward(self, query, memory, mask):
        memory = torch.relu(self.b(memory))
        y, _ = self.attend(torch.relu(self.a(query)), memory, memory, key_padding_mask=mask, need_weights=False)
        y = torch.relu(self.mix(y))
        return {"tokens": self.head(y), "pooled": (self.second(y.mean(1)),)}


class GatedTokens(nn.Module):
    """Token ids, a gated perceptron (fused and separate), RMSNorm, and a head that shares the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(13, 16), nn.RMSNorm(16)
        self.fused, self.down1 = nn.Linear(16, 80), nn.Linear(40, 16)
        self.gate, self.up, self.down2 = nn.Linear(16, 36, bias=False), nn.Linear(16, 36, bias=False), nn.Linear(36, 16, bias=False)
        self.head = nn.Linear(16, 13, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        x = x + self.down1(functional.glu(self.fused(self.norm(x)), -1))
        x = x + self.down2(functional.silu(self.gate(x)) * self.up(x))
        return self.head(self.norm(x))


class TiedTwice(nn.Module):
    """One layer used twice, and two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.c.weight = self.b.weight
        self.up, self.down = nn.Linear(12, 30), nn.Linear(30, 12)

    def forward(self, x):
        x = torch.relu(self.a(x))
        for _ in range(2):
            x = x + self.down(torch.relu(self.up(x)))
        return self.head(torch.relu(self.c(torch.relu(self.b(x)))))


class TextAndImage(nn.Module):
    """An image, token ids and their mask; a tuple of outputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.embed = nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10), nn.Embedding(17, 12)
        self.word, self.join, self.head, self.other = nn.Linear(12, 14), nn.Linear(24, 20), nn.Linear(20, 4), nn.Linear(20, 2)

    def forward(self, image, ids, mask=None):
        words = torch.relu(self.word(self.embed(ids)))
        words = words.sum(1) if mask is None else (words * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        image = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        x = torch.relu(self.join(torch.cat([image, words], 1)))
        return self.other(x), self.head(x)
