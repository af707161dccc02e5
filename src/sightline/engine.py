"""One forward pass, and everything that a method may ask of it.

The layers before the (earliest) target layer need no gradient, so they run without: the target layer's output
is detached, made a leaf, and the rest of the pass is recorded. `torch.autograd.grad` then reaches back to that
leaf only. No gradient of a parameter, and none of the image unless it is asked for, is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import InputError, UnsupportedError
from sightline.inspection.recording import OpCounter, eval_mode, is_spatial, tensors_in
from sightline.inspection.structure import Head, LayerRef
from sightline.inspection.tail import tail
from sightline.scores import ScoreRule, rule_for
from sightline.targets import Target, logits_of

Visit = Callable[[int, Tensor], Tensor]  # (number of the site, its tensor) -> the tensor to pass on

_KINKED = {"ReluBackward0", "HardtanhBackward0"}  # and a clamp at 0 from below
_SMOOTH = {
    "LeakyReluBackward": "leaky ReLU",
    "GeluBackward": "GELU",
    "SiluBackward": "SiLU",
    "HardswishBackward": "hard swish",
    "EluBackward": "ELU",
    "CeluBackward": "CELU",
    "TanhBackward": "tanh",
    "MishBackward": "Mish",
    "SoftplusBackward": "softplus",
    "PreluKernelBackward": "PReLU",
    "RreluWithNoiseBackward": "RReLU",
}
_OPAQUE = ("CheckpointFunction", "CompiledFunction", "DifferentiableGraph")


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
            raise InputError(f"the network took another path than before: {site} was {name!r} this time")
        counts[number] += 1
        return visit(number, output)

    counter = OpCounter(at_op) if by_op else None

    def at_module(number: int, site: LayerRef) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            call = counts[number]
            counts[number] += 1
            if call != (site.call or 0):
                return None
            with counter.pause() if counter else ExitStack():
                return visit(number, _one_tensor(site, output))

        return hook

    handles = []
    try:
        for number, site in enumerate(sites):
            if site.op is None:
                module = network.get_submodule(site.name)
                handles.append(module.register_forward_hook(at_module(number, site)))
        with counter or ExitStack():
            yield
    finally:
        for handle in handles:
            handle.remove()
    for number, site in enumerate(sites):
        _check_calls(site, counts[number])


def _one_tensor(site: LayerRef, output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    inside = ", ".join(str(tuple(t.shape)) for t in tensors_in(output))
    raise InputError(
        f"layer '{site}' returns a {type(output).__name__} of ({inside}); expected one tensor (N, C, h, w): "
        f"name one of its submodules instead"
    )


def _check_calls(site: LayerRef, calls: int) -> None:
    if site.op is None and site.call is None and calls > 1:
        raise InputError(
            f"layer '{site.name}' is called {calls} times in one pass; name one call: "
            + ", ".join(f"'{site.name}#{k}'" for k in range(min(calls, 4)))
        )
    if calls <= (site.call or 0) and (site.op is None or not calls):
        times = f"is called {calls} times" if calls else "is not reached"
        raise InputError(f"layer '{site}' {times} in the forward pass; name one that is")


def _checked_map(site: LayerRef, activation: Tensor) -> None:
    if not is_spatial(activation):
        raise InputError(
            f"layer '{site}' has no spatial map: it returns {tuple(activation.shape)}; expected (N, C, h, w) "
            "with more than one position (`sightline layers MODEL` lists them)"
        )


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: sums over half-precision maps lose what they add."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class _Switch:
    """Whether the next backward pass goes through the ReLUs by the guided rule."""

    guided = False


class Evidence:
    """What one forward pass showed; methods are functions of this and a target.

    ``images`` (N, 3, H, W); ``activations`` (N, C, h, w) of the (first) target layer, at least float32;
    ``layers`` the same for every layer asked for; ``logits`` (N, C) or None; ``output`` as the network gave it.
    """

    def __init__(
        self, network: nn.Module, images: Tensor, sites: Sequence[LayerRef], settings: dict[str, bool]
    ):
        self.network, self.images, self.sites, self.settings = network, images, tuple(sites), settings
        self.head: Head | None = None
        self.scores: str | None = (
            None  # how the user says that logits become probabilities; None: to be found
        )
        self.output: Any = None
        self._switch = _Switch()
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
        return rule_for(logits, self.scores, lambda: logits_with_graph(self.network, self.images))

    @property
    def layers(self) -> list[Tensor]:
        return [_wide(node.detach()) for node in self._nodes]

    @property
    def activations(self) -> Tensor:
        return _wide(self._nodes[0].detach())

    @property
    def size_hw(self) -> tuple[int, int]:
        return (self.images.shape[2], self.images.shape[3])

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
        if found[0] is None:
            raise InputError(f"the target does not depend on layer '{self.sites[0]}'")
        return [
            _wide(g if g is not None else torch.zeros_like(a))
            for g, a in zip(found, self._nodes, strict=True)
        ]

    def input_gradient(self, target: Target, *, guided: bool = False) -> Tensor:
        """∂y^c/∂x: (N, 3, H, W); ``guided``: through the ReLUs by Springenberg's rule, on the same pass."""
        if guided and not self.settings["guided"]:
            raise RuntimeError('this method must be registered with needs=("guided", ...)')
        self._switch.guided = guided
        try:
            (found,) = self._differentiate(target, [self.images])
        finally:
            self._switch.guided = False
        if found is None:
            raise InputError("the target does not depend on the image")
        return found

    def _differentiate(self, target: Target, inputs: list[Tensor]) -> list[Tensor | None]:
        with torch.enable_grad():
            score = target(self.output).sum()
            if not score.requires_grad:
                raise InputError(
                    f"no gradient reaches {[str(s) for s in self.sites] or 'the image'} from the target: "
                    "the network or the target computes it without gradient"
                )
            return list(torch.autograd.grad(score, inputs, retain_graph=True, allow_unused=True))

    def rescore(self, images: Tensor) -> Any:
        """The network's output for other images, without gradient: for perturbations of the image."""
        with eval_mode(self.network), torch.no_grad():
            return self.network(images)

    def rescorer(self) -> Callable[[Tensor, Tensor], Any]:
        """A function (activations (M, C, h, w), rows (M,)) -> output, with the target layer so replaced.

        ``rows[i]`` is the image that activation i belongs to; the activations may be overwritten. Only what lies
        behind the layer runs again where `torch.fx` can trace the network; else the whole network does, with the
        same result.
        """
        given = self._nodes[0].detach()
        behind = tail(self.network, self.sites[0], self.images.detach(), given, self.output)

        def rescore(activations: Tensor, rows: Tensor) -> Any:
            with eval_mode(self.network), torch.no_grad():
                activations, images = activations.to(given.dtype), self.images.detach()
                if behind is not None:
                    return behind(images, rows, activations)
                images = images[rows]
                with _tapped(self.network, self.sites[:1], lambda i, x: activations.clone()):
                    return self.network(images)

        return rescore

    def rescore_from(self, activations: Tensor, rows: Tensor | None = None) -> Any:
        """One call of `rescorer`; without ``rows`` activation i belongs to image i."""
        every = torch.arange(len(activations), device=activations.device)
        return self.rescorer()(activations.clone(), every if rows is None else rows)

    def at(self, images: Tensor) -> Evidence:
        """The same observation of other images (noisy ones, say)."""
        other = observe(self.network, images, self.sites, **self.settings)
        other.head, other.scores = self.head, self.scores
        return other

    def classifier_weights(self) -> tuple[Tensor, Tensor]:
        """W (classes, C) and b (classes,) of the head that was recognised, at least float32."""
        if self.head is None:
            raise UnsupportedError("this network's head is not pooling and one linear layer")
        module = self.network.get_submodule(self.head.module)
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
) -> Evidence:
    """Run ``network`` once on ``images`` (N, 3, H, W) in eval mode and keep what happens at ``sites``.

    ``gradient``: keep the graph from the earliest site to the output. ``input_gradient``: keep the whole graph,
    from the image. Modes, hooks, grad mode and ``requires_grad`` are afterwards as before, also on an error.
    Raises `InputError` inside `torch.inference_mode`, for a layer that is not one spatial map, and for NaN or
    Inf in the output (naming the layer that made it).

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> observe(net, torch.zeros(2, 3, 8, 8), [LayerRef("1")]).activations.shape
    torch.Size([2, 4, 6, 6])
    """
    refuse_inference_mode()
    images = images.clone() if images.is_inference() else images.detach()
    settings = {"gradient": gradient, "input_gradient": input_gradient, "guided": guided}
    leaf = images.clone().requires_grad_() if input_gradient else images
    evidence = Evidence(network, leaf, sites, settings)
    nodes: dict[int, Tensor] = {}

    def visit(number: int, tensor: Tensor) -> Tensor:
        _checked_map(sites[number], tensor)
        if gradient and not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
            torch.set_grad_enabled(True)
        nodes[number] = tensor
        return tensor.clone()  # an in-place operation behind the layer must not overwrite what was observed

    with eval_mode(network), torch.set_grad_enabled(input_gradient), _tapped(network, sites, visit):
        evidence.output = network(leaf)
    evidence._nodes = [nodes[i] for i in range(len(sites))]
    if guided:
        _guide_relus(evidence)
    # An exporter cannot follow a branch on values; there the check has nothing to look at.
    compiling, logits = torch.compiler.is_compiling(), evidence.logits
    if not compiling and logits is not None and not torch.isfinite(logits).all():
        raise InputError(_first_not_finite(network, images))
    return evidence


