"""One forward pass, and everything that a method may ask of it.

The layers before the (earliest) target layer need no gradient, so they run without: the target layer's output
is detached, made a leaf, and the rest of the pass is recorded. `torch.autograd.grad` then reaches back to that
leaf only. No gradient of a parameter, and none of the image unless it is asked for, is ever made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from sightline.errors import InputError, UnsupportedError, network_error
from sightline.heatmap import as_planes, from_planes, place, spread, upsample
from sightline.inspection.checks import OtherPathError as OtherPathError
from sightline.inspection.checks import check_calls, check_map, one_tensor
from sightline.inspection.finite import first_not_finite
from sightline.inspection.guard import eval_mode, own_thread, unwrapped
from sightline.inspection.inputs import for_rows
from sightline.inspection.layout import NCHW, Layout
from sightline.inspection.moves import Moves
from sightline.inspection.recording import GradientKeeper, OpCounter, tensors_in, with_tensor
from sightline.inspection.relus import Switch, guide_relus
from sightline.inspection.rows import check_rows
from sightline.inspection.structure import Head, LayerRef, explained
from sightline.inspection.tail import tail
from sightline.scores import ScoreRule, rule_for
from sightline.targets import Target, logits_of

Visit = Callable[[int, Tensor], Tensor]  # (number of the site, its tensor) -> the tensor to pass on


@contextmanager
def _tapped(network: nn.Module, sites: Sequence[LayerRef], visit: Visit) -> Iterator[None]:
    """Call ``visit`` when the tensor of a site is made and pass on what it returns; leave no hook behind."""
    counts = dict.fromkeys(range(len(sites)), 0)
    by_op = {site.op: (i, site) for i, site in enumerate(sites) if site.op is not None}

    def at_op(index: int, name: str, args: Any, output: Tensor) -> Tensor | None:
        if index not in by_op:
            return None
        number, site = by_op[index]
        if name != site.function:
            raise OtherPathError(f"the network took another path than before: {site} was {name!r} this time")
        counts[number] += 1
        in_place = name.endswith("_") and args[0] and args[0][0] is output
        return _passed_in_place(visit, number, output) if in_place else visit(number, output)

    counter = OpCounter(at_op) if by_op else None

    def at_module(number: int, site: LayerRef) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            call = counts[number]
            counts[number] += 1
            if call != (site.call or 0):
                return None
            with counter.pause() if counter else ExitStack():
                if getattr(module, "inplace", False) and args and args[0] is output:
                    return _passed_in_place(visit, number, output)
                return with_tensor(output, visit(number, one_tensor(site, output)))

        return hook

    handles = []
    try:
        for number, site in enumerate(sites):
            if site.op is None:
                module = network.get_submodule(site.name)
                handles.append(module.register_forward_hook(own_thread(at_module(number, site))))
        with counter or ExitStack():
            yield
    finally:
        for handle in handles:
            handle.remove()
    for number, site in enumerate(sites):
        check_calls(site, counts[number])


def _passed_in_place(visit: Visit, number: int, output: Tensor) -> Tensor:
    """What `visit` passes on, in the tensor itself: the network may go on with it and discard what is returned."""
    passed = visit(number, output.clone())
    with _unsafe_preserve_version_counter(output):  # its values stay what they are
        return output.copy_(passed)


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: sums over half-precision maps lose what they add."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Evidence:
    """What one forward pass showed; methods are functions of this and a target.

    ``images`` (N, 3, H, W); ``activations`` (N, C, h, w) of the (first) target layer, at least float32, whatever
    the layout of its tensor; ``layers`` the same for every layer asked for; ``logits`` (N, C) or None; ``output``
    as the network gave it. A signal (N, C, L) and a volume (N, C, D, H, W) are shown to methods as pictures, 1 × L and
    D·H × W (`sightline.heatmap.as_planes`); ``grid`` is the true size, (L,), (H, W) or (D, H, W).
    """

    def __init__(
        self, network: nn.Module, images: Tensor, sites: Sequence[LayerRef], settings: dict[str, Any]
    ):
        self.network, self.inputs, self.sites, self.settings = network, images, tuple(sites), settings
        self.grid = tuple(images.shape[2:])
        self.images = as_planes(images, len(self.grid))
        self.head: Head | None = None
        self.scores: str | None = (
            None  # how the user says that logits become probabilities; None: to be found
        )
        self.output: Any = None
        self._switch = Switch()
        self.moves_rows = False  # whether the network could put the rows of a batch into another order inside
        self._one_of_several = False  # another layer leads to the score, if this one does not
        self._nodes: list[Tensor] = []

    @property
    def logits(self) -> Tensor | None:
        logits = logits_of(self.output)
        return None if logits is None else logits.detach()

    @cached_property
    def score_rule(self) -> ScoreRule | None:
        """How this pass's logits become probabilities; None where there are none."""
        logits = logits_of(self.output)
        if logits is None:
            return None
        return rule_for(logits, self.scores, lambda: logits_with_graph(self.network, self.inputs))

    @property
    def layers(self) -> list[Tensor]:
        nodes = zip(self._layouts, self._nodes, strict=True)
        return [self._planes(layout, node.detach()) for layout, node in nodes]

    @property
    def activations(self) -> Tensor:
        return self._planes(self._layouts[0], self._nodes[0].detach())

    def _planes(self, layout: Layout, tensor: Tensor) -> Tensor:
        return _wide(as_planes(layout.to_map(tensor), len(self.grid)))

    def layer_grid(self, number: int = 0) -> tuple[int, ...]:
        """The true size of a layer's maps: (l,), (h, w) or (d, h, w)."""
        return tuple(self._layouts[number].to_map(self._nodes[number]).shape[2:])

    @property
    def _layouts(self) -> list[Layout]:
        return [site.layout or NCHW for site in self.sites]

    def upsampled(self, maps: Tensor, number: int = 0) -> Tensor:
        """Maps (..., h, w) of a layer, the first or another, at the image's size: each cell where it looks."""
        covers = self.sites[number].covers
        if covers is not None and len(self.grid) != 2:
            return as_planes(
                spread(from_planes(maps, self.layer_grid(number)), covers, self.grid), len(self.grid)
            )
        if covers is not None:
            return place(maps, covers, self.size_hw, self.sites[number].unpadded)
        whole = upsample(from_planes(maps, self.layer_grid(number)), self.grid)
        return as_planes(whole, len(self.grid))

    @property
    def size_hw(self) -> tuple[int, int]:
        return (self.images.shape[2], self.images.shape[3])

    def of_layer(self, number: int) -> Evidence:
        """The same pass with one of its layers as the only one."""
        other = copy.copy(self)
        other.sites, other._nodes = (self.sites[number],), [self._nodes[number]]
        other._one_of_several = len(self.sites) > 1
        return other

    def score(self, target: Target) -> Tensor:
        """y^c of each image: (N,)."""
        with torch.no_grad():
            return target(self.output)

    def gradient(self, target: Target) -> Tensor:
        """g = ∂y^c/∂A at the (first) target layer: (N, C, h, w); ask as often as there are targets."""
        return self.gradients(target)[0]

    def gradients(self, target: Target) -> list[Tensor]:
        """The same for every layer; zeros where a further layer does not lead to the score."""
        found = self._differentiate(target, self._nodes)
        if all(one is None for one in found) and not self._one_of_several:
            raise InputError(f"the target does not depend on layer '{self.sites[0]}'")
        return [
            self._planes(layout, g if g is not None else torch.zeros_like(a))
            for layout, g, a in zip(self._layouts, found, self._nodes, strict=True)
        ]

    def hessian_product(self, target: Target) -> Tensor:
        """H A with H = ∂²y^c/∂A² at the (first) target layer: (N, C, h, w); 0 where the score is linear in A."""
        node = self._nodes[0]
        with torch.enable_grad():
            score = target(self.output).sum()
            (slope,) = torch.autograd.grad(score, node, create_graph=True)
        found = None
        if slope.requires_grad:
            (found,) = torch.autograd.grad(slope, node, node.detach(), retain_graph=True, allow_unused=True)
        return self._planes(self._layouts[0], torch.zeros_like(node) if found is None else found)

    def reaches(self, target: Callable[[Any], Any] | None) -> bool:
        """Whether the graph of the score (of the output, without ``target``) leads to a layer, or to the image."""
        with torch.enable_grad():
            ends = tensors_in(explained(target)(self.output))
        wanted = {torch.autograd.graph.get_gradient_edge(x).node for x in self._nodes or [self.inputs]}
        todo = [t.grad_fn for t in ends if t.grad_fn is not None]
        seen: set[Any] = set()
        while todo:
            node = todo.pop()
            if node in wanted:
                return True
            if node not in seen:
                seen.add(node)
                todo.extend(following for following, _ in node.next_functions if following is not None)
        return not ends  # no tensor at all: whoever asks for the score will say so

    def input_gradient(self, target: Target, *, guided: bool = False) -> Tensor:
        """∂y^c/∂x: (N, 3, H, W); ``guided``: through the ReLUs by Springenberg's rule, on the same pass."""
        if guided and not self.settings["guided"]:
            raise RuntimeError('this method must be registered with needs=("guided", ...)')
        self._switch.guided = guided
        try:
            (found,) = self._differentiate(target, [self.inputs])
        finally:
            self._switch.guided = False
        if found is None:
            raise InputError("the target does not depend on the image")
        return as_planes(found, len(self.grid))

    def _differentiate(self, target: Target, inputs: list[Tensor]) -> list[Tensor | None]:
        with torch.enable_grad():
            score = target(self.output).sum()
            if not score.requires_grad:
                raise InputError(
                    f"no gradient reaches {[str(s) for s in self.sites] or 'the image'} from the target: "
                    "the network or the target computes it without gradient"
                )
            return list(torch.autograd.grad(score, inputs, retain_graph=True, allow_unused=True))

    def rescore(self, images: Tensor, rows: Tensor | None = None) -> Any:
        """The network's output for other images, without gradient: for perturbations of the image.

        ``rows[i]``: which of the observed images row i shows, changed; without ``rows`` it is image i, or the only one.
        """
        network = self.network if rows is None else for_rows(self.network, rows)
        with eval_mode(self.network), torch.no_grad():
            return _run(network, from_planes(images, self.grid))

    def rescorer(self) -> Callable[[Tensor, Tensor], Any]:
        """A function (activations (M, C, h, w), rows (M,)) -> output, with the target layer so replaced.

        ``rows[i]`` is the image that activation i belongs to; the activations may be overwritten. Only what lies
        behind the layer runs again where `torch.fx` can trace the network; else the whole network does, with the
        same result.
        """
        if self.moves_rows:
            check_rows(
                self.network, self.inputs.detach(), self.sites[:1], "use 'gradcam', on one image at a time"
            )
        given, layout = self._nodes[0].detach(), self._layouts[0]
        behind = tail(self.network, self.sites[0], self.inputs.detach(), given, self.output)
        grid = self.layer_grid()

        def rescore(activations: Tensor, rows: Tensor) -> Any:
            with eval_mode(self.network), torch.no_grad():
                images = self.inputs.detach()
                activations = from_planes(activations, grid)
                activations = layout.from_map(activations.to(given.dtype), given[rows])
                if behind is not None:
                    return behind(images, rows, activations)
                images = images[rows]
                network = for_rows(self.network, rows)
                with _tapped(network, self.sites[:1], lambda i, x: activations.clone()):
                    return _run(network, images)

        return rescore

    def rescore_from(self, activations: Tensor, rows: Tensor | None = None) -> Any:
        """One call of `rescorer`; without ``rows`` activation i belongs to image i."""
        every = torch.arange(len(activations), device=activations.device)
        return self.rescorer()(activations.clone(), every if rows is None else rows)

    def at(self, images: Tensor) -> Evidence:
        """The same observation of other images (noisy ones, say)."""
        other = observe(self.network, from_planes(images, self.grid), self.sites, **self.settings)
        other.head, other.scores, other.moves_rows = self.head, self.scores, self.moves_rows
        return other

    def classifier_weights(self) -> tuple[Tensor, Tensor]:
        """W (classes, C) and b (classes,) of the head that was recognised, at least float32."""
        if self.head is None:
            raise UnsupportedError("this network's head is not pooling and one linear layer")
        module = self.network.get_submodule(self.head.module)
        with eval_mode(self.network):  # to read a spectral norm's weight in training mode is to change it
            weight, bias = module.weight, getattr(module, "bias", None)
        assert isinstance(weight, Tensor)
        weight = _wide(weight.detach().flatten(1))
        none = weight.new_zeros(len(weight))
        return weight, _wide(bias.detach()) if isinstance(bias, Tensor) else none


