"""Choosing the backend of a network: the first in a chain of candidates that works and agrees.

A candidate that fails to build, compile or agree is logged, skipped and named in the reason that
`choose_backend` returns. A device or backend that the caller named is never replaced: if it does
not work, that is an error.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch

from model.backends.agreement import disagreement
from model.backends.base import Backend, BackendOptions
from model.backends.build import Candidate, Network, build_backend
from model.backends.determinism import Proof, prove
from model.backends.torch import (
    choose_device,
    fastest_precision,
    visible_devices,
)
from model.errors import CheckpointError, ModelError
from model.metadata.quantisation import Quantisation
from model.scores import Logits, Scores

MAX_REASON = 200  # characters quoted from an error
INT8 = "int8"

logger = logging.getLogger(__name__)


class Choice(NamedTuple):
    """A backend, the reason for its choice, and its proof in deterministic mode."""

    backend: Backend
    reason: str
    proof: Proof | None = None


def choose_backend(
    network: Network,
    image_size: int,
    expected: Scores,
    options: BackendOptions,
    overhead: Callable[[], float] | None = None,
    embeddings: Logits | None = None,
    quantisation: Quantisation | None = None,
) -> Choice:
    """The first candidate that works and agrees with 32-bit PyTorch, in order of expected speed.

    Args:
        network: builds a new network for each candidate: pixels ``(b, h, w, 3)`` as bytes to logits
            ``(b, classes)``, in 32 bits on the CPU. Its first step takes the bytes.
        image_size: pixels per side.
        expected: probabilities ``(b, classes)`` of `self_test_images` by 32-bit PyTorch.
        overhead: measures the CPU seconds that an image takes outside the network, if that work
            runs on the same cores.
        embeddings: of `self_test_images` by 32-bit PyTorch, if the network's outputs end with them.
        quantisation: of the checkpoint; the network then runs in integers, unless the options name
            another precision.

    Raises:
        CheckpointError: the network cannot be built.
        ModelError: a named device or backend is not available, or no candidate works.
    """
    refused: list[str] = []
    if quantisation and options.precision == "auto":
        options = _in_int8(options)
    for device in _devices(options, refused):
        if options.compile and device.type != "cuda":
            refused.append(_without_compiling(options, device))
        for candidate in _candidates(options, device, quantisation):
            build = partial(build_backend, candidate, network, image_size, options, overhead)
            check = partial(disagreement, expected=expected, tolerances=candidate.tolerances)
            check = partial(check, image_size=image_size, embeddings=embeddings)
            found = _attempt(build, check, image_size, options)
            if not isinstance(found, str):
                reasons = (_first_reason(options, candidate), *refused, found.reason)
                return found._replace(reason="; ".join(reasons))
            logger.warning("backend %s is not used: %s", candidate, found)
            refused.append(f"not {candidate}: {found}")
    raise ModelError(f"no backend can run this model: {'; '.join(refused)}")


def _attempt(
    build: Callable[[], Backend],
    check: Callable[[Backend], str | None],
    image_size: int,
    options: BackendOptions,
) -> Choice | str:
    """The backend, or why it cannot be used; a rejected backend leaves no memory behind."""
    try:
        backend = build()
        if fault := check(backend):
            return fault
        agrees = "agrees with 32-bit PyTorch"
        if not options.deterministic:
            return Choice(backend, agrees)
        proof = prove(backend, image_size, options.largest_batch)
        if isinstance(proof, str):
            return f"not deterministic: {proof}"
        return Choice(backend, f"{agrees}; {proof}", proof)
    except CheckpointError:
        raise  # no other backend would help
    except Exception as error:
        logger.debug("a backend failed", exc_info=error)
        return describe(error)


def describe(error: Exception) -> str:
    """An error on one line of bounded length."""
    line = next(filter(None, map(str.strip, str(error).splitlines())), "")
    if not isinstance(error, ModelError | RuntimeError | OSError | ImportError) or not line:
        line = f"{type(error).__name__}: {line}".rstrip(": ")
    return line if len(line) <= MAX_REASON else f"{line[:MAX_REASON]}…"


def openvino_is_installed() -> bool:
    return find_spec("openvino") is not None


def _devices(options: BackendOptions, refused: list[str]) -> Iterator[torch.device]:
    """The named device, or all visible devices; those that fail are added to ``refused``."""
    if options.device != "auto":
        yield choose_device(options.device)
        return
    if options.backend == "openvino":
        yield torch.device("cpu")
        return
    for name in visible_devices():
        try:
            device = choose_device(name)
        except ModelError as error:
            logger.warning("%s", error)
            refused.append(describe(error))
        else:
            yield device


def _in_int8(options: BackendOptions) -> BackendOptions:
    """The options for a quantised checkpoint; raises `ModelError` if they name another backend."""
    named = [
        name
        for name, served in ((options.backend, "openvino"), (options.device, "cpu"))
        if name not in {"auto", served}
    ]
    if named:
        raise ModelError(
            f"the checkpoint is quantised to int8, which openvino on cpu runs, not "
            f"{' on '.join(named)}; set backend to openvino, or set precision to float32, bfloat16 "
            "or float16 to run the original weights"
        )
    return replace(options, backend="openvino", device="cpu", precision=INT8)


def _candidates(
    options: BackendOptions, device: torch.device, quantisation: Quantisation | None
) -> Iterator[Candidate]:
    """The candidates for a device, in order of expected speed."""
    names = _names(options, device)
    if options.precision == INT8:
        yield Candidate("openvino", device, INT8, quantisation)
        return
    precision = fastest_precision(device) if options.precision == "auto" else options.precision
    precisions = dict.fromkeys((precision, "float32"))
    for name in names:
        yield from (Candidate(name, device, precision) for precision in precisions)


def _names(options: BackendOptions, device: torch.device) -> tuple[str, ...]:
    if options.backend == "openvino":
        if device.type != "cpu":
            raise ModelError(f"backend openvino runs on cpu, not on {device}")
        if not openvino_is_installed():
            raise ModelError(
                "backend openvino is not installed: pip install 'xcit-serve[openvino]'"
            )
        return ("openvino",)
    if device.type == "cuda":
        compiled = ("torch-compile-cudagraphs",) if options.compile else ()
        return *compiled, "torch-cudagraphs", "torch"
    if device.type == "cpu" and options.backend == "auto" and openvino_is_installed():
        return "openvino", "torch"
    return ("torch",)


def _without_compiling(options: BackendOptions, device: torch.device) -> str:
    """The reason why the network is not compiled; raises `ModelError` if a GPU was ruled out."""
    if options.backend == "openvino":
        raise ModelError("compile needs PyTorch on a CUDA device; the backend is openvino")
    if options.device != "auto":
        raise ModelError(f"compile needs a CUDA device; the device is {device}")
    reason = f"compile is for a CUDA device and has no effect on {device}"
    logger.warning("%s", reason)
    return reason


def _first_reason(options: BackendOptions, chosen: Candidate) -> str:
    """The first part of the reason for a choice."""
    if chosen.precision == INT8:
        return "the checkpoint is quantised"
    if options.backend != "auto":
        return f"{options.backend} was requested"
    if chosen.device.type == "cpu" and not openvino_is_installed():
        return "openvino is not installed"
    return f"first choice on {chosen.device.type}"
