"""A language model whose weights are cut over the processes of a training (FSDP2 of torch).

Each process keeps a part of every weight, of its gradient and of the optimizer's state. A layer's
weights are gathered before it computes and dropped thereafter, so all processes make their forward
passes at the same time.

Source: Zhao et al., arXiv:2304.11277, for the method; torch.distributed.fsdp.fully_shard.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


class ShardedCalls(nn.Module):
    """Calls functions while the weights outside of the layers, such as embeddings, are whole."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        """Cut the weights of a network over all processes, and move the parts to a device.

        Args:
            network: on the host, with `requires_grad` as it will be.
            device: of this process.
        """
        super().__init__()
        self.network = network
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for layer in layers_of(network):
            fully_shard(layer, mesh=mesh)
        # Without True, the root would keep its weights whole after a pass without gradients.
        fully_shard(self, mesh=mesh, reshard_after_forward=True)
        for module in self.modules():
            if isinstance(module, FSDPModule):  # gradients are summed, not averaged
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)

    def forward(self, function: Callable[..., Any], *given: Any) -> Any:
        """Return what a function of the network returns; all processes call it together."""
        found = function(*given)
        return found.clone() if isinstance(found, Tensor) else found  # torch warns of views


def layers_of(network: nn.Module) -> list[nn.Module]:
    """The modules in the outermost lists of a network: its layers, each of which fits a GPU."""
    found: list[nn.Module] = []
    for child in network.children():
        found += list(child) if isinstance(child, nn.ModuleList) else layers_of(child)
    return found


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has, in the same memory; of one not cut, all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor as it was before it was cut; all processes call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor, *, kept: bool) -> Tensor:
    """`whole`, on the host where it was cut; nothing in processes that do not keep it."""
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if kept else full.new_empty(0, device="cpu")


@torch.no_grad()
def assign(target: Tensor, values: Tensor) -> None:
    """Write the values of a whole tensor, which all processes have, into one that may be cut."""
    values = values.view(target.shape).to(target.device)
    if isinstance(target, DTensor):
        cut = distribute_tensor(values, target.device_mesh, target.placements)
        target.to_local().copy_(cut.to_local())
    else:
        target.copy_(values)
