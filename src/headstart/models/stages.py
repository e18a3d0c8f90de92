"""Cuts a body into stages: functions that run one after the other and equal the whole.

A `torch.fx` trace is cut where timm's `group_matcher` starts a new layer group and exactly one
value crosses. The trace stays coarse: a module whose parameters all belong to one group is not
looked into, nor is one that holds parameters itself or reads `self.training`; a trace that went
through the latter would bake the mode of the moment in, and be silently wrong in the other one.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import torch
from torch import fx, nn

from headstart.models.backbones import evaluating

Run = Callable[[nn.Module, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Stage:
    """A contiguous part of a body.

    `run(body, inputs)` computes it; it holds no tensors of its own and looks everything up in the
    body that it is given, so copies and moves of the body stay whole. `modules` are the dotted names
    of the modules that it calls (`""` is the body itself) and `tensors` those of the parameters that
    it reads directly.
    """

    name: str
    run: Run
    modules: tuple[str, ...]
    tensors: tuple[str, ...] = ()
    output: tuple[int, ...] = ()

    def parameters(self, body: nn.Module) -> dict[str, nn.Parameter]:
        """Return the stage's parameters by their names in the body; a tied one by its first name."""
        named = [
            entry for name in self.modules for entry in body.get_submodule(name).named_parameters(prefix=name)
        ]
        named += [(name, body.get_parameter(name)) for name in self.tensors]
        first = {id(parameter): name for name, parameter in reversed(named)}
        return {name: parameter for name, parameter in named if first[id(parameter)] == name}


def cut(body: nn.Module, example: torch.Tensor, features: torch.Tensor) -> list[Stage]:
    """Cut a body into stages, in the order in which they run; one stage where it cannot be cut.

    `features` is what the body makes of `example` in evaluation mode; stages that do not come to
    just the same are not used. Together the stages hold every parameter of the body once.
    """
    try:
        groups = _layer_groups(body)
        graph = _trace(body, groups) if groups else None
        stages = _stages(body, graph, groups) if graph else []
        measured = _measured(body, stages, example, features)
    except Exception:  # a body's matcher, its forward on stand-ins, code from a wrong branch: anything
        measured = []
    return measured or [Stage("body", _run_whole, ("",), output=tuple(features.shape[1:]))]


def _run_whole(body: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, body(inputs))


def _layer_groups(body: nn.Module) -> dict[str, int]:
    """Layer group numbers by parameter name, from the model's own matcher; empty without one."""
    matcher: Any = getattr(body, "group_matcher", None)
    if matcher is None:
        return {}
    from timm.models import group_parameters

    return cast(dict[str, int], group_parameters(body, matcher(coarse=True), reverse=True))


@cache
def _reads_training(kind: Hashable) -> bool:
    """Whether the source of a module class (or of a class it inherits from) asks for its mode."""
    for base in cast(type[nn.Module], kind).__mro__:
        if base is nn.Module:
            return False
        try:
            if "self.training" in inspect.getsource(base):
                return True
        except (OSError, TypeError):
            return True
    return False


