"""Small models of many architectures that the graph tests remove units from."""

import torch
from torch import nn


class Plain(nn.Module):
    """conv-norm-ReLU twice, then flatten into a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, padding=1, stride=2), nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Linear(6 * 16, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class Residual(nn.Module):
    """Two additions over one group, and ReLU in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True)
        self.a, self.norm_a, self.b, self.norm_b = nn.Conv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10), nn.Conv2d(10, 8, 1), nn.BatchNorm2d(8)
        self.c, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = x + self.norm_b(self.b(self.relu(self.norm_a(self.a(x)))))
        x = self.c(x) + x
        return self.head(x.mean((2, 3)))


class Depthwise(nn.Module):
    """Pointwise, depthwise, pointwise, as in mobile networks."""

    def __init__(self):
        super().__init__()
        self.expand, self.norm1 = nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12)
        self.depth, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.point, self.norm3 = nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = nn.functional.relu6(self.norm1(self.expand(x)))
        x = nn.functional.hardswish(self.norm2(self.depth(x)))
        return self.head(self.norm3(self.point(x)).mean((2, 3)))


class Concat(nn.Module):
    """Dense connections: two branches joined, then joined again."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 5, 1)
        self.norm, self.c = nn.BatchNorm2d(11), nn.Conv2d(11, 7, 3, padding=1)
        self.d, self.head = nn.Conv2d(18, 9, 1), nn.Linear(9 * 4, 4)

    def forward(self, x):
        y = torch.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1)))
        y = torch.cat([y, torch.relu(self.c(y))], 1)
        return self.head(nn.functional.adaptive_avg_pool2d(self.d(y), 2).flatten(1))


class Grouped(nn.Module):
    """A convolution of two groups between ordinary ones."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.g, self.b = nn.Conv2d(8, 12, 3, padding=1, groups=2), nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.b(torch.relu(self.g(torch.relu(self.norm(self.a(x)))))).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Channel attention: a gate with a sigmoid over the channels of a convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.out, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(torch.relu(self.out(x * gate)).mean((2, 3)))


class ChunkAdd(nn.Module):
    """Channel i and i + 4 of one convolution are added, so they can only go together."""

    def __init__(self):
        super().__init__()
        self.conv, self.out, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 6, 1), nn.Linear(6, 4)

    def forward(self, x):
        a, b = self.conv(x).chunk(2, 1)
        return self.head(self.out(torch.relu(a + b)).mean((2, 3)))


class LayerNormed(nn.Module):
    """The first layer's units are normalised over one another: removing one changes the others."""

    def __init__(self):
        super().__init__()
        self.fc1, self.norm, self.fc2, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.fc2(self.norm(self.fc1(x)))))


class Recurrent(nn.Module):
    """A linear layer, an LSTM, a linear layer, over sequences (n, 5, 6)."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.mix, self.head = nn.Linear(6, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 10), nn.Linear(10, 3)

    def forward(self, x):
        y, _ = self.lstm(torch.relu(self.embed(x)))
        return self.head(torch.relu(self.mix(y[:, -1])))


class Attention(nn.Module):
    """nn.MultiheadAttention, over sequences (n, 5, 8)."""

    def __init__(self):
        super().__init__()
        self.embed, self.attend = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.embed(x)
        y, _ = self.attend(x, x, x, need_weights=False)
        return self.head(torch.relu(self.up(y.mean(1))))


class Branching(nn.Module):
    """A branch that depends on the values of the input."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        if x.sum() > 0:
            return self.head(self.a(x))
        return self.head(self.b(x))


class SkipInput(nn.Module):
    """The input itself is added to a convolution, which therefore keeps its three channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.out, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu(self.out(torch.relu(self.conv(x)) + x)).mean((2, 3)))


class Tokens(nn.Module):
    """Token ids (n, 7) below 11, embedded and pooled."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc, self.head = nn.Embedding(11, 8), nn.Linear(8, 10), nn.Linear(10, 3)

    def forward(self, x):
        return self.head(torch.relu(self.fc(self.embed(x).mean(1))))


class Casting(nn.Module):
    """Insists on float32, so that it cannot run in float64."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.fc(x.float())))
