"""What initialisation does to a recurrent net: the gradient's way through 200 time steps (practice L5)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nlpbp.core.init import Hidden, init_recurrent_

TIME_STEPS, WIDTH = 200, 32


def gradient_norm(rnn: nn.RNN, hidden: Hidden, *, scale: float = 1.0) -> float:
    """Return how much of the last state's gradient reaches the first state, as a share of its norm."""
    torch.manual_seed(0)
    init_recurrent_(rnn, hidden=hidden, scale=scale)
    first = torch.rand(1, 1, WIDTH).mul_(1e-3).requires_grad_()
    last = rnn(torch.zeros(1, TIME_STEPS, 1), first)[1]
    last.sum().backward()
    assert first.grad is not None
    return first.grad.norm().item() / WIDTH**0.5


def test_the_identity_lets_a_gradient_through_200_time_steps_and_the_default_does_not() -> None:
    rnn = nn.RNN(1, WIDTH, nonlinearity="relu", batch_first=True)
    assert gradient_norm(rnn, "identity") == pytest.approx(1.0)
    assert gradient_norm(rnn, "default") < 1e-20
    assert gradient_norm(rnn, "identity", scale=1.1) > 1e8  # 1.1 to the power of 200
    assert gradient_norm(rnn, "identity", scale=0.9) < 1e-8


def test_an_orthogonal_matrix_lets_it_through_a_tanh_near_zero_and_the_default_does_not() -> None:
    rnn = nn.RNN(1, WIDTH, nonlinearity="tanh", batch_first=True)
    assert 0.5 < gradient_norm(rnn, "orthogonal") <= 1.0
    assert gradient_norm(rnn, "default") < 1e-20


@pytest.mark.parametrize(("cell", "num_gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_every_gate_of_every_layer_and_direction_begins_as_asked_for(cell: type[nn.RNNBase], num_gates: int) -> None:
    rnn = cell(3, 5, num_layers=2, bidirectional=True)
    init_recurrent_(rnn, hidden="identity", scale=0.5)
    matrices = [p for name, p in rnn.named_parameters() if name.startswith("weight_hh")]
    assert len(matrices) == 4
    assert all(torch.equal(gate, 0.5 * torch.eye(5)) for matrix in matrices for gate in matrix.chunk(num_gates))
    kept = rnn.weight_hh_l0.detach().clone()
    init_recurrent_(rnn, hidden="orthogonal", skip=["weight_hh_l0"])
    assert torch.equal(rnn.weight_hh_l0, kept)
    assert not torch.equal(rnn.weight_hh_l1, kept)
