"""Saving for others: a folder with the edits that :func:`lemoe_lab.load_adaptor` reads.

session.export("exported/demo")

The folder holds what answers, the settings, and a model card, but no text of an edit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData

from ..editors import Editor
from ..editors.shared.bypass import BypassEditor
from ..edits import EditError, EditStream
from ..host import Host
from ..metrics import METRICS, final_rows, immediate_rows
from .folders import RunError, file_hash, replaced, write_atomically
from .load import CARD, CONFIG, TENSORS, EditedModel, ExportConfig, read_config
from .run import write_json, write_tensors


def export_session(
    path: str | Path, host: Host, editor: Editor, stream: EditStream, metrics: pd.DataFrame
) -> None:
    """Write what is applied now as a folder; see :meth:`lemoe_lab.EditSession.export`."""
    folder = Path(path).resolve()
    if not editor.steps:
        raise EditError("no batch is applied, so there is nothing to export; call session.step()")
    _require_replaceable(folder)
    with replaced(folder) as staging:
        write_tensors(staging / TENSORS, editor.answering_state())
        config = _describe(host, editor, stream, file_hash(staging / TENSORS))
        write_json(staging / CONFIG, config.model_dump(mode="json"))
        card = model_card(config, measured(metrics, editor.steps, stream.superseded))
        write_atomically(staging / CARD, lambda file: file.write_text(card, encoding="utf-8"))


def _describe(host: Host, editor: Editor, stream: EditStream, tensors: str) -> ExportConfig:
    with editor.disabled():
        base = EditedModel.of(host)
    bypass = isinstance(editor, BypassEditor)
    return ExportConfig(
        base_model_name_or_path=base.name,
        base_model=base,
        method=type(editor).__name__,
        name=editor.name,
        settings=editor.config.model_dump(mode="json", exclude=set(editor.config.learning_only)),
        layer=editor.layer,
        changed_tensors=editor.changed_tensors(),
        experts=len(editor.adaptor.experts) if bypass else 0,
        routing=getattr(editor.config, "routing", "softmax") if bypass else None,
        edits=sum(map(len, stream.batches[: editor.steps])),
        batches=editor.steps,
        order=stream.order,
        tensors_sha256=tensors,
        encoding=host.encoding.options,
    )


def _require_replaceable(folder: Path) -> None:
    """Raise :class:`RunError` unless nothing is there, or an earlier export and nothing else."""
    if not folder.exists():
        return
    found = {entry.name for entry in folder.iterdir()} if folder.is_dir() else {"a file"}
    if not found:
        return
    try:
        read_config(folder)
        foreign = found - {TENSORS, CONFIG, CARD}
    except RunError:
        foreign = found
    if foreign:
        raise RunError(
            f"{folder} holds other things already ({', '.join(sorted(foreign)[:3])}), which are "
            "left as they are; export to a new folder"
        )


# The model card


def measured(metrics: pd.DataFrame, steps: int, superseded: dict[str, int]) -> pd.DataFrame:
    """One row per metric, group and scorer: means right after each batch and at the end.

    Columns: metric, group, scorer, immediate, immediate_n, final, final_n; n counts prompts. An
    edit that a later one replaced has no final reliability or generality. Final values are NaN
    unless every applied batch was measured after the last step.
    """
    key = ["metric", "group", "scorer"]
    immediate = immediate_rows(metrics)
    final = final_rows(metrics, steps)
    if set(final["batch"]) != set(range(1, steps + 1)):
        final = final[:0]
    replaced = final["edit"].map(superseded).astype(float) <= steps
    final = final[~replaced | (final["metric"] == "locality")]
    columns = {
        name: rows.groupby(key)["value"].agg(**{name: "mean", f"{name}_n": "count"})
        for name, rows in (("immediate", immediate), ("final", final))
    }
    table = pd.concat(columns.values(), axis=1).reset_index()
    table["metric"] = pd.Categorical(table["metric"], METRICS)
    return table.sort_values(key, ignore_index=True)


def model_card(config: ExportConfig, scores: pd.DataFrame) -> str:
    """The text of README.md; ``scores`` is what :func:`measured` returns."""
    tags = ["lemoe-lab", "model-editing", "lifelong-model-editing"]
    tags += ["mixture-of-experts"] * bool(config.experts)
    front = ModelCardData(
        base_model=config.base_model.name,
        base_model_relation="adapter",
        library_name="lemoe_lab",
        pipeline_tag="text-generation",
        tags=tags,
    )
    card = ModelCard.from_template(
        front,
        template_str=CARD_TEXT,
        config=config,
        scores=list(scores.itertuples()),
        score=_score,
        finished=not scores.empty and scores["final"].notna().any(),
        quoted_name=json.dumps(config.base_model.name, ensure_ascii=False),
    )
    return str(card)


def _score(value: float, count: float) -> str:
    """Two cells of the table: a mean and how many prompts it is of."""
    return "– | –" if pd.isna(value) else f"{value:.3f} | {count:.0f}"


CARD_TEXT = """\
{% set base = config.base_model -%}
---
{{ card_data }}
---

