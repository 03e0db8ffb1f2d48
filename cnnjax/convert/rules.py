"""Converters: readable tables of rules, and the code that applies them.

A rule maps one of our leaves to its name in the source and gives the layout of its axes there. Every leaf of the
network and every tensor of the source is used exactly once, except the tensors that a table lists as ignored. Nothing
is guessed.
"""

import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.convert.tensors import Tensors
from cnnjax.errors import UserError, listed
from cnnjax.functional import Tree, Variables, abstract_variables, leaves_by_path
from cnnjax.models.layers import Arch

LONGEST_NAME = 60
"""Maximum characters of a name from a file in an error message."""


class Layout(NamedTuple):
    """Conversion between a publisher's array and ours; each function is the exact inverse of the other."""

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Layout("as it is", lambda x: x, lambda x: x)
OIHW = Layout("OIHW -> HWIO", lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""torch's convolution kernels, grouped ones too: (out, in, height, width)."""
HWIM = Layout("HWI1 -> HW1O", lambda x: x.transpose(0, 1, 3, 2), lambda x: x.transpose(0, 1, 3, 2))
"""Keras's depthwise kernels with a multiplier of 1: (height, width, in, 1)."""
OI = Layout("OI -> IO", np.transpose, np.transpose)
"""torch's dense kernels: (out, in)."""


class Rule(NamedTuple):
    """One row: ``theirs`` and ``ours`` are names with numbers in braces, such as ``layer{s}.{b}`` and ``stage{s}/{b}``.

    A number in the source's name may be shifted: ``conv{s+1}_block{b+1}``.
    """

    theirs: str
    ours: str
    layout: Layout

    def source_name(self, path: str) -> str | None:
        """Return the source's name for one of our leaves, or None if the rule does not match it."""
        match = re.fullmatch(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(self.ours)), path)
        if not match:
            return None
        return re.sub(
            r"\{(\w)([+-]\d+)?\}", lambda braces: str(int(match[braces[1]]) + int(braces[2] or 0)), self.theirs
        )


Rules = tuple[Rule, ...]


def flattened(height: int, width: int, channels: int) -> Layout:
    """Return the layout of a dense kernel on a flattened map: torch flattens [C, H, W], and we flatten [H, W, C]."""
    size = height * width * channels
    return Layout(
        f"O(CHW) -> (HWC)O with {height}x{width}x{channels}",
        lambda x: x.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(size, -1),
        lambda x: x.reshape(height, width, channels, -1).transpose(3, 2, 0, 1).reshape(-1, size),
    )


def torch_conv(theirs: str, ours: str) -> Rules:
    """Return the rules of a convolution in torch's names; the bias is optional."""
    return Rule(f"{theirs}.weight", f"{ours}/kernel", OIHW), Rule(f"{theirs}.bias", f"{ours}/bias", SAME)


def torch_dense(theirs: str, ours: str, layout: Layout = OI) -> Rules:
    """Return the rules of a dense layer in torch's names."""
    return Rule(f"{theirs}.weight", f"{ours}/kernel", layout), Rule(f"{theirs}.bias", f"{ours}/bias", SAME)


def torch_norm(theirs: str, ours: str) -> Rules:
    """Return the rules of a batch norm in torch's names."""
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return tuple(Rule(f"{theirs}.{their}", f"{ours}/{our}", SAME) for their, our in names.items())


def torch_conv_norm(theirs: str, ours: str, conv: str = "conv", norm: str = "bn") -> Rules:
    """Return the rules of a `ConvNormAct`; ``conv`` and ``norm`` are the publisher's names of its two layers."""
    return *torch_conv(f"{theirs}.{conv}", f"{ours}/conv"), *torch_norm(f"{theirs}.{norm}", f"{ours}/norm")


def keras_layer(theirs: str, ours: str) -> Rules:
    """Return the rules of a convolution or a dense layer in Keras's names; the bias is optional."""
    return tuple(Rule(f"{theirs}/{leaf}", f"{ours}/{leaf}", SAME) for leaf in ("kernel", "bias"))


def keras_separable(theirs: str, ours: str) -> Rules:
    """Return the rules of a separable convolution without a bias in Keras's names."""
    return (
        Rule(f"{theirs}/depthwise_kernel", f"{ours}/depthwise/kernel", HWIM),
        Rule(f"{theirs}/pointwise_kernel", f"{ours}/pointwise/kernel", SAME),
    )


def keras_norm(theirs: str, ours: str) -> Rules:
    """Return the rules of a batch norm in Keras's names."""
    names = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
    return tuple(Rule(f"{theirs}/{their}", f"{ours}/{our}", SAME) for their, our in names.items())