def logits_with_graph(network: nn.Module, images: Tensor) -> Tensor | None:
    """The logits with the names of the operations that made them; no tensor is kept for a backward pass.

    >>> logits_with_graph(nn.Linear(2, 2), torch.zeros(1, 2)).grad_fn.name()
    'AddmmBackward0'
    """
    nothing = torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda nothing: nothing)
    leaf = images.detach().clone().requires_grad_()
    with eval_mode(network), torch.enable_grad(), nothing:
        return logits_of(network(leaf))


def _run(network: nn.Module, images: Tensor) -> Any:
    """The network's output, or its own failure in one line."""
    if torch.compiler.is_compiling():
        return network(images)
    try:
        return network(images)
    except (InputError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise network_error(network, images.shape, error) from error


def refuse_inference_mode() -> None:
    """Raise `InputError` inside `torch.inference_mode`; a network must not even be looked at there."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "called inside torch.inference_mode(), where no gradient exists; use torch.no_grad()"
        )


def observe(
    network: nn.Module,
    images: Tensor,
    sites: Sequence[LayerRef] = (),
    *,
    gradient: bool = True,
    input_gradient: bool = False,
    guided: bool = False,
    interrupts: bool = False,
    moves: Moves | None = None,
) -> Evidence:
    """Run ``network`` once on ``images`` (N, 3, H, W) in eval mode and keep what happens at ``sites``.

    ``gradient``: keep the graph from the earliest site to the output. ``input_gradient``: keep the whole graph,
    from the image. ``interrupts``: the network switches gradients off inside, which is to be overruled. Modes,
    hooks, grad mode and ``requires_grad`` are afterwards as before, also on an error. ``moves`` counts what the
    network does to positions, up to the last of the sites.
    Raises `InputError` inside `torch.inference_mode`, for a layer that is not one spatial map, and for NaN or
    Inf in the output (naming the layer that made it).

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> observe(net, torch.zeros(2, 3, 8, 8), [LayerRef("1")]).activations.shape
    torch.Size([2, 4, 6, 6])
    """
    refuse_inference_mode()
    images = images.clone() if images.is_inference() else images.detach()
    network = unwrapped(network)
    settings: dict[str, Any] = {
        "gradient": gradient,
        "input_gradient": input_gradient,
        "guided": guided,
        "interrupts": interrupts,
    }
    keeper = GradientKeeper() if interrupts and (gradient or input_gradient) else None
    leaf = images.clone().requires_grad_() if input_gradient else images
    evidence = Evidence(network, leaf, sites, settings)
    nodes: dict[int, Tensor] = {}

    def visit(number: int, tensor: Tensor) -> Tensor:
        if moves is None:
            return at_site(number, tensor)
        with moves.pause():
            passed = at_site(number, tensor)
        moves.ended = len(nodes) == len(sites)
        return passed

    def at_site(number: int, tensor: Tensor) -> Tensor:
        check_map(sites[number], tensor, images)
        if gradient and (keeper is not None or not tensor.requires_grad):
            tensor = _leaf(tensor, keeper)
        nodes[number] = tensor
        return tensor.clone()  # an in-place operation behind the layer must not overwrite what was observed

    with eval_mode(network), torch.set_grad_enabled(input_gradient), keeper.on() if keeper else ExitStack():
        if keeper is not None and input_gradient:
            keeper.start()
        with moves or ExitStack(), _tapped(network, sites, visit):
            evidence.output = _run(network, leaf)
    evidence._nodes = [nodes[i] for i in range(len(sites))]
    if guided:
        guide_relus(evidence.output, evidence._switch)  # not the evidence: it holds the graph
    # An exporter cannot follow a branch on values; there the check has nothing to look at.
    compiling, logits = torch.compiler.is_compiling(), evidence.logits
    if not compiling and logits is not None and not torch.isfinite(logits).all():
        raise InputError(first_not_finite(network, images))
    return evidence


def _leaf(tensor: Tensor, keeper: GradientKeeper | None) -> Tensor:
    """The tensor of the earliest layer as the leaf of the graph, which is recorded from here on."""
    if keeper is not None:
        keeper.start()
        if tensor.requires_grad:
            return tensor
        tensor = tensor.clone() if tensor.is_inference() else tensor
    torch.set_grad_enabled(True)
    return tensor.detach().requires_grad_()
