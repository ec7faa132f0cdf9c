"""Exported edits back on the model that they were made on, in plain transformers code.

model = AutoModelForCausalLM.from_pretrained(...)
with load_adaptor(model, "exported/demo"):
    model.generate(...)                                        # edited
model.generate(...)                                            # plain again

    exported/demo/
      adapter_model.safetensors    what answers, and nothing else
      adapter_config.json          method, settings, base model with its fingerprint
      README.md                    the model card
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..editors import ConfigError, Editor, by_name
from ..editors.base import tensors_of
from ..edits import CalibrationFact, Edit, EditStream
from ..host import Host
from ..host.surroundings import ordinary
from .folders import RunError, file_hash, recover

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = 1
TENSORS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"

# Editors attach to a stream; one that only answers learns nothing from it.
NO_STREAM = EditStream.from_edits(
    [Edit(id="none", prompt="none", target="none")],
    batch_size=1,
    calibration=(CalibrationFact(subject="none", relation="none", prompts=("none",)),),
)


class EditedModel(BaseModel):
    """The model that was edited: what it is called, what it is, and the hash of its weights."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    name: str
    architecture: str
    dtype: str
    fingerprint: str

    @classmethod
    def of(cls, host: Host) -> EditedModel:
        """The host as it is now; of a local folder only the last part of its path."""
        path = Path(host.name)
        local = path.is_absolute() or path == host.folder
        return cls(
            name=path.resolve().name if local else host.name,
            architecture=type(host.model).__name__,
            dtype=str(host.model.dtype).removeprefix("torch."),
            fingerprint=host.fingerprint(),
        )

    def __str__(self) -> str:
        return f"{self.name!r} ({self.architecture}, {self.dtype}, {self.fingerprint[:12]})"


class ExportConfig(BaseModel):
    """What stands in ``adapter_config.json``.

    ``method`` and ``settings`` name the editor, ``layer`` is the lowest layer it changes;
    ``experts`` is 0 and ``routing`` None of methods without an adaptor. ``changed_tensors`` names
    the weights of the base model that are replaced, none if the edits stand beside them.
    ``encoding`` holds ``chat``, ``joint`` and ``stop_token`` of the host, where they were given.
    """

    model_config = ConfigDict(frozen=True)

    library: Literal["lemoe_lab"] = "lemoe_lab"
    format_version: int = FORMAT
    task_type: str = "CAUSAL_LM"
    base_model_name_or_path: str
    base_model: EditedModel
    method: str
    name: str
    settings: dict
    layer: int
    changed_tensors: tuple[str, ...]
    experts: int
    routing: str | None
    edits: int
    batches: int
    order: str
    tensors_sha256: str
    encoding: dict[str, str | int] = {}


class LoadedAdaptor:
    """Exported edits on a transformers model, until :meth:`detach` or the end of a ``with`` block.

    Attributes
    ----------
    model
        The model that was given to :func:`load_adaptor`; it answers edited.
    host
        The same model with its tokenizer as LEMoE Lab sees it: ``host.generate``, ``host.score``.
    config
        What the folder says of the edits.
    """

    def __init__(self, host: Host, config: ExportConfig, undo: ExitStack) -> None:
        self.host, self.config = host, config
        self._undo = undo
        self._attached = True

    @property
    def model(self) -> PreTrainedModel:
        return self.host.model

    def detach(self) -> None:
        """Give the model back as it was, bit for bit; detaching again does nothing."""
        self._undo.close()
        self._attached = False

    def __enter__(self) -> LoadedAdaptor:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        config = self.config
        experts = f", {config.experts} experts" if config.experts else ""
        return (
            f"LoadedAdaptor({config.name} on {config.base_model.name}, layer {config.layer}: "
            f"{config.edits} edits in {config.batches} batches{experts}"
            f"{'' if self._attached else '; detached'})"
        )


def load_adaptor(
    model: PreTrainedModel,
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **parts: str | int | bool,
) -> LoadedAdaptor:
    """Put exported edits onto the model that they were made on.

    ``model.generate`` and pipelines then answer as the session's host did: batches padded on the
    left, sampling and beams included, in every way of decoding that
    :class:`~lemoe_lab.host.hooks.PromptGate` names.

    There is no ``merge``: which expert answers, if any, depends on the prompt, so no single weight
    matrix gives the same answers, and inputs that take the plain model would lose bits. (Of methods
    that overwrite weights the loaded model is the merged one: ``model.save_pretrained`` writes it.)

    Parameters
    ----------
    model
        From ``AutoModelForCausalLM.from_pretrained``, on its device already. It is in evaluation
        mode, its weights frozen, until the edits are detached.
    path
        A folder that ``session.export`` wrote.
    tokenizer
        Of the model; None: the one saved beside it on this machine.
    parts
        ``layers``, ``ffn`` and ``final_norm`` of a model with unusual names, as for
        :func:`lemoe_lab.load_host`. ``adaptor.host`` asks inside the chat template that the edits
        were made with; for ``model.generate`` apply it to your prompts.

    Raises
    ------
    RunError
        If the folder is none of ours, damaged, or of a newer format.
    ValueError
        If the model is not the one that was edited, or has no tokenizer beside it.
    RuntimeError
        If the model carries edits already.
    """
    from transformers import PreTrainedModel  # takes a second, which only who loads pays

    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"load_adaptor takes a transformers model, not a {type(model).__name__}; "
            "of a LEMoE Lab host pass host.model"
        )
    folder = Path(path)
    config = read_config(folder)
    state = _read_tensors(folder, config)
    if tokenizer is None:
        tokenizer = _own_tokenizer(model)
    with ExitStack() as undo:
        undo.enter_context(_restored_modes(model))
        name = model.name_or_path or config.base_model.name
        host = Host(model, tokenizer, name, **(config.encoding | parts))
        if difference := host.encoding.difference(config.encoding):
            raise ValueError(f"{folder} {difference}; leave chat, joint and stop_token out")
        _require_plain(host)
        _require_same(host, config, folder)
        try:
            undo.callback(_apply(host, config, state))
        except RunError:
            raise
        except (KeyError, RuntimeError) as error:
            raise RunError(
                f"{folder}: its tensors do not fit its settings ({error}); export it again"
            ) from error
        return LoadedAdaptor(host, config, undo.pop_all())