class _CoarseTracer(fx.Tracer):
    def __init__(self, groups: Mapping[str, int]) -> None:
        import timm.models

        registry: Any = timm.models
        super().__init__(autowrap_functions=tuple(registry.get_notrace_functions()))
        self._groups = groups
        self._opaque = tuple(registry.get_notrace_modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        prefix = module_qualified_name + "."
        groups = {group for name, group in self._groups.items() if name.startswith(prefix)}
        own = [*m.parameters(recurse=False), *m.buffers(recurse=False)]
        return (
            len(groups) < 2
            or bool(own)
            or isinstance(m, self._opaque)
            or _reads_training(cast(Hashable, type(m)))
        )


def _trace(body: nn.Module, groups: Mapping[str, int]) -> fx.Graph | None:
    """Trace the body in both modes; None where the modes differ."""
    graphs: list[fx.Graph] = []
    with evaluating(body):
        for training in (True, False):
            body.train(training)
            graphs.append(_CoarseTracer(groups).trace(body))
    return graphs[0] if str(graphs[0]) == str(graphs[1]) else None


def _stages(body: nn.Module, graph: fx.Graph, groups: Mapping[str, int]) -> list[Stage]:
    steps = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    starts = _starts(body, graph, steps, groups)
    stages: list[Stage] = []
    for first, last in zip(starts, [*starts[1:], len(steps)], strict=True):
        stages.append(_stage(body, graph, steps, first, last, is_first=not stages))
    # The classifier has a pool and a head of its own.
    names = ["pool", "head", *(stage.name for stage in stages)]
    stages = [
        stage if names.count(stage.name) == 1 else replace(stage, name=f"body.{stage.modules[0]}")
        for stage in stages
    ]
    held = {name for stage in stages for name in stage.parameters(body)}
    unused = tuple(name for name, _ in body.named_parameters() if name not in held)
    return [*stages[:-1], replace(stages[-1], tensors=stages[-1].tensors + unused)]


def _starts(
    body: nn.Module, graph: fx.Graph, steps: Sequence[fx.Node], groups: Mapping[str, int]
) -> list[int]:
    """The numbers of the steps at which a stage starts."""
    wanted: list[tuple[int, int]] = []
    current, last_with_parameters = -1, -1
    for number, node in enumerate(steps):
        # A tied parameter has a group under its first name only.
        numbers = [groups[name] for name in _parameters_of(body, node) if name in groups]
        if not numbers:
            continue
        group = max(numbers)
        if group > current:
            if current >= 0:
                wanted.append((number, last_with_parameters + 1))
            current = group
        last_with_parameters = number
    shared = _shared_spans(body, steps)
    starts = [0]
    for latest, earliest in wanted:
        for place in range(latest, max(earliest, starts[-1] + 1) - 1, -1):
            torn = any(first < place <= last for first, last in shared)
            if not torn and len(_crossing(graph, steps, place)) == 1:
                starts.append(place)
                break
    ends = [*starts[1:], len(steps)]
    # A norm alone is no stage: what holds no matrix belongs to the stage before it.
    return [0] + [
        start for start, end in zip(starts, ends, strict=True) if start and _matrix(body, steps[start:end])
    ]


def _matrix(body: nn.Module, steps: Sequence[fx.Node]) -> bool:
    names = [name for node in steps for name in _parameters_of(body, node)]
    return any(body.get_parameter(name).ndim > 1 for name in names)


def _parameters_of(body: nn.Module, node: fx.Node) -> list[str]:
    """The parameters that a step uses: its module's, and those handed to it."""
    names = [str(n.target) for n in node.all_input_nodes if n.op == "get_attr" and _is_parameter(body, n)]
    if node.op == "call_module":
        module = body.get_submodule(str(node.target))
        names += [name for name, _ in module.named_parameters(prefix=str(node.target))]
    return names


def _is_parameter(body: nn.Module, node: fx.Node) -> bool:
    holder, _, name = str(node.target).rpartition(".")
    return name in body.get_submodule(holder)._parameters


def _shared_spans(body: nn.Module, steps: Sequence[fx.Node]) -> list[tuple[int, int]]:
    """For tensors that several steps use (tied weights, batch norm buffers): first and last user."""
    users: dict[int, list[int]] = {}
    for number, node in enumerate(steps):
        tensors: list[torch.Tensor] = []
        if node.op == "call_module":
            module = body.get_submodule(str(node.target))
            tensors += [*module.parameters(), *module.buffers()]
        tensors += [
            body.get_parameter(str(n.target))
            for n in node.all_input_nodes
            if n.op == "get_attr" and _is_parameter(body, n)
        ]
        for tensor in tensors:
            users.setdefault(id(tensor), []).append(number)
    return [(min(numbers), max(numbers)) for numbers in users.values() if len(numbers) > 1]


def _crossing(graph: fx.Graph, steps: Sequence[fx.Node], place: int) -> list[fx.Node]:
    """The values that are made before a step and used from it on (constants do not count)."""
    before = set(steps[:place]) | set(_inputs(graph)[:1])
    return [node for node in before if any(user not in before for user in node.users)]


def _inputs(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _stage(
    body: nn.Module, graph: fx.Graph, steps: Sequence[fx.Node], first: int, last: int, *, is_first: bool
) -> Stage:
    part = fx.Graph()
    picture, *options = _inputs(graph)
    entering = picture if is_first else _crossing(graph, steps, first)[0]
    known: dict[fx.Node, Any] = {entering: part.placeholder("inputs")}
    # Further arguments of the body's forward keep their defaults.
    known |= {node: node.args[0] if node.args else None for node in options}

    def look_up(node: fx.Node) -> Any:
        if node not in known:
            known[node] = part.node_copy(node)  # a constant of the body
        return known[node]

    for node in steps[first:last]:
        copied = part.create_node(
            node.op,
            node.target,
            fx.node.map_arg(node.args, look_up),
            fx.node.map_arg(node.kwargs, look_up),
            name=node.name,
        )
        known[node] = copied
    (output,) = (node for node in graph.nodes if node.op == "output")
    leaving = output.args[0] if last == len(steps) else _crossing(graph, steps, last)[0]
    part.output(fx.node.map_arg(leaving, look_up))
    part.lint()
    inside = steps[first:last]
    modules = tuple(dict.fromkeys(str(node.target) for node in inside if node.op == "call_module"))
    tensors = tuple(
        dict.fromkeys(
            str(n.target)
            for node in inside
            for n in node.all_input_nodes
            if n.op == "get_attr" and _is_parameter(body, n)
        )
    )
    # The function of the class, not the bound method: it looks modules up in the body it is given.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # code that took the wrong branch; it will not agree
        run = cast(Run, type(fx.GraphModule(body, part)).forward)
    filled = [name for name in modules if any(True for _ in body.get_submodule(name).parameters())]
    return Stage("stem" if is_first else _common_name(filled or list(modules)), run, modules, tensors)


def _common_name(modules: Sequence[str]) -> str:
    """`blocks.3` for blocks.3; `layer1` for layer1.0 and layer1.1; else the first module's name."""
    parts = [name.split(".") for name in modules]
    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common) or modules[0]


def _measured(
    body: nn.Module, stages: Sequence[Stage], example: torch.Tensor, features: torch.Tensor
) -> list[Stage]:
    """The stages with their output shapes; none where they do not hand tensors on, or differ."""
    measured = []
    values: Any = example
    with evaluating(body), torch.no_grad():
        for stage in stages:
            values = stage.run(body, values)
            if not isinstance(values, torch.Tensor):
                return []
            measured.append(replace(stage, output=tuple(values.shape[1:])))
    return measured if torch.equal(values, features) else []
