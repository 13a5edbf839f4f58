import torch
from torch import nn

from tsn_toolkit.parts.distillation import FeatureDistillation


def test_the_loss_is_the_relative_squared_distance_of_matching_features():
    teacher = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2))
    student = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        teacher[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        student[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    # student features (1, 3), (3, 2) stand for the teacher's 0 and 2: equal; for its 0 and 1 (2, -1): off by 1 and 3
    for columns, loss in (([0, 2], 0.0), ([0, 1], 2.0 * (0 + 1 + 0 + 9) / (1 + 4 + 9 + 1))):
        with FeatureDistillation(teacher, student, "1", columns=torch.tensor(columns), weight=2.0) as distillation:
            student(x)
            value = distillation(x)
        assert abs(value.item() - loss) < 1e-6
    value.backward()
    assert student[0].weight.grad is not None and teacher[0].weight.grad is None
    assert not student[1]._forward_pre_hooks and not teacher[1]._forward_pre_hooks
