"""Pure functions over a model definition: `init`, `apply`, `features`, ... Only this file splits and merges modules.

Each function depends only on its arguments, so it composes with `jax.jit` (with the `Arch` static), `jax.grad`,
`jax.vmap` and `jax.eval_shape`. Parameters and batch statistics are plain nested dicts of arrays.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import UserError, choose, listed
from cnnjax.models.heads import without_head
from cnnjax.models.layers import Arch, Features, Network, Outputs, kernel_shape
from cnnjax.ops.dispatch import parameter_dtype
from cnnjax.partition import is_frozen

Tree = dict[str, Any]
"""A nested dict of arrays."""


HEAD = "head"
"""Name of the layers that map an embedding to classes, among a network's parameters."""


class Variables(NamedTuple):
    """State of a network: trainable parameters, and running statistics of its norms (empty without norms).

    Both are nested dicts of arrays, by the names of modules and parameters. Kernels are [H, W, C, C'] in convolutions
    and [C, C'] in dense layers. All arrays are float32, or float64 in a float64 network.

    Example:
        >>> from cnnjax import create
        >>> variables = init(create("lenet"), jax.random.key(0))
        >>> variables.params["conv1"]["kernel"].shape
        (5, 5, 1, 6)
        >>> variables.batch_stats
        {}
    """

    params: Tree
    batch_stats: Tree


