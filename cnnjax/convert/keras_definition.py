"""The definition of a model in a Keras file, as a list of layers: what precedes the network, and what its head is.

A file of a whole model holds its layers as JSON. Nested models are flattened, so that every layer has one name. Layers
are data here; `keras_layers` computes what they define.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cnnjax.errors import UserError, quoted

MODELS = ("Functional", "Model", "Sequential")
IDENTITIES = (
    "ActivityRegularization", "Dropout", "GaussianDropout", "GaussianNoise", "RandomBrightness", "RandomContrast",
    "RandomFlip", "RandomHeight", "RandomRotation", "RandomTranslation", "RandomWidth", "RandomZoom",
    "SpatialDropout2D",
)  # fmt: skip
"""Layers that change nothing outside training."""
MOST_LAYERS = 10_000
DEEPEST = 20
"""Maximum depth of nested models."""


class Layer(NamedTuple):
    """One layer: its unique name, Keras class, configuration and the names of its inputs."""

    name: str
    kind: str
    config: Mapping[str, Any]
    inputs: tuple[str, ...]


class Definition(NamedTuple):
    """A model: its layers by name, in the order of computation, from one input to one output."""

    layers: dict[str, Layer]
    input: str
    output: str

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Height, width and channels of the images, as far as the file states them."""
        config = self.layers[self.input].config
        shape = config.get("batch_shape") or config.get("batch_input_shape") or (None,) * 4
        return tuple(shape[1:])


def parse_definition(config: Any) -> Definition:
    """Return the layers of a model from its configuration.

    Raises:
        UserError: the model has several inputs or outputs, a layer is used twice, or two layers have the same name.
    """
    try:
        layers: dict[str, Layer] = {}
        source, output = _add_model(config, None, layers, 0)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise UserError(f"the model's configuration is not one that Keras writes ({error!r}); save it again") from error
    return Definition(layers, source, output)


def _add_model(model: Any, source: str | None, layers: dict[str, Layer], depth: int) -> tuple[str, str]:
    """Add a model's layers, whose input is the layer ``source`` (None: its own); return its input and its output."""
    if depth > DEEPEST:
        raise UserError(f"the models of the file are nested more than {DEEPEST} deep; save the inner one alone")
    entries = model["config"]["layers"]
    if model["class_name"] == "Sequential":
        return _add_sequence(entries, source, layers, depth)
    inputs, outputs = (_references(model["config"][name]) for name in ("input_layers", "output_layers"))
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(f"the model has {len(inputs)} inputs and {len(outputs)} outputs; only one of each is supported")
    names: dict[str, str] = {}  # a name in this model -> the layer that computes it
    first = source
    for entry in entries:
        name = entry.get("name") or entry["config"]["name"]
        if entry["class_name"] == "InputLayer":
            names[name] = source or _add(layers, Layer(name, "InputLayer", entry["config"], ()))
            first = first or name
            continue
        nodes = entry["inbound_nodes"]
        if len(nodes) != 1:
            raise UserError(
                f"layer {quoted(name)} is used {len(nodes)} times; only layers that are used once are supported"
            )
        names[name] = _add_layer(entry, name, tuple(names[other] for other in _inbound(nodes[0])), layers, depth)
    assert first is not None
    return first, names[outputs[0]]


def _add_sequence(entries: Any, source: str | None, layers: dict[str, Layer], depth: int) -> tuple[str, str]:
    current = first = source
    for entry in entries:
        config = entry["config"]
        if entry["class_name"] == "InputLayer":
            current = current or _add(layers, Layer(config["name"], "InputLayer", config, ()))
        elif current is None:  # without an InputLayer, the first layer states the shape of the images
            current = _add(
                layers, Layer("input", "InputLayer", {"batch_input_shape": config.get("batch_input_shape")}, ())
            )
            current = _add_layer(entry, config["name"], ("input",), layers, depth)
            first = "input"
            continue
        else:
            current = _add_layer(entry, config["name"], (current,), layers, depth)
        first = first or current
    assert first is not None and current is not None
    return first, current


def _add_layer(entry: Any, name: str, inputs: tuple[str, ...], layers: dict[str, Layer], depth: int) -> str:
    if entry["class_name"] in MODELS:
        if len(inputs) != 1:
            raise UserError(f"the nested model {quoted(name)} has {len(inputs)} inputs; only one is supported")
        return _add_model(entry, inputs[0], layers, depth + 1)[1]
    return _add(layers, Layer(name, entry["class_name"], entry["config"], inputs))


def _add(layers: dict[str, Layer], layer: Layer) -> str:
    if layer.name in layers:
        raise UserError(f"two layers of the file are named {quoted(layer.name)}; rename one in Keras and save again")
    if len(layers) >= MOST_LAYERS:
        raise UserError(f"the file has more than {MOST_LAYERS:,} layers")
    layers[layer.name] = layer
    return layer.name


