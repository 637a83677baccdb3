"""Memory and time of a training step on many GPUs, by the way in which a run is sharded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tests.benchmarks.scale_counts import Counted, Matrices

Parallel = Literal["ddp", "fsdp", "hsdp"]
FLOAT32, BFLOAT16 = 4, 2  # bytes
BUCKET = 25 * 2**20  # bytes of gradients that DDP averages at once


@dataclass(frozen=True)
class Hardware:
    """Rates of an H100 80 GB in machines of 8, in bytes and operations a second."""

    matrices: float = 793e12
    """Large matrix products in bfloat16: measured on an H100."""
    share: float = 0.273
    """Share of it that a training step reaches: measured on an H200, `base`, 128 windows."""
    launch: float = 4.5e-3
    """Seconds in which the host starts a layer's kernels: measured on an H200, compiled."""
    newton_schulz: float = 0.7
    """Share that Muon's matrix products reach: assumed."""
    memory: float = 80e9
    """Bytes of a GPU."""
    usable: float = 0.9
    """Share of them that tensors may fill: assumed."""
    memory_rate: float = 3.0e12
    """Reading memory: measured on an H100."""
    node: int = 8
    """GPUs of a machine."""
    nvlink: float = 360e9
    """Between GPUs of a machine, a GPU and direction: what NCCL reckons with (published: 450)."""
    network: float = 40e9
    """Between machines, a GPU and direction: 80 % (assumed) of 400 Gbit/s (published)."""
    nvlink_hop: float = 3.4e-6
    """Seconds from GPU to GPU within a machine: what NCCL reckons with."""
    network_hop: float = 14e-6
    """Seconds from machine to machine: what NCCL reckons with."""

    def rate(self, ranks: int, *, across: bool) -> float:
        """Bytes a second that pass between neighbours.

        Args:
            ranks: GPUs that take part.
            across: Whether each of them is in another machine. Otherwise they fill machines, and
                what passes between two machines has the network of all their GPUs.
        """
        if across:
            return self.network
        return self.nvlink if ranks <= self.node else min(self.nvlink, self.node * self.network)

    def ring(self, whole: float, ranks: int) -> float:
        """Seconds in which a ring gathers or reduces tensors of ``whole`` bytes."""
        if ranks == 1:
            return 0.0
        nodes = -(-ranks // self.node)
        between = nodes if nodes > 1 else 0
        hops = between * self.network_hop + (ranks - between) * self.nvlink_hop
        return whole * (ranks - 1) / ranks / self.rate(ranks, across=False) + hops

    def mean(self, whole: float, ranks: int, *, across: bool = False) -> float:
        """Seconds in which a tree averages tensors of ``whole`` bytes, for all GPUs."""
        if ranks == 1:
            return 0.0
        here = 1 if across else min(ranks, self.node)
        hops = (here - 1) * self.nvlink_hop + math.log2(ranks / here) * self.network_hop
        return 2 * (whole * (ranks - 1) / ranks / self.rate(ranks, across=across) + hops)

    def exchange(self, sent: float, ranks: int) -> float:
        """Seconds in which every GPU sends another part of ``sent`` bytes to each (all to all)."""
        far = max(0, ranks - self.node) / ranks
        hops = -(-ranks // self.node) * self.network_hop
        return sent * max(far / self.network, (1 - far) / self.nvlink) + hops


# Bytes of activations a token, channel and layer: `base` with 128 compiled windows of 12 frames of
# 64x64 pixels (68 tokens, 12 layers, 512 channels) took 28.8 GB on an H200, of which 0.6 are state.
ACTIVATIONS = 28.2e9 / (128 * 12 * 68 * 12 * 512)


@dataclass(frozen=True)
class Plan:
    """A training step of a world on GPUs.

    Attributes:
        model: The world.
        gpus: Their number, whole machines or fewer GPUs than one has.
        parallel: How weights are replicated or sharded.
        windows: Windows of a GPU at once.
        again: Whether layers are computed again in the backward pass.
        hardware: The rates.
    """

    model: Counted
    gpus: int
    parallel: Parallel
    windows: int
    again: bool
    hardware: Hardware = Hardware()

    @property
    def shards(self) -> int:
        """GPUs among which each weight is divided."""
        return {"ddp": 1, "fsdp": self.gpus, "hsdp": min(self.gpus, self.hardware.node)}[
            self.parallel
        ]

    @property
    def parts(self) -> int:
        """Parts of a step, computed in turn."""
        return max(1, self.model.load.batch_size // (self.gpus * self.windows))

    @property
    def state(self) -> float:
        """Bytes of weights, their average, gradients and moments, all in float32."""
        weights, one_moment = self.model.parameters, self.model.by_muon
        return FLOAT32 * (5 * weights - one_moment) / self.shards

    @property
    def gathered(self) -> float:
        """Bytes of weights and gradients that are whole for a while.

        Replicated weights have a copy in bfloat16. Of sharded ones, two layers are gathered, and
        one layer's gradients are in bfloat16 and in float32.
        """
        model = self.model
        if self.parallel == "ddp":
            return BFLOAT16 * model.parameters
        rest = 2 * FLOAT32 * (model.parameters - model.in_blocks)
        return model.block * (3 * BFLOAT16 + FLOAT32) + rest

    @property
    def activations(self) -> float:
        """Bytes that the backward pass needs; the input of each layer is in float32."""
        layers = self.model.depth * ACTIVATIONS
        if self.again:
            layers = self.model.depth * FLOAT32 + ACTIVATIONS
        return self.windows * self.model.tokens * self.model.width * layers

    @property
    def memory(self) -> float:
        """Bytes of a GPU, at the backward pass or at Muon's exchange of matrices."""
        exchanged = 2 * max(self.exchanged(one) for one in self.model.matrices)
        return self.state + max(self.gathered + self.activations, exchanged)

    @property
    def gather_size(self) -> float:
        """Bytes of all weights that are gathered before a pass, whole."""
        return BFLOAT16 * self.model.in_blocks if self.shards > 1 else 0.0

    @property
    def gradient_size(self) -> float:
        """Bytes of all gradients that are averaged, whole."""
        return FLOAT32 * self.model.parameters

    @property
    def sharing(self) -> int:
        """GPUs that share Muon's work: all replicas, or those of a set of shards."""
        return self.gpus if self.parallel == "ddp" else self.shards

    def exchanged(self, one: Matrices) -> float:
        """Bytes of a GPU's tensor of all matrices of a shape, filled up so that all have as many.

        Replicas gather whole matrices. Shards send rows to the GPU that takes the matrix.
        """
        filled = -(-one.count // self.sharing) * self.sharing
        rows = one.rows if self.parallel == "ddp" else -(-one.rows // self.shards)
        return BFLOAT16 * filled * rows * one.columns if self.sharing > 1 else 0.0

    @property
    def gathering(self) -> float:
        """Seconds of one gathering of all weights, layer by layer."""
        depth = self.model.depth
        return depth * self.hardware.ring(self.gather_size / depth, self.shards)

    @property
    def reducing(self) -> float:
        """Seconds of summing up the gradients of a part in shards, layer by layer."""
        depth = self.model.depth
        return depth * self.hardware.ring(self.gradient_size / depth, self.shards)

    @property
    def averaging(self) -> float:
        """Seconds of averaging the gradients over all GPUs, by buckets or layer by layer."""
        hardware, depth = self.hardware, self.model.depth
        if self.shards == 1:
            buckets = math.ceil(self.gradient_size / BUCKET)
            return buckets * hardware.mean(self.gradient_size / buckets, self.gpus)
        size, copies = self.gradient_size / depth, self.gpus // self.shards
        across = hardware.mean(size / self.shards, copies, across=True)
        return self.reducing + depth * across

    def computing(self, flops: float) -> float:
        """Seconds of operations a window, in all parts of a step."""
        return self.parts * self.windows * flops / self.hardware.matrices / self.hardware.share

    @property
    def compute(self) -> float:
        """Seconds of all forward and backward passes of a step."""
        flops = self.model.whole_again if self.again else self.model.whole
        launches = self.parts * self.model.depth * self.hardware.launch
        return max(self.computing(flops), launches)

    @property
    def communication(self) -> float:
        """Seconds in which weights and gradients are under way, hidden or not."""
        return 3 * self.parts * self.gathering + (self.parts - 1) * self.reducing + self.averaging

    @property
    def waiting(self) -> float:
        """Seconds in which computation waits for weights and gradients.

        Two forward passes and the backward pass gather the weights. Each layer's are gathered
        during the layer before, except the first one's. Gradients are summed up in shards during
        each backward pass, and averaged during the last, except the last layer's.
        """
        gathering, averaging, parts = self.gathering, self.averaging, self.parts
        reducing = (parts - 1) * self.reducing
        forward = self.computing(self.model.forward) / parts
        backward = self.compute / parts - forward
        late = parts * max(0.0, 2 * gathering - forward)
        late += max(0.0, (parts - 1) * (gathering - backward) + reducing)
        late += max(0.0, gathering + averaging - backward)
        return late + (2 * parts * gathering + reducing + averaging) / self.model.depth

    @property
    def muon(self) -> float:
        """Seconds of Muon's products and exchanges, during which nothing else is done."""
        hardware, rate = self.hardware, self.hardware.matrices * self.hardware.newton_schulz
        seconds = 0.0
        for one in self.model.matrices:
            seconds += -(-one.count // self.sharing) * one.flops / rate
            if self.parallel == "ddp":
                seconds += hardware.ring(self.exchanged(one), self.gpus)
            elif self.shards > 1:
                seconds += 2 * hardware.exchange(self.exchanged(one), self.shards)
        return seconds

    @property
    def updates(self) -> float:
        """Seconds of reading and writing the state once."""
        return 2 * self.state / self.hardware.memory_rate

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.compute + self.waiting + self.muon + self.updates

    @property
    def efficiency(self) -> float:
        """Share of the step that one GPU alone with room for everything would take."""
        return self.computing(self.model.whole) / self.step


def best_plan(model: Counted, gpus: int, parallel: Parallel, hardware: Hardware) -> Plan | None:
    """The plan of most windows at once, with layers computed again only where none fits else."""
    each = model.load.batch_size // gpus
    for again in (False, True):
        for windows in (2**i for i in reversed(range(each.bit_length()))):
            plan = Plan(model, gpus, parallel, windows, again, hardware)
            if plan.memory <= hardware.usable * hardware.memory:
                return plan
    return None