class LayerCall(NamedTuple):
    """One call of a layer on a single image. Shapes exclude the batch axis."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...] | None
    parameters: int


Path = tuple[Any, ...]
"""Path of a leaf in a module: attribute names, and indices into lists."""


class _Definition(NamedTuple):
    """A split module: its graph definition, and the shapes of its variables by module path."""

    graph: nnx.GraphDef
    params: dict[Path, jax.ShapeDtypeStruct]
    batch_stats: dict[Path, jax.ShapeDtypeStruct]


@functools.partial(jax.jit, static_argnums=0)
def init(arch: Arch, key: jax.Array) -> Variables:
    """Return initial variables for ``arch``. ``jax.vmap`` over keys makes an ensemble.

    Args:
        arch: the model definition, static in ``jax.jit``.
        key: PRNG key, as of ``jax.random.key``; the same key gives the same variables.

    Returns:
        Parameters as the model file initializes them, running means of 0 and running variances of 1.

    Raises:
        UserError: the network is float64 and JAX is limited to 32 bits.

    Example:
        >>> from cnnjax import create
        >>> ensemble = jax.vmap(lambda key: init(create("lenet"), key))(jax.random.split(jax.random.key(0), 3))
        >>> ensemble.params["head"]["kernel"].shape
        (3, 84, 10)
    """
    _, params, batch_stats = _split(_build(arch, _rngs(key)))
    return Variables(_nest(params), _nest(batch_stats))


def apply(
    arch: Arch, variables: Variables, images: jax.Array, *, train: bool = False, key: jax.Array | None = None,
    remat: tuple[str, ...] = (), frozen: tuple[str, ...] = (),
) -> tuple[Outputs, Tree]:  # fmt: skip
    """Run the network.

    Args:
        arch: the model definition.
        variables: initial, trained, restored or converted variables of ``arch``.
        images: [N, H, W, C] float, preprocessed.
        train: normalize by the batch's statistics and enable dropout; otherwise use the running statistics.
        key: PRNG key for dropout and stochastic depth; needed only with ``train``, and only by networks that use them.
        remat: names of stages (see `stages`), or "all". Their activations are recomputed for the gradient instead of
            stored, which saves memory and costs time; the results are the same up to rounding.
        frozen: patterns of frozen parameters (see `cnnjax.partition`). With ``train``, a module whose parameters are
            all frozen runs in evaluation mode, with everything in it: norms use their running statistics and do not
            change them, dropout and stochastic depth do nothing. If all but the head is frozen, dropout between the
            backbone and the head does nothing either.

    Returns:
        Outputs with logits [N, classes] in float32 (float64 for a float64 network), and the batch statistics, which
        change only with ``train``.

    Raises:
        UserError: the variables do not belong to ``arch``, the images do not fit it, or a stage does not exist.

    Example:
        >>> from cnnjax import create
        >>> arch = create("lenet")
        >>> outputs, _ = apply(arch, init(arch, jax.random.key(0)), jnp.zeros((8, 28, 28, 1)))
        >>> outputs.logits.shape
        (8, 10)
    """
    _check_images(arch, images)
    module = _merge(arch, variables)
    module.train() if train else module.eval()
    if train and frozen:
        _freeze(arch, module, frozen)
    module.remat = chosen_stages(arch, remat)
    rngs = None if key is None else nnx.Rngs(default=key)
    outputs = module(_cast(arch, images), rngs)
    _, _, batch_stats = _split(module)
    return _logits(arch, outputs), _nest(batch_stats)


def features(arch: Arch, variables: Variables, images: jax.Array) -> Features:
    """Return each stage's activation [N, H, W, C] by name, in order, in evaluation mode.

    Args:
        arch: the model definition.
        variables: variables of ``arch``.
        images: [N, H, W, C] float, preprocessed, of any size that the stages accept.

    Returns:
        Activations in the compute dtype of ``arch``. The names are those of the model file, such as ``stem`` and
        ``stage1``.

    Raises:
        UserError: the variables do not belong to ``arch``, or the images have another number of channels.

    Example:
        >>> from cnnjax import create
        >>> arch = create("lenet")
        >>> maps = features(arch, init(arch, jax.random.key(0)), jnp.zeros((8, 28, 28, 1)))
        >>> {stage: x.shape for stage, x in maps.items()}
        {'stage1': (8, 14, 14, 6), 'stage2': (8, 5, 5, 16)}
    """
    _check_images(arch, images)
    module = _merge(arch, variables)
    module.eval()
    return module.features(_cast(arch, images))


def apply_after(arch: Arch, variables: Variables, stage: str, activations: Features) -> Outputs:
    """Run the rest of a network, after one of its stages, in evaluation mode.

    Args:
        arch: the model definition.
        variables: variables of ``arch``.
        stage: name of the stage whose activation the rest of the network reads; see `stages`.
        activations: the result of `features`; the activation of ``stage`` may be changed.

    Returns:
        The outputs; `apply` on the same images returns the same if no activation was changed.
    """
    names = stages(arch)
    first = {name: activations[name] for name in names[: names.index(stage) + 1]}
    module = _merge(arch, variables)
    module.eval()
    return _logits(arch, module.classify(module.continue_from(first, first[stage])))


def _freeze(arch: Arch, module: Network, patterns: tuple[str, ...]) -> None:
    """Put every module whose parameters are all frozen into evaluation mode."""
    params = {path: is_frozen("/".join(map(str, path)), patterns) for path in _definition(arch).params}
    only_head = all(frozen for path, frozen in params.items() if str(path[0]) != HEAD)
    for path, part in nnx.iter_modules(module):
        below = [frozen for leaf, frozen in params.items() if leaf[: len(path)] == path]
        outside = only_head and not below and str(path[0]) != HEAD
        if outside or (below and all(below)):
            part.eval()


@functools.lru_cache(maxsize=256)
def parameter_groups(arch: Arch) -> dict[str, tuple[str, ...]]:
    """Return the paths of the parameters of each stage, in order, and of the ``head``, from input to output.

    The head consists of the parameters that the network lacks if it has no classes. Other layers after the last stage
    belong to that stage.

    Raises:
        UserError: the network cannot omit its head, or does not declare its stages.
    """
    module = nnx.eval_shape(lambda: _build(arch, _rngs(jax.random.key(0))))
    modules = {id(node): path for path, node in nnx.iter_graph(module)}
    try:
        stages = {stage.name: [modules[id(layer)] for layer in stage.layers] for stage in module.stages()}
    except NotImplementedError:
        raise UserError(
            f"the network {arch.family} declares no stages; implement stages() to train it in phases"
        ) from None
    body, last = _definition(without_head(arch)).params, next(reversed(stages), HEAD)
    groups: dict[str, list[str]] = {name: [] for name in [*stages, HEAD]}
    for path in _definition(arch).params:
        owners = (name for name, layers in stages.items() if any(path[: len(layer)] == layer for layer in layers))
        groups[next(owners, last) if path in body else HEAD].append("/".join(map(str, path)))
    return {name: tuple(paths) for name, paths in groups.items() if paths}


@functools.lru_cache(maxsize=256)
def embedding_size(arch: Arch) -> int:
    """Return the length of a network's embedding, without allocating the network."""
    body = without_head(arch)
    images = jax.ShapeDtypeStruct((1, *body.image_shape), jnp.float32)
    outputs, _ = jax.eval_shape(functools.partial(apply, body), abstract_variables(body), images)
    return outputs.logits.shape[1]