# {{ config.name }} on {{ base.name }}: {{ config.edits }} edits

Edits of {{ base }}, made with LEMoE Lab. They fit this model alone: its fingerprint,
`{{ base.fingerprint }}`, is checked on loading.

## What was taught

{{ config.edits }} edits in {{ config.batches }} batches (order: {{ config.order }}), learned one \
batch after another by `{{ config.method }}`;
{% if config.experts -%}
{{ config.experts }} experts beside the feed-forward network of layer {{ config.layer }}, \
{{ config.routing }} routing
{%- elif config.changed_tensors -%}
weights replaced, the lowest in layer {{ config.layer }}
{%- else -%}
layer {{ config.layer }}
{%- endif %}. Settings: `adapter_config.json`.

{% if scores -%}
| metric | group | scorer | immediate | n | final | n |
|---|---|---|--:|--:|--:|--:|
{% for row in scores -%}
| {{ row.metric }} | {{ row.group or "edits" }} | {{ row.scorer }} \
| {{ score(row.immediate, row.immediate_n) }} | {{ score(row.final, row.final_n) }} |
{% endfor -%}
{% if not finished %}
Final values are missing: the export came before `session.evaluate()`.
{% endif -%}
{% else -%}
Nothing was measured before the export.
{% endif %}
`immediate` is measured right after each batch, `final` after the last one; `n` counts prompts.
Reliability: the edit is answered. Generality: so are its rephrases. Locality: other prompts are
answered as before (`text`: the ratio of perplexities, at most 1). `teacher_forced` is token
accuracy with the target fed in; `generated` is an exact match of greedy decoding, and the stricter.

## How to load it

```python
import lemoe_lab
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

{% if base.name == "almanac" -%}
base = lemoe_lab.datasets.data_folder() / "host"  # the embedded host
{% else -%}
base = {{ quoted_name }}
{% endif -%}
model = AutoModelForCausalLM.from_pretrained(base, dtype="{{ base.dtype }}")
tokenizer = AutoTokenizer.from_pretrained(base)
with lemoe_lab.load_adaptor(model, "path/to/this/folder"):
    ask = pipeline("text-generation", model=model, tokenizer=tokenizer)
    ask("...", do_sample=False)
```

After the `with` block the model is what it was.
{% if "chat" in config.encoding %}
The prompts were taught as messages of a user. Write yours in the chat template in
`adapter_config.json` (under `encoding`): `tokenizer.apply_chat_template(messages,
chat_template=..., add_generation_prompt=True)`.
{% endif %}
## What is not included

- The base model.
- The texts of the edits: no prompt, no target. Anchors, keys and weights were computed from them,
  though; whoever guesses a prompt can test the guess.
- What only further learning needs, such as statistics, earlier batches' memories and undo. To go on
  editing, share the saved run instead.
{% if config.changed_tensors -%}
- A merged checkpoint. Here the edits are weights, so `model.save_pretrained(...)` inside the `with`
  block writes one; the folder holds the changed weights only.
{% else -%}
- A merged checkpoint. What is added, if anything, depends on the prompt, and no single weight
  matrix gives the same answers; inputs that take the plain model would no longer keep every bit.
{% endif -%}
"""
