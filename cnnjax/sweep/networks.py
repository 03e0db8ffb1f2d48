"""An axis of networks drawn from design spaces, to compare the spaces as Radosavovic et al. 2020 do.

Every space is a subset of AnyNet (section 3.2 of the paper), so each network is written as the fields of an `AnyNet`,
and one experiment can train networks of different spaces. The option `DESIGN_SPACE` labels each point with its space.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnnjax.errors import UserError, require
from cnnjax.sweep.axes import DESIGN_SPACE, Axis

if TYPE_CHECKING:
    from cnnjax.design_spaces import Budget
    from cnnjax.models.regnet import AnyNet, StagedNet

FIELDS = ("depths", "widths", "bottlenecks", "group_widths", "se_ratio")
"""Fields of an AnyNet that a design space draws."""


def sampled_networks(
    model: "AnyNet", spaces: Sequence[str], count: int, *, budget: "Budget | None" = None, seed: int = 0
) -> Axis:
    """Return the axis of ``count`` networks from each of the design spaces.

    Args:
        model: the network of the experiment, which gives image size, classes, channels, stem and all other fields.
        spaces: names in `cnnjax.design_spaces.SPACES`.
        count: networks of each space.
        budget: bounds on the complexity of each network.
        seed: the same seed draws the same networks.

    Raises:
        UserError: the network is not an AnyNet, a space is unknown or given twice, or the budget is out of reach.

    Example:
        >>> from cnnjax.design_spaces import Budget
        >>> from cnnjax.models.regnet import AnyNet
        >>> from cnnjax.sweep import sampled_networks
        >>> small = AnyNet(input_size=32, stem="cifar", num_classes=10)
        >>> axis = sampled_networks(small, ("AnyNetXA", "RegNetX"), 30, budget=Budget(multiply_adds=(0, 20e6)))
        >>> len(axis.points)
        60
    """
    from cnnjax.design_spaces import Budget, sample  # imported late, because they import JAX
    from cnnjax.models.regnet import AnyNet

    if not isinstance(model, AnyNet):
        raise UserError(f"sampled_networks is given a {type(model).__name__}; give an AnyNet, as in "
                        "experiments/sweep_design_spaces.py")  # fmt: skip
    require(len(set(spaces)) == len(spaces) > 0, "the design spaces", tuple(spaces), "one or more different names")
    require(count >= 1, "the number of networks", count, "1 or more")
    options: dict[str, Any] = {
        name: getattr(model, name) for name in ("input_size", "channels", "num_classes", "stem", "stem_width")
    }
    points = [
        (space, *_fields(network))
        for space in spaces
        for network in sample(space, count, seed, budget or Budget(), **options)
    ]
    return Axis((DESIGN_SPACE, *(f"model.{name}" for name in FIELDS)), tuple(points), drawn=True)


def _fields(network: "StagedNet") -> tuple[Any, ...]:
    """Return the values of `FIELDS` that make an AnyNet the same network."""
    plan = network.plan()
    return (
        tuple(stage.depth for stage in plan), tuple(stage.width for stage in plan),
        tuple(stage.bottleneck for stage in plan), tuple(stage.group_width for stage in plan), network.se_ratio,
    )  # fmt: skip