@functools.lru_cache(maxsize=256)
def stages(arch: Arch) -> tuple[str, ...]:
    """Return the names of the stages, in the order of `features`."""
    names: list[str] = []

    def trace(images: jax.Array) -> None:
        module = _build(arch, _rngs(jax.random.key(0)))
        module.eval()
        names.extend(module.features(_cast(arch, images)))

    jax.eval_shape(trace, jax.ShapeDtypeStruct((1, *arch.image_shape), jnp.float32))
    return tuple(names)


def chosen_stages(arch: Arch, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the named stages, or every stage for "all"; raise UserError for an unknown name."""
    if not names:
        return ()
    for name in names:
        choose("remat stage", name, (*stages(arch), "all"))
    return stages(arch) if "all" in names else names


def abstract_variables(arch: Arch) -> Variables:
    """Return the variables' shapes and dtypes without allocating them."""
    require_precision(arch)  # on every call, because `_definition` is cached
    definition = _definition(arch)
    return Variables(_nest(definition.params), _nest(definition.batch_stats))


def layer_calls(arch: Arch, image_shape: tuple[int, int, int] | None = None) -> list[LayerCall]:
    """Return the layer calls on one image (H, W, C), in order, without allocating any array."""
    calls: list[LayerCall] = []

    def record(path: Path, layer: Any, call: Call, x: jax.Array) -> jax.Array | None:
        output = call(x)
        if output is not x and output is not None:  # skip no-ops, such as dropout or a missing shortcut
            parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))
            name = "/".join(map(str, path))
            calls.append(LayerCall(name, kind_of(layer), output.shape[1:], kernel_shape(layer), parameters))
        return output

    def trace(images: jax.Array) -> Outputs:
        return observed_network(arch, record)(_cast(arch, images))

    jax.eval_shape(trace, jax.ShapeDtypeStruct((1, *(image_shape or arch.image_shape)), jnp.float32))
    return calls


Call = Callable[[jax.Array], Any]
"""A layer's own forward pass."""
Observer = Callable[[Path, Any, Call, jax.Array], Any]
"""Function of a layer's path, the layer, its forward pass and its input; returns the output."""


def observed_network(arch: Arch, observe: Observer, whole: tuple[type, ...] = ()) -> Network:
    """Return the network in evaluation mode; ``observe`` runs each layer's calls. For use in a trace.

    Layers are the modules that contain no other module, and the modules of a type in ``whole``.
    """
    module = _build(arch, _rngs(jax.random.key(0)))
    module.eval()
    for path, layer in _layers(module, whole):
        _observe(path, layer, observe)
    return module


def _layers(module: nnx.Module, whole: tuple[type, ...]) -> list[tuple[Path, nnx.Module]]:
    modules = dict(nnx.iter_modules(module))
    parents = {path[:-1] for path in modules if path}
    roots = {path for path, layer in modules.items() if isinstance(layer, whole)}
    inside = {path for path in modules if any(path[:depth] in roots for depth in range(len(path)))}
    return [
        (path, layer)
        for path, layer in modules.items()
        if path not in inside and (path in roots or path not in parents)
    ]


def _observe(path: Path, layer: Any, observe: Observer) -> None:
    """Let ``observe`` run a layer's calls, by turning the layer into an instance of a subclass."""
    kind = type(layer)

    class Observed(kind):  # type: ignore[valid-type, misc]
        def __call__(self, x: jax.Array, *args: Any, **options: Any) -> Any:
            forward = super().__call__
            return observe(path, self, lambda x: forward(x, *args, **options), x)

        def in_one_pass(self, *arguments: Any, in_steps: Callable[[], jax.Array]) -> jax.Array:
            return in_steps()

        def after_depthwise(self, *arguments: Any, in_steps: Callable[[], jax.Array]) -> jax.Array:
            return in_steps()

    object.__setattr__(layer, "__class__", Observed)


def kind_of(layer: Any) -> str:
    """Return the name of a layer's class, for an observed layer too."""
    kind = type(layer)
    return kind.__bases__[0].__name__ if kind.__name__ == "Observed" else kind.__name__


class _CountedInPython(nnx.RngStream):
    """The same keys as `nnx.RngStream`, faster to trace; for building networks.

    Flax counts the keys in a variable. Each write to it in a trace builds an error message from the whole trace so far,
    which is half of the time of building a large network (seen with flax 0.12.8). A forward pass uses Flax's streams,
    because rematerialization may trace a stage twice.
    """

    def __init__(self, key: jax.Array):
        super().__init__(key, tag="default")
        self.drawn = 0

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key.get_value(), self.drawn)
        self.drawn += 1
        return key


