"""Local-Net, Global-Net and the DAD head: the supplement's tables, and partial convolution by its definition."""

from __future__ import annotations

import pytest
import torch
from adkit_plugins.extractors.glance.networks import LAYERS, DadHead, GlobalNet, LocalNet, PartialConv2d
from torch import Tensor, nn


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sizes(network: nn.Module, kinds: tuple[type[nn.Module], ...], *given: Tensor) -> list[tuple[int, ...]]:
    """(height, width, channels) of what each layer of some kinds gives."""
    found: list[tuple[int, ...]] = []

    def note(module: nn.Module, _: object, out: Tensor | tuple[Tensor, Tensor]) -> None:
        values = out[0] if isinstance(out, tuple) else out
        found.append((*values.shape[2:], values.shape[1]))

    for module in network.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(note)
    with torch.no_grad():
        network(*given)
    return found


def test_local_net_has_the_sizes_of_table_1() -> None:
    with torch.no_grad():
        net, patches = LocalNet(), drawn(2, 3, 33, 33)
        assert net(patches).shape == (2, 128)
        assert net.before_last(patches).shape == (2, 256, 4, 4)
    # The last convolution is called as a function; before_last ends with 4×4×256.
    assert sizes(net, (nn.Conv2d,), patches) == [(31, 31, 128), (11, 11, 256), (4, 4, 256)]
    kernels = [tuple(conv.weight.shape) for conv in (net.conv1, net.conv2, net.conv3, net.conv4)]
    assert kernels == [(128, 3, 3, 3), (256, 128, 5, 5), (256, 256, 2, 2), (128, 256, 4, 4)]


def test_leaky_slopes_are_those_of_the_tables() -> None:
    """A network whose only weights are biases shows the slope of its last layer."""
    net, head = LocalNet(), DadHead()
    with torch.no_grad():
        for one in (net, head):
            for parameter in one.parameters():
                parameter.zero_()
        for bias in (net.conv4.bias, head.fc1.bias):
            assert bias is not None
            bias.fill_(-1.0)
        assert net(torch.zeros(1, 3, 33, 33)).unique().tolist() == pytest.approx([-5e-3])
        assert head(torch.zeros(1, 128), torch.zeros(1, 128)).tolist() == [pytest.approx([-1e-2, -1e-2])]
        assert [tuple(head.fc0.weight.shape), tuple(head.fc1.weight.shape)] == [(128, 256), (2, 128)]


def test_global_net_has_the_sizes_of_table_2() -> None:
    net, values, valid = GlobalNet(), drawn(1, 3, 256, 256), torch.ones(1, 1, 256, 256)
    found = {}
    with torch.no_grad():
        for layer in LAYERS:
            values, valid = net.step(layer, values, valid)
            found[layer.name] = (*values.shape[2:], values.shape[1])
            assert valid.shape == (1, 1, *values.shape[2:])
    assert found == {
        "conv0": (125, 125, 16),
        "pool": (62, 62, 16),
        "conv1_1": (30, 30, 32),
        "conv1_2": (28, 28, 32),
        "conv2_1": (13, 13, 64),
        "conv2_2": (11, 11, 64),
        "conv3_1": (5, 5, 128),
        "conv3_2": (3, 3, 128),
        "conv4": (1, 1, 128),
    }


def test_partial_convolution_by_hand() -> None:
    """Windows of 2×2 with weights 1, 2, 3, 4 and bias 10, of which none, one, or all values are hidden."""
    conv = PartialConv2d(1, 1, 2)
    values = torch.tensor([[[[1.0, 1, 1, 1, 1], [1, 5, 1, 9, 9]]]])
    valid = torch.tensor([[[[1.0, 1, 1, 0, 0], [1, 0, 1, 0, 0]]]])
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[1.0, 2], [3, 4]]]]))
        assert conv.bias is not None
        conv.bias.fill_(10.0)
        found, seen = conv(values, valid)
    expected = [(1 + 2 + 3) * 4 / 3 + 10, (1 + 2 + 4) * 4 / 3 + 10, (1 + 3) * 4 / 2 + 10, 0.0]
    assert found.flatten().tolist() == pytest.approx(expected)
    assert seen.flatten().tolist() == [1, 1, 1, 0]


def slow_partial(conv: PartialConv2d, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 1 and 2 of Liu et al., window by window, with a mask for every channel."""
    weight, bias, (kernel, _), (stride, _) = conv.weight, conv.bias, conv.kernel_size, conv.stride
    assert bias is not None
    masks = valid.expand_as(values)
    side = (values.shape[2] - kernel) // stride + 1
    found, seen = torch.zeros(len(values), len(weight), side, side), torch.zeros(len(values), 1, side, side)
    for n in range(len(values)):
        for i in range(side):
            for j in range(side):
                window = (
                    n,
                    slice(None),
                    slice(i * stride, i * stride + kernel),
                    slice(j * stride, j * stride + kernel),
                )
                m = masks[window]
                if m.sum() > 0:
                    seen[n, 0, i, j] = 1
                    found[n, :, i, j] = (weight * (values[window] * m)).sum((1, 2, 3)) * m.numel() / m.sum() + bias
    return found, seen


@pytest.mark.parametrize(("kernel", "stride", "share"), [(3, 1, 0.9), (3, 2, 0.5), (2, 1, 0.1), (7, 2, 0.02)])
def test_partial_convolution_on_random_masks(kernel: int, stride: int, share: float) -> None:
    conv = PartialConv2d(3, 4, kernel, stride)
    values = drawn(2, 3, 15, 15)
    valid = (torch.rand(2, 1, 15, 15, generator=torch.Generator().manual_seed(1)) < share).float()
    with torch.no_grad():
        found, seen = conv(values, valid)
        expected, where = slow_partial(conv, values, valid)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(seen, where)


def test_masks_pass_the_pooling_as_valid_where_any_cell_is() -> None:
    net, pool = GlobalNet(), LAYERS[1]
    valid = torch.zeros(1, 1, 5, 5)
    valid[0, 0, 4, 0] = 1
    values = torch.rand(1, 16, 5, 5, generator=torch.Generator().manual_seed(0)) * valid
    found, seen = net.step(pool, values, valid)
    assert seen[0, 0].tolist() == [[0, 0], [1, 0]]
    assert torch.equal(found[0, :, 1, 0], values[0, :, 4, 0])


def test_what_is_hidden_does_not_matter() -> None:
    net, images = GlobalNet(), drawn(1, 3, 256, 256)
    hidden = torch.zeros(1, 256, 256, dtype=torch.bool)
    hidden[:, 100:133, 40:73] = True
    other = torch.where(hidden[:, None], torch.full_like(images, 7.0), images)
    with torch.no_grad():
        assert torch.equal(net(images, hidden), net(other, hidden))
        assert not torch.equal(net(images, ~hidden), net(other, ~hidden))