class Table(NamedTuple):
    """A converter: rules, of which the first match applies, and patterns of ignored tensors."""

    rules: Rules
    ignored: tuple[str, ...] = ()
    """Shell patterns of names in the source that no network needs."""
    head: tuple[str, ...] = ()
    """Shell patterns of the head's names, which a network without classes ignores."""

    def find(self, path: str) -> tuple[str, Layout]:
        """Return the source's name and layout for one of our leaves."""
        for rule in self.rules:
            if name := rule.source_name(path):
                return name, rule.layout
        raise UserError(f"this source has no tensor for {path}; choose a form of the network that it publishes")


def table_names(table: Table, arch: Arch) -> set[str]:
    """Return the source's names of all leaves of the network."""
    return {table.find(path)[0] for path in _leaves(abstract_variables(arch))}


def to_variables(table: Table, arch: Arch, tensors: Tensors) -> Variables:
    """Return the network's variables from a source's tensors.

    Raises:
        UserError: a tensor is missing, unexpected, not finite, or of the wrong shape or type.
    """
    expected = abstract_variables(arch)
    wanted = _leaves(expected)
    plan = {path: table.find(path) for path in wanted}
    _check(plan, wanted, table.ignored + (table.head if arch.num_classes == 0 else ()), tensors)
    arrays = {path: layout.to_ours(tensors.read(name)) for path, (name, layout) in plan.items()}
    if bad := sorted(plan[path][0] for path, array in arrays.items() if not np.isfinite(array).all()):
        raise UserError(f"{tensors.path} contains NaN or infinite values, in {listed(bad, 3)}; download the file again")
    if bad := sorted(plan[path][0] for path, array in arrays.items() if path.endswith("/var") and (array < 0).any()):
        raise UserError(f"{tensors.path} contains negative variances, in {listed(bad, 3)}; download the file again")
    return Variables(*(_fill(tree, arrays) for tree in expected))


def from_variables(table: Table, variables: Variables) -> dict[str, np.ndarray]:
    """Return the source's tensors by name: the inverse of `to_variables`."""
    tensors = {}
    for path, leaf in _leaves(variables).items():
        name, layout = table.find(path)
        tensors[name] = np.ascontiguousarray(layout.to_theirs(np.asarray(leaf)))
    return tensors


def _check(
    plan: Mapping[str, tuple[str, Layout]], wanted: Mapping[str, Any], ignored: tuple[str, ...], tensors: Tensors
) -> None:
    """Compare names, shapes and types before any value is read."""
    shapes = tensors.shapes
    missing, wrong = [], []
    for path, (name, layout) in plan.items():
        shape = layout.to_theirs(np.broadcast_to(np.float32(0), wanted[path].shape)).shape
        if name not in shapes:
            missing.append(f"{name} {list(shape)} (our {path})")
        elif shapes[name].shape != shape:
            wrong.append(f"{name} is {list(shapes[name].shape)} instead of {list(shape)} (our {path})")
        elif shapes[name].dtype not in ("float32", "float16", "bfloat16", "float64"):
            wrong.append(f"{name} is {shapes[name].dtype} instead of a float type (our {path})")
    used = {name for name, _ in plan.values()}
    unexpected = [
        f"{name[:LONGEST_NAME]} {list(shapes[name].shape)}"
        for name in shapes
        if name not in used and not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)
    ]
    if not (used & shapes.keys()):
        expected = ", ".join(sorted(used)[:3])
        actual = ", ".join(name[:LONGEST_NAME] for name in sorted(shapes)[:3]) or "nothing"
        raise UserError(
            f"{tensors.path} has none of the {len(used)} tensors of this network and source ({expected}, ...); it "
            f"contains {actual}, ...; check the model, --from and --prefix"
        )
    kinds = {"missing": missing, "unexpected": unexpected, "of the wrong shape or type": wrong}
    kinds = {what: names for what, names in kinds.items() if names}
    if kinds:
        most = 3 if len(kinds) == 1 else 1
        problems = "; ".join(f"{what} ({len(names)}): {listed(names, most)}" for what, names in kinds.items())
        raise UserError(
            f"{tensors.path} does not fit this network: {problems}; check the model, its options such as "
            "--model.num-classes, and --from"
        )


def _leaves(variables: Variables) -> dict[str, Any]:
    """Return parameters and statistics by path; no path occurs in both."""
    params, batch_stats = (leaves_by_path(tree) for tree in variables)
    assert not params.keys() & batch_stats.keys()
    return {**params, **batch_stats}


def _fill(tree: Tree, arrays: Mapping[str, np.ndarray]) -> Tree:
    """Return a tree of the same structure and dtypes that holds the arrays."""
    leaves = [np.ascontiguousarray(arrays[path], leaf.dtype) for path, leaf in leaves_by_path(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