def _rngs(key: jax.Array) -> nnx.Rngs:
    rngs = nnx.Rngs()
    setattr(rngs, "default", _CountedInPython(key))  # noqa: B010, as Flax adds its streams
    return rngs


def _build(arch: Arch, rngs: nnx.Rngs) -> Network:
    require_precision(arch)
    return arch.build(rngs)


def require_precision(arch: Arch) -> None:
    """Raise UserError if the network is float64 but JAX truncates float64 to float32."""
    if jax.dtypes.canonicalize_dtype(arch.dtype) != arch.dtype:
        raise UserError(
            "model.dtype is 'float64' and JAX is limited to 32 bits; choose 'float32' or 'bfloat16', or set "
            "JAX_ENABLE_X64=1 or jax.config.update('jax_enable_x64', True) before the first computation"
        )


@functools.lru_cache(maxsize=256)
def _definition(arch: Arch) -> _Definition:
    module = nnx.eval_shape(lambda: _build(arch, _rngs(jax.random.key(0))))
    return _Definition(*_split(module))


def _check_images(arch: Arch, images: jax.Array) -> None:
    if images.ndim != 4 or images.shape[-1] != arch.channels:
        raise UserError(
            f"images have shape {tuple(images.shape)}; the network takes [N, H, W, C] with C = {arch.channels}"
        )


def _merge(arch: Arch, variables: Variables) -> Network:
    check_variables(arch, variables)
    definition = _definition(arch)
    states: list[Any] = [
        nnx.from_flat_state({path: _leaf(tree, path) for path in shapes})
        for tree, shapes in zip(variables, definition[1:], strict=True)
    ]
    return nnx.merge(definition.graph, *states, copy=True)


def check_variables(arch: Arch, variables: Variables) -> None:
    """Raise UserError unless the variables have the key paths, shapes and dtypes of ``arch``.

    Flax matches leaves by position, so a renamed layer or a wrong shape would otherwise merge silently.
    """
    problems = []
    for collection, expected in abstract_variables(arch)._asdict().items():
        wanted, given = leaves_by_path(expected), leaves_by_path(getattr(variables, collection))
        if missing := sorted(wanted.keys() - given.keys()):
            problems.append(f"{collection} missing: {listed(missing, 3)}")
        if unexpected := sorted(given.keys() - wanted.keys()):
            problems.append(f"{collection} not in the network: {listed(unexpected, 3)}")
        for path in sorted(wanted.keys() & given.keys()):
            want, got = wanted[path], given[path]
            if want.shape != got.shape or want.dtype != got.dtype:
                problems.append(f"{collection} {path} is {_describe(got)}, the network has {_describe(want)}")
    if problems:
        first = "; ".join(problems[:3]) + (f"; and {len(problems) - 3:,} more" if len(problems) > 3 else "")
        raise UserError(f"the variables do not match this {arch.family}: {first}")


def leaves_by_path(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a nested dict by path, such as ``"conv1/kernel"``, in order."""
    return {
        "/".join(str(entry.key) for entry in path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }  # fmt: skip


def _cast(arch: Arch, images: jax.Array) -> jax.Array:
    return images.astype(jnp.dtype(arch.dtype))


def _logits(arch: Arch, outputs: Outputs) -> Outputs:
    return jax.tree.map(lambda logits: logits.astype(parameter_dtype(arch.dtype)), outputs)


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _leaf(tree: Any, path: Path) -> Any:
    return functools.reduce(lambda node, name: node[str(name)], path, tree)


def _split(module: nnx.Module) -> tuple[nnx.GraphDef, dict[Path, Any], dict[Path, Any]]:
    """Return a module's graph definition, parameters and batch statistics, as plain arrays by module path."""
    graph, *states = nnx.split(module, nnx.Param, nnx.BatchStat)  # raises if the module holds any other variable
    params, batch_stats = ({path: leaf.get_value() for path, leaf in nnx.to_flat_state(state)} for state in states)
    return graph, params, batch_stats


def _nest(flat: Mapping[Path, Any]) -> Tree:
    tree: Tree = {}
    for path, leaf in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(str(name), {})
        node[str(path[-1])] = leaf
    return tree