def _guide_relus(evidence: Evidence) -> None:
    """Before each ReLU's own backward (R·1[f > 0]), clamp what comes from above: R·1[f > 0]·1[R > 0].

    The autograd graph shows every ReLU, module, functional or in place; nothing can slip through unseen.
    """
    seen: set[Any] = set()
    todo = [t.grad_fn for t in tensors_in(evidence.output) if t.grad_fn is not None]
    count = 0
    switch = evidence._switch  # not the evidence: it holds the graph, and the graph would hold it for ever

    def clamp(grads: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (grads[0].clamp(min=0), *grads[1:]) if switch.guided else None

    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        name = node.name()
        _refuse_unguidable(name, node)
        if name in _KINKED or (name.startswith("Clamp") and getattr(node, "_saved_min", None) == 0):
            node.register_prehook(clamp)
            count += 1
        todo.extend(following for following, _ in node.next_functions if following is not None)
    if not count:
        raise UnsupportedError(
            "guided backpropagation needs ReLU and this network has none; use 'saliency' or 'gradcam'"
        )


def _refuse_unguidable(name: str, node: Any) -> None:
    for start, activation in _SMOOTH.items():
        if name.startswith(start):
            raise UnsupportedError(
                f"guided backpropagation is defined for ReLU and this network has {activation}; "
                "use 'saliency' or 'gradcam'"
            )
    if any(word in name for word in _OPAQUE) or isinstance(node, torch.autograd.function.BackwardCFunction):
        raise UnsupportedError(f"guided backpropagation cannot see the ReLUs inside {name}; use 'saliency'")
    if name == "HardtanhBackward0" and float(node._saved_min_val) != 0:
        raise UnsupportedError("guided backpropagation is defined for ReLU and this network has hard tanh")
    if name == "ThresholdBackward0":
        raise UnsupportedError("guided backpropagation is defined for ReLU and this network has a threshold")


def _first_not_finite(network: nn.Module, images: Tensor) -> str:
    """Run again with an eye on every layer and say which was the first to give NaN or Inf."""
    found: list[str] = []
    if not torch.isfinite(images).all():
        return "the images hold NaN or Inf"

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not all(torch.isfinite(t).all() for t in tensors_in(output) if t.is_floating_point()):
                found.append(name or type(module).__name__)

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in network.named_modules()]
    try:
        with eval_mode(network), torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    first = found[0] if found else "an operation outside its layers"
    return f"the network's output holds NaN or Inf, first made by layer '{first}'"