def _references(entries: Any) -> list[str]:
    """Return layer names from ``[["name", 0, 0], ...]``, or from ``["name", 0, 0]`` for a single one."""
    return [entries[0]] if isinstance(entries[0], str) else [entry[0] for entry in entries]


def _inbound(node: Any) -> Iterator[str]:
    """Yield the names of a layer's inputs, as written by Keras 3 (a dict of arguments) or Keras 2 (a list)."""
    if isinstance(node, dict):
        yield from _tensors(node["args"])
    else:
        yield from (entry[0] for entry in ([node] if isinstance(node[0], str) else node))


def _tensors(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield value["config"]["keras_history"][0]
    elif isinstance(value, list):
        for item in value:
            yield from _tensors(item)


class HeadLayer(NamedTuple):
    """A dense layer of the head: its name, width and activation, and the rate of the dropout before it."""

    name: str
    units: int
    activation: str
    dropout: float


class Head(NamedTuple):
    """The dense layers after the embedding, and the name of the layer that gives the embedding."""

    embedding: str
    layers: tuple[HeadLayer, ...]


def find_head(definition: Definition, backbone: frozenset[str]) -> Head:
    """Return the head: the dense layers at the end of the model that are not in the ``backbone``.

    Raises:
        UserError: a layer between two dense layers of the head is of a kind that no head here has.
    """
    found: list[HeadLayer] = []
    embedding = definition.output
    name, activation = definition.output, "linear"
    while (layer := definition.layers[name]).name not in backbone and len(layer.inputs) == 1:
        if layer.kind == "Dense":
            own = activation_name(layer)
            if "linear" not in (own, activation):
                raise UserError(f"layer {quoted(name)} has the activation {own}, and {activation} follows it")
            embedding, rate = _before_dropout(definition, layer.inputs[0])
            found.insert(0, HeadLayer(name, layer.config["units"], activation if own == "linear" else own, rate))
            name, activation = embedding, "linear"
        elif layer.kind in ("Activation", "ReLU", "Softmax") and activation == "linear":
            name, activation = layer.inputs[0], activation_name(layer)
        elif layer.kind in IDENTITIES:
            name = layer.inputs[0]
        else:
            break
    names = list(definition.layers)
    for earlier in names[: names.index(name)]:
        if definition.layers[earlier].kind == "Dense" and earlier not in backbone:
            raise UserError(
                f"layer {quoted(name)} ({layer.kind}) comes after the dense layer {quoted(earlier)}; a head consists "
                "of dense layers, activations and dropout"
            )
    return Head(embedding, tuple(found))


def _before_dropout(definition: Definition, name: str) -> tuple[str, float]:
    """Return the layer whose output reaches ``name`` through layers for training only, and their dropout rate."""
    kept = 1.0
    while (layer := definition.layers[name]).kind in IDENTITIES:
        kept *= 1 - float(layer.config["rate"]) if layer.kind == "Dropout" else 1
        name = layer.inputs[0]
    return name, round(1 - kept, 12)


def find_prefix(definition: Definition) -> list[Layer]:
    """Return the layers that scale the images before the network, in order."""
    prefix, name = [], definition.input
    while len(users := [layer for layer in definition.layers.values() if name in layer.inputs]) == 1:
        if users[0].kind not in ("Rescaling", "Normalization", *IDENTITIES):
            break
        name = users[0].name
        prefix.append(users[0])
    return [layer for layer in prefix if layer.kind not in IDENTITIES]


def renamed(definition: Definition, names: Mapping[str, str]) -> Definition:
    """Return the definition with some layers renamed."""
    layers = {
        names.get(name, name): Layer(
            names.get(name, name), layer.kind, layer.config, tuple(names.get(other, other) for other in layer.inputs)
        )
        for name, layer in definition.layers.items()
    }
    return Definition(
        layers, names.get(definition.input, definition.input), names.get(definition.output, definition.output)
    )


def activation_name(layer: Layer) -> str:
    """Return the name of a layer's activation function, such as ``relu``; ``linear`` if it has none.

    Raises:
        UserError: the activation is not given by name.
    """
    if layer.kind in ("Softmax", "ReLU"):
        return layer.kind.lower()
    value = layer.config.get("activation") or "linear"
    if isinstance(value, dict):  # an object that Keras serialized
        value = value.get("config") if isinstance(value.get("config"), str) else value.get("class_name")
    if not isinstance(value, str):
        raise UserError(
            f"layer {quoted(layer.name)} has the activation {quoted(json.dumps(value))}, which is not known"
        )
    return value.lower()