def read_config(folder: Path) -> ExportConfig:
    """What ``adapter_config.json`` says; :class:`RunError` if it is not ours, damaged or newer."""
    recover(folder)
    path = folder / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"{folder} holds no exported edits: {CONFIG} cannot be read ({error.strerror}); "
            "pass a folder that session.export(path) wrote"
        ) from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}; export it again") from error
    if not isinstance(raw, dict) or raw.get("library") != "lemoe_lab":
        raise RunError(
            f"{folder} was not written by LEMoE Lab ({CONFIG} says nothing of it); "
            "an adapter of PEFT is loaded with PEFT"
        )
    version = raw.get("format_version")
    if isinstance(version, int) and version > FORMAT:
        raise RunError(
            f"{folder} has format {version}, and this LEMoE Lab reads formats up to {FORMAT}; "
            "install a newer one"
        )
    try:
        return ExportConfig.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RunError(f"{path} is damaged: {problems}; export it again") from error


def _read_tensors(folder: Path, config: ExportConfig) -> dict[str, Tensor]:
    path = folder / TENSORS
    try:
        if file_hash(path) != config.tensors_sha256:
            raise ValueError("its content is not what was exported")
        return load_file(path)
    except Exception as error:
        raise RunError(
            f"{path} is damaged or missing ({error}); copy or export it again"
        ) from error


def _own_tokenizer(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(model.name_or_path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no tokenizer lies beside the model {model.name_or_path!r}; pass tokenizer="
        ) from error


def _require_plain(host: Host) -> None:
    try:
        host.require_free()
    except RuntimeError as error:
        raise RuntimeError(
            "this model carries edits already, and two sets of them would mix; detach the loaded "
            "adaptor or close the session first, or load the model once more"
        ) from error


def _require_same(host: Host, config: ExportConfig, folder: Path) -> None:
    edited, given = config.base_model, EditedModel.of(host)
    if given.fingerprint == edited.fingerprint:
        return
    advice = "load the model that was edited, with no other edits on it"
    if given.dtype != edited.dtype:
        advice += f", in its own precision (dtype={edited.dtype!r})"
    raise ValueError(f"{folder} edits {edited}, and this model is {given}; {advice}")


def _apply(host: Host, config: ExportConfig, state: dict[str, Tensor]) -> Callable[[], None]:
    """Let the host answer edited; the result takes that back."""
    device = host.device
    if weights := tensors_of(state, "weights", device):
        return _exchange(host, config, weights)
    editor = _editor(config)
    editor.attach(host, NO_STREAM, tensors_of(state, "calibration", device))
    try:
        latest = tensors_of(state, "latest", device)
        added = any(name.startswith("step") for name in state)
        with ordinary(host.model):
            for step in range(1, config.batches + 1 if added else 2):
                editor.load_step_state(step, latest | tensors_of(state, f"step{step:04d}", device))
    except BaseException:
        editor.detach()
        raise
    return editor.detach


def _editor(config: ExportConfig) -> Editor:
    try:
        kind = by_name(config.method)
    except ConfigError as error:
        raise RunError(f"the edits need an editor that is not here: {error}") from error
    return kind(**config.settings)


def _exchange(host: Host, config: ExportConfig, weights: dict[str, Tensor]) -> Callable[[], None]:
    """Put weights in the place of the model's; the result puts the model's back."""
    host.claim(config)
    parameters = dict(host.model.named_parameters())
    originals = {name: parameters[name].data for name in weights}

    def point_at(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            parameters[name].data = tensor.to(parameters[name].device)

    def undo() -> None:
        point_at(originals)
        host.release()

    point_at(weights)
    return undo


@contextmanager
def _restored_modes(model: PreTrainedModel) -> Iterator[None]:
    """Bring training mode and trainable parameters back at the end."""
    training = model.training
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        model.train(training)
        for parameter in trainable:
            parameter.requires_grad_(True)
