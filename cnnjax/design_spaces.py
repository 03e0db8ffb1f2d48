"""Sample networks from the design spaces of Radosavovic et al. 2020, "Designing Network Design Spaces".

Section 3.2 starts from AnyNetX_A, in which each of four stages has its own depth, width, bottleneck ratio and group
width, and narrows it step by step; section 3.3 replaces depths and widths with the quantized linear rule (RegNetX), and
section 5.2 adds squeeze-and-excitation (RegNetY). `SPACES` is the table of the constraints.

Depths are drawn uniformly, all other values log-uniformly, within the ranges below. Deviation: each width is rounded
to the nearest multiple of bottleneck ratio times group width, as in the paper's code.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cnnjax.complexity import complexity
from cnnjax.errors import UserError, choose
from cnnjax.models.regnet import AnyNet, RegNet, StagedNet

STAGES = 4
MOST_DEPTH, MOST_WIDTH, WIDTH_STEP = 16, 1024, 8
"""Maximum blocks per stage, maximum width, and the step of widths in an AnyNet."""
BOTTLENECKS, GROUP_WIDTHS = (1, 2, 4), (1, 2, 4, 8, 16, 32)
MOST_REGNET_DEPTH, W_0, W_A, W_M = 40, (8, 256), (8.0, 256.0), (2.0, 3.0)
"""Ranges of the rule in RegNetX (section 4: depth at most 40, bottleneck ratio 1, w_m of at least 2)."""
SE_RATIO = 0.25
MOST_DRAWS = 100_000
"""Maximum consecutive draws outside the budget before `sample` gives up."""


class Space(NamedTuple):
    """The constraints of a design space, in the order in which the paper adds them.

    Example:
        >>> [name for name, space in SPACES.items() if space.linear]
        ['RegNetX', 'RegNetY']
    """

    shared_bottleneck: bool = False
    """B: one bottleneck ratio for all stages."""
    shared_group_width: bool = False
    """C: one group width for all stages."""
    widths_increase: bool = False
    """D: no stage is narrower than the one before."""
    depths_increase: bool = False
    """E: no stage has fewer blocks than the one before."""
    linear: bool = False
    """RegNet: depths and widths follow the quantized linear rule, and the bottleneck ratio is 1."""
    se_ratio: float = 0.0
    """Y: squeeze-and-excitation."""


SPACES = {
    "AnyNetXA": Space(),
    "AnyNetXB": Space(shared_bottleneck=True),
    "AnyNetXC": Space(shared_bottleneck=True, shared_group_width=True),
    "AnyNetXD": Space(shared_bottleneck=True, shared_group_width=True, widths_increase=True),
    "AnyNetXE": Space(shared_bottleneck=True, shared_group_width=True, widths_increase=True, depths_increase=True),
    "RegNetX": Space(shared_bottleneck=True, shared_group_width=True, widths_increase=True, linear=True),
    "RegNetY": Space(
        shared_bottleneck=True, shared_group_width=True, widths_increase=True, linear=True, se_ratio=SE_RATIO
    ),
}


class Budget(NamedTuple):
    """Smallest and largest multiply-adds, parameters and activations of a network, for one image; None: any.

    Example:
        >>> from cnnjax import create
        >>> Budget(multiply_adds=(3e8, 5e8)).allows(create("regnet_x_400mf"))
        True
    """

    multiply_adds: tuple[float, float] | None = None
    parameters: tuple[float, float] | None = None
    activations: tuple[float, float] | None = None

    def allows(self, arch: StagedNet) -> bool:
        """Return whether the network is within the budget."""
        if self.multiply_adds and not self.multiply_adds[0] <= estimated_multiply_adds(arch) <= self.multiply_adds[1]:
            return False
        if self.parameters is None and self.activations is None:
            return True  # the formula takes microseconds, counting the layers a third of a second
        counted = complexity(arch)
        limits = ((self.parameters, counted.parameters), (self.activations, counted.activations))
        return all(limit is None or limit[0] <= value <= limit[1] for limit, value in limits)


def sample(space: str, count: int, seed: int, budget: Budget = Budget(), **options: Any) -> list[StagedNet]:  # noqa: B008
    """Return ``count`` networks of a design space within a budget; nothing is allocated.

    Args:
        space: a name in `SPACES`.
        count: number of networks.
        seed: the same seed gives the same networks; the first networks of a longer sample are those of a shorter one.
        budget: bounds on the complexity.
        options: fields of every network, such as ``input_size``, ``num_classes`` or ``stem``.

    Raises:
        UserError: the space is unknown, or `MOST_DRAWS` draws in a row are outside the budget.

    Example:
        >>> from cnnjax.design_spaces import Budget, sample
        >>> [arch] = sample("RegNetX", 1, seed=0, budget=Budget(multiply_adds=(3e8, 5e8)))
        >>> arch.family
        'regnet'
    """
    constraints = SPACES[choose("design space", space, SPACES)]
    draw: Callable[..., StagedNet | None] = _draw_regnet if constraints.linear else _draw_anynet
    networks: list[StagedNet] = []
    generator, draws = np.random.default_rng([seed, list(SPACES).index(space)]), 0
    while len(networks) < count:
        network = draw(constraints, generator, options)
        draws += 1
        if network is not None and budget.allows(network):
            networks.append(network)
            draws = 0
        elif draws >= MOST_DRAWS:
            raise UserError(
                f"{draws:,} draws from {space} in a row are outside the budget {budget}; widen the budget, or choose "
                "another input_size"
            )
    return networks


def _draw_anynet(space: Space, generator: np.random.Generator, options: dict[str, Any]) -> AnyNet:
    depths = generator.integers(1, MOST_DEPTH + 1, STAGES)
    widths = [_log_uniform(generator, WIDTH_STEP, MOST_WIDTH, WIDTH_STEP) for _ in range(STAGES)]
    bottlenecks = generator.choice(BOTTLENECKS, STAGES)
    group_widths = generator.choice(GROUP_WIDTHS, STAGES)
    if space.shared_bottleneck:
        bottlenecks[:] = bottlenecks[0]
    if space.shared_group_width:
        group_widths[:] = group_widths[0]
    if space.widths_increase:
        widths.sort()
    if space.depths_increase:
        depths.sort()
    multiples = bottlenecks * group_widths
    fitted = [max(1, round(width / multiple)) * multiple for width, multiple in zip(widths, multiples, strict=True)]
    return AnyNet(
        depths=_ints(depths), widths=_ints(fitted), bottlenecks=_ints(bottlenecks), group_widths=_ints(group_widths),
        se_ratio=space.se_ratio, **options,
    )  # fmt: skip


def _draw_regnet(space: Space, generator: np.random.Generator, options: dict[str, Any]) -> RegNet | None:
    """Return a RegNet, or None if the drawn rule does not give exactly `STAGES` stages."""
    network = RegNet(
        depth=int(generator.integers(STAGES, MOST_REGNET_DEPTH + 1)),
        w_0=_log_uniform(generator, *W_0, WIDTH_STEP),
        w_a=round(float(np.exp(generator.uniform(*np.log(W_A)))), 2),
        w_m=round(float(np.exp(generator.uniform(*np.log(W_M)))), 2),
        group_width=int(generator.choice(GROUP_WIDTHS)),
        se_ratio=space.se_ratio,
        rounding="pycls",
        **options,
    )
    return network if len(network.plan()) == STAGES else None


def _log_uniform(generator: np.random.Generator, low: int, high: int, step: int) -> int:
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    return max(low, min(high, round(value / step) * step))


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def estimated_multiply_adds(arch: StagedNet) -> int:
    """Return the multiply-adds for one image from a closed formula; the same number as `complexity`, computed much
    faster.

    Example:
        >>> from cnnjax import create
        >>> arch = create("regnet_x_400mf")
        >>> estimated_multiply_adds(arch) == complexity(arch).multiply_adds
        True
    """
    side = -(-arch.input_size // 2) if arch.stem == "imagenet" else arch.input_size
    total = side * side * 9 * arch.channels * arch.stem_width
    inputs = arch.stem_width
    for stage in arch.plan():
        inner = stage.width // stage.bottleneck
        for index in range(stage.depth):
            before, side = side, -(-side // 2) if index == 0 else side
            total += before * before * inputs * inner  # 1x1
            total += side * side * inner * (9 * stage.group_width + stage.width)  # grouped 3x3, 1x1
            if arch.se_ratio:
                total += 2 * inner * max(1, round(arch.se_ratio * inputs))
            if index == 0:  # the shortcut; the stride makes it necessary
                total += side * side * inputs * stage.width
            inputs = stage.width
    return total + inputs * arch.num_classes
